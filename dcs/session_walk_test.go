package dcs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// walker is one member that contends for a lock over a network that loses answers and
// delivers late.
type walker struct {
	b  *bench
	c  *settling
	r  *rand.Rand
	st *Store
}

// walk records the members' holds and checks them.
type walk struct {
	mu    sync.Mutex
	holds []*Hold
	last  Revision
	taken int
}

func (w *walk) took(b *bench, h *Hold) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if h.Token() <= w.last {
		b.Errorf("token %d after %d", h.Token(), w.last)
	}
	w.last = h.Token()
	w.holds = append(w.holds, h)
	w.taken++
}

// check is called continually. At most one Hold is Valid, and it has its key.
func (w *walk) check(b *bench) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var valid *Hold
	live := w.holds[:0]
	for _, h := range w.holds {
		if !h.Valid() {
			continue
		}
		live = append(live, h)
		if e, _ := b.w.get(h.Key()); h.Valid() && e.Created != h.Token() {
			b.Errorf("token %d is Valid, the store has %+v", h.Token(), e)
		}
		if valid != nil && valid.Valid() && h.Valid() {
			b.Errorf("tokens %d and %d are both Valid", valid.Token(), h.Token())
		}
		valid = h
	}
	w.holds = live
}

func (k *walker) chance(percent int) bool {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	return k.r.IntN(100) < percent
}

func (k *walker) some(most time.Duration) time.Duration {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	return time.Duration(k.r.Int64N(int64(most)))
}

func (k *walker) commit(ctx context.Context, _ Txn, do func() (Revision, error)) (Revision, error) {
	u := &ambiguousCommit{do: do}
	time.Sleep(k.some(20 * time.Millisecond))
	switch {
	case ctx.Err() != nil, k.chance(5):
		return 0, errDown()
	case k.chance(8): // the answer is lost
		_ = u.land()
		return 0, u.err()
	case k.chance(8): // the request is late
		time.AfterFunc(k.some(40*time.Second), func() { _ = u.land() })
		return 0, u.err()
	}
	return do()
}

func (k *walker) renew(ctx context.Context, _ LeaseID, do func() (Renewal, error)) (Renewal, error) {
	switch {
	case k.chance(5):
		<-ctx.Done()
		return Renewal{}, ctx.Err()
	case k.chance(10):
		r, err := do()
		time.Sleep(k.some(40 * time.Second)) // the answer is late and still true
		return r, err
	case k.chance(60):
		time.Sleep(k.some(time.Second))
		return Renewal{}, errDown()
	}
	return do()
}

// trouble comes and goes.
func (k *walker) trouble(ctx context.Context) {
	for ctx.Err() == nil {
		renew, blocked := k.chance(40), k.chance(30)
		k.c.hook(func() {
			k.c.onRenew, k.c.blocked = nil, blocked
			if renew {
				k.c.onRenew = k.renew
			}
		})
		rest(ctx, k.some(40*time.Second))
	}
	k.c.hook(func() { k.c.onRenew, k.c.onCommit, k.c.blocked = nil, nil, false })
}

func rest(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// go acquires the lock, uses it and releases it, repeatedly.
func (k *walker) run(ctx context.Context, w *walk) {
	for ctx.Err() == nil {
		s, err := k.st.NewSession(ctx, SessionOptions{})
		if err != nil {
			rest(ctx, time.Second)
			continue
		}
		for range 5 {
			call, cancel := context.WithTimeout(ctx, k.some(60*time.Second))
			h, err := s.Acquire(call, "leader", nil)
			cancel()
			if err == nil {
				w.took(k.b, h)
				k.use(ctx, s, h)
			} else if s.Err() == nil && errors.Is(err, ErrLost) {
				k.b.Errorf("lost, although the session goes on: %v", err)
			}
			if s.Err() != nil || ctx.Err() != nil {
				break
			}
		}
		_ = s.Close(context.WithoutCancel(ctx))
	}
}

func (k *walker) use(ctx context.Context, s *Session, h *Hold) {
	for range 5 {
		rest(ctx, k.some(5*time.Second))
		if k.chance(50) {
			_ = h.Confirm(ctx)
		}
		if k.chance(30) {
			_ = h.Update(ctx, []byte("value"))
		}
		if k.chance(30) {
			_, _ = s.Publish(ctx, "members/"+string(s.Lease()), []byte{byte(k.some(3))})
		}
		if errors.Is(h.Err(), ErrLost) && s.Err() == nil {
			k.b.Errorf("lost, although no other member took the lock: %v", h.Err())
		}
	}
	if k.chance(80) {
		_ = h.Release(ctx)
	}
}

// walkFor lets three members contend for the lock for d, with late and lost requests,
// failing renewals and moves from lease to lease. No two Holds are ever Valid at the
// same moment, none is Valid without its key, tokens rise, and no member is blocked at
// the end.
func walkFor(b *bench, seed uint64, d time.Duration) {
	ctx, cancel := context.WithTimeout(b.Context(), d)
	defer cancel()
	w := &walk{}
	var work sync.WaitGroup
	for i := range uint64(3) {
		k := &walker{b: b, r: rand.New(rand.NewPCG(seed, i))}
		k.c = &settling{client: &client{w: b.w, rebind: seed%2 == 0}}
		k.c.onCommit = k.commit
		k.st = b.store(k.c)
		work.Go(func() { k.trouble(ctx) })
		work.Go(func() { k.run(ctx, w) })
	}
	for ctx.Err() == nil {
		time.Sleep(100 * time.Millisecond)
		w.check(b)
	}
	work.Wait()
	time.Sleep(time.Minute) // late requests
	s := b.plain()
	last, end := context.WithTimeout(b.Context(), 2*time.Minute)
	defer end()
	h, err := s.Acquire(last, "leader", nil)
	b.must(err)
	w.took(b, h)
	b.close(s)
	if w.taken < int(d/time.Minute) {
		b.Errorf("only %d holds in %v", w.taken, d)
	}
}

func TestSessionRandomWalk(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			inTime(t, func(b *bench) { walkFor(b, seed, 20*time.Minute) })
		})
	}
}
