package memstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// A random walk over the methods of Session and Hold. Two sessions contend for a lock and
// a member key, and each has a lock and a member key of its own. Copies and markers are
// lost, leases get shorter lives, logs block, and callbacks call back. The referee makes
// the same checks as in every walk, and checks that no refused value is ever applied.

func TestSessionWalk(t *testing.T) {
	walkSeeds(t, sessionWalk, func(did *tally, tb testing.TB) {
		if did.steps > 5000 && min(did.holds, did.ended, did.yes, did.refused, did.ambiguous) == 0 {
			tb.Errorf("the walk did not produce every answer: %s", did)
		}
	})
}

func sessionWalk(t *testing.T, seed uint64) (faults []string, did tally) {
	bubble.Test(t, func(*testing.T) {
		w := newWorld(seed)
		p := &pressure{world: w, blocked: w.rng.IntN(4) == 0, free: make(chan struct{})}
		var writers []*writer
		for range 2 {
			writers = append(writers, p.join())
		}
		start := time.Now()
		w.run(p.injectFaults)
		for _, k := range writers {
			k.seen.Store(nil)
			k.judge()
		}
		time.Sleep(10 * time.Second) // for a callback that sleeps; any other goroutine fails the test
		w.ref.did.virtual = time.Since(start)
		faults, did = w.ref.faults, w.ref.did
	})
	return faults, did
}

// pressure adds faults to those of a world that concern only its sessions.
type pressure struct {
	*world
	blocked bool          // logs and callbacks block until the faults end
	free    chan struct{} // closed when the faults end
}

func (p *pressure) injectFaults() {
	p.injectAtRandom(500, func(n *nemesis) {
		switch i := p.rng.IntN(80); {
		case i == 0:
			p.s.Down()
			p.pause(4000)
			p.s.Up()
		case i == 1:
			p.endSomeLease()
		case i == 2:
			p.takeAway(walkKeys[0])
		case i < 6:
			p.s.LimitTTL(time.Duration(4+p.rng.IntN(7)) * time.Second)
		case i == 6:
			p.s.LimitTTL(0)
		case i < 9:
			n.release()
		case i < 40:
			p.loseMarkers()
		default:
			n.add(p.disturb())
		}
	})
	close(p.free)
}

// join adds a program that uses a Session, with a log that may block and with callbacks
// that call the session, close it, or panic.
func (p *pressure) join() *writer {
	k := &writer{p: p, rng: rand.New(rand.NewPCG(p.seed, uint64(len(p.actors)+100)))}
	k.actor = p.world.join(dcs.Options{
		Logger:   slog.New(pressedHandler{p: p}),
		Observer: dcs.Observer{Renewal: p.ref.renewed, State: k.observe},
	})
	k.step = k.sessionStep
	return k
}

// pressedHandler is a log handler that blocks while p blocks.
type pressedHandler struct{ p *pressure }

func (pressedHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h pressedHandler) WithAttrs([]slog.Attr) slog.Handler     { return h }
func (h pressedHandler) WithGroup(string) slog.Handler          { return h }
func (h pressedHandler) Handle(context.Context, slog.Record) error {
	if h.p.blocked {
		<-h.p.free
	}
	return nil
}

// write is one value of a write call. No value is written twice.
type write struct {
	op, key, value string
	err            error
}

// writer is a program that uses a Session, step by step.
type writer struct {
	*actor
	p      *pressure
	writes []write
	seen   atomic.Pointer[dcs.Session] // the session, for the callbacks

	mu  sync.Mutex
	rng *rand.Rand // of the callbacks
}

func (k *writer) draw(n int) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rng.IntN(n)
}

// observe is a callback that also calls the session, closes it, or panics.
func (k *writer) observe(dcs.StateEvent) {
	s := k.seen.Load()
	if s == nil {
		return
	}
	switch n := k.draw(40); {
	case n < 20:
		_, _, _, _ = s.Err(), s.State(), s.Deadline(), s.Granted()
	case n < 24:
		time.Sleep(time.Duration(k.draw(3000)) * time.Millisecond)
	case n < 26:
		_, _ = k.store.Get(context.Background(), walkKeys[0])
	case n == 26:
		_ = s.Close(context.Background())
	case n == 27:
		panic("a callback that is broken")
	case n == 28 && k.p.blocked:
		<-k.p.free
	}
}

// sessionStep calls a random method of the session or of one of its holds.
func (k *writer) sessionStep() {
	if k.session == nil || k.session.Err() != nil {
		k.begin()
		return
	}
	lock := [2]string{walkKeys[0], "own/" + k.name}[k.actor.rng.IntN(2)]
	member := [2]string{"members/x", "members/" + k.name}[k.actor.rng.IntN(2)]
	if k.actor.rng.IntN(12) == 0 { // like a program that mixes lock keys and member keys up
		lock, member = member, lock
	}
	switch k.actor.rng.IntN(20) {
	case 0, 1, 2, 3:
		k.acquire(lock, k.actor.rng.IntN(2) == 0)
	case 4, 5:
		k.update(lock)
	case 6, 7:
		k.release(lock)
	case 8, 9, 10, 11, 12: // in a row, like a program that hands over and comes back
		k.update(lock)
		k.release(lock)
		k.acquire(lock, true)
	case 13, 14, 15:
		k.publish(member)
	case 16:
		k.confirm(lock)
	case 17:
		if n := len(k.old); n > 0 { // of a Hold that may have ended long ago
			h := k.old[k.actor.rng.IntN(n)]
			_ = k.bounded("Release", h.Release)
			if h.Valid() {
				k.w.ref.fault("%s: Valid after Release of %s", k.name, h.Key())
			}
		}
	case 18:
		k.look(lock)
		k.guarded(lock)
	case 19:
		k.end()
	}
	k.settle()
}

func (k *writer) begin() {
	k.session = nil
	_ = k.bounded("NewSession", func(ctx context.Context) error {
		s, err := k.store.NewSession(ctx, dcs.SessionOptions{})
		if err == nil {
			k.session = s
			k.seen.Store(s)
		}
		return err
	})
}

// end closes the session, sometimes with a context that has ended.
func (k *writer) end() {
	s := k.session
	k.session = nil
	clear(k.holds)
	_ = k.bounded("Session.Close", func(ctx context.Context) error {
		if k.actor.rng.IntN(3) == 0 {
			ended, cancel := context.WithCancel(ctx)
			cancel()
			ctx = ended
		}
		return s.Close(ctx)
	})
}

// value returns a value that was never written.
func (k *writer) value(op string) string {
	k.n++
	return fmt.Sprintf("%s %s %d", op, k.name, k.n)
}

func (k *writer) acquire(key string, wait bool) {
	if k.live1(key) != nil {
		return
	}
	value, before, asked := k.value("acquired"), k.w.ref.highest(key), time.Now()
	var h *dcs.Hold
	var err error
	if wait {
		limit := time.Duration(k.actor.rng.IntN(8000)) * time.Millisecond
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		h, err = k.session.Acquire(ctx, key, []byte(value))
		cancel()
		if took := time.Since(asked); took > limit+100*time.Millisecond {
			k.w.ref.fault("%s: Acquire came back after %v of %v: %v", k.name, took, limit, err)
		}
	} else {
		err = k.bounded("TryAcquire", func(ctx context.Context) (err error) {
			h, err = k.session.TryAcquire(ctx, key, []byte(value))
			return err
		})
	}
	if err == nil {
		k.w.ref.acquired(key, h, before, asked)
		k.holds[key] = h
		k.old = append(k.old, h)
	}
	// Otherwise the error is that of the session's end, which does not concern the
	// attempt. Or an outsider may have deleted the key of an attempt whose marker was lost.
	if k.session.Err() == nil && k.w.ref.untouched(key, asked) {
		k.wrote("Acquire", key, value, err)
	}
}

func (k *writer) update(key string) {
	if h := k.live1(key); h != nil {
		value := k.value("updated")
		err := k.bounded("Update", func(ctx context.Context) error { return h.Update(ctx, []byte(value)) })
		k.wrote("Update", key, value, err)
	}
}

func (k *writer) publish(key string) {
	value := k.value("published")
	err := k.bounded("Publish", func(ctx context.Context) error {
		_, err := k.session.Publish(ctx, key, []byte(value))
		return err
	})
	k.wrote("Publish", key, value, err)
}

// look calls the methods that need no store.
func (k *writer) look(key string) {
	_, _, _, _ = k.session.Lease(), k.session.Granted(), k.session.Deadline(), k.session.State()
	h := k.live1(key)
	if h == nil {
		return
	}
	if h.Valid() && (h.Remaining() > k.w.timing.TTL || h.Deadline().Elapsed() > 0) {
		k.w.ref.fault("%s: %v remain of a Hold of %s", k.name, h.Remaining(), key)
	}
	select {
	case <-h.Done():
		if h.Err() == nil || h.Valid() {
			k.w.ref.fault("%s: a Hold of %s is done, and valid or without an error", k.name, key)
		}
	default:
	}
	select {
	case <-k.session.Done():
		if k.session.Err() == nil || h.Valid() {
			k.w.ref.fault("%s: a session is done, and has no error or a valid Hold", k.name)
		}
	default:
	}
}

func (k *writer) wrote(op, key, value string, err error) {
	k.writes = append(k.writes, write{op, key, value, err})
	switch {
	case err == nil:
		k.w.ref.count(&k.w.ref.did.yes)
	case errors.Is(err, dcs.ErrAmbiguous):
		k.w.ref.count(&k.w.ref.did.ambiguous)
	default:
		k.w.ref.count(&k.w.ref.did.refused)
	}
}

// judge compares the answers that the program got with the values that were applied.
func (k *writer) judge() {
	for _, c := range k.writes {
		rev, landed := k.w.ref.values[c.value]
		if landed && c.err != nil && !errors.Is(c.err, dcs.ErrAmbiguous) {
			k.w.ref.fault("%s: %s of %s was refused and landed at %d: %v", k.name, c.op, c.key, rev, c.err)
		}
	}
}
