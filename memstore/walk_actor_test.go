package memstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var errSome = errors.New("something went wrong over there")

// actor is one client, a process that takes random steps.
type actor struct {
	w       *world
	name    string
	store   *dcs.Store
	rng     *rand.Rand
	session *dcs.Session
	holds   map[string]*dcs.Hold
	old     []*dcs.Hold // Holds that have ended
	lease   dcs.Lease
	open    []*entryLog // commits with an unknown outcome
	n       int
	step    func()
}

func newActor(w *world, name string, store *dcs.Store, seed uint64) *actor {
	a := &actor{w: w, name: name, store: store, rng: rand.New(rand.NewPCG(seed, 2)), holds: map[string]*dcs.Hold{}}
	a.step = a.storeStep
	return a
}

// live takes n steps.
func (a *actor) live(n int) {
	for range n {
		time.Sleep(time.Duration(1+a.rng.IntN(400_000)) * time.Microsecond)
		a.w.ref.count(&a.w.ref.did.steps)
		a.step()
		a.w.ref.watchHolds()
	}
}

// bounded runs one call of the store and checks that it returns in time.
func (a *actor) bounded(kind string, f func(ctx context.Context) error) error {
	ctx := context.Background()
	if a.rng.IntN(12) == 0 { // a caller with a short deadline
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(1+a.rng.IntN(1000))*time.Millisecond)
		defer cancel()
	}
	start := time.Now()
	err := f(ctx)
	if took := time.Since(start); took > a.w.timing.RetryTimeout+100*time.Millisecond {
		a.w.ref.fault("%s: %s came back after %v: %v", a.name, kind, took, err)
	}
	return err
}

// storeStep takes a random step of a program that uses a Store and its Sessions.
func (a *actor) storeStep() {
	key := walkKeys[a.rng.IntN(len(walkKeys))]
	switch a.rng.IntN(20) {
	case 0, 1, 2:
		a.commit("plain", nil)
	case 3, 4:
		a.settle()
	case 5, 6, 7:
		a.acquire(key)
	case 8, 9:
		a.guarded(key)
	case 10:
		a.update(key)
	case 11, 12:
		a.release(key)
	case 13:
		a.confirm(key)
	case 14:
		a.bareLease()
	case 15:
		a.leave()
	case 16, 17:
		a.commit("gate", []dcs.Cond{dcs.Absent("gate")})
	case 18, 19:
		a.commit("no gate", nil)
	}
}

// commit writes an entry of the log, under conditions, and a register.
func (a *actor) commit(kind string, conds []dcs.Cond) {
	a.n++
	l := &entryLog{key: fmt.Sprintf("log/%s/%d", a.name, a.n)}
	t := dcs.Txn{If: conds, Then: []dcs.Write{dcs.Put(l.key, []byte(kind)), dcs.Put("register", []byte(l.key))}}
	switch kind { // a condition that fails and holds again, like that of a lock
	case "gate":
		t.Then = append(t.Then, dcs.Put("gate", []byte(l.key)))
	case "no gate":
		t.Then = append(t.Then, dcs.Delete("gate"))
	}
	if kind == "plain" && a.rng.IntN(2) == 0 {
		_ = a.bounded("Get", func(ctx context.Context) error {
			e, err := a.store.Get(ctx, "register")
			if err == nil || errors.Is(err, dcs.ErrNotFound) {
				t.If = append(t.If, dcs.ModifiedAt("register", e.Modified))
			}
			return err
		})
	}
	if kind == "plain" && a.lease != nil && a.rng.IntN(3) == 0 {
		t.Then = append(t.Then, dcs.PutLeased("members/"+a.name, []byte(l.key), a.lease.ID()))
	}
	var rev dcs.Revision
	err := a.bounded("Commit", func(ctx context.Context) (err error) {
		rev, err = a.store.Commit(ctx, t)
		return err
	})
	a.learn(l, rev, err)
}

// learn reports the outcome of l to the referee, and keeps l if that is unknown.
func (a *actor) learn(l *entryLog, rev dcs.Revision, err error) {
	if e := a.w.ref.answered(l, rev, err); e != nil && !e.Fenced {
		l.ambiguous = e
		a.open = append(a.open, l)
	}
}

func (a *actor) settle() {
	if len(a.open) == 0 {
		return
	}
	l := a.open[0]
	a.open = a.open[1:]
	var rev dcs.Revision
	err := a.bounded("Settle", func(ctx context.Context) (err error) {
		rev, err = a.store.Settle(ctx, l.ambiguous)
		return err
	})
	a.w.ref.count(&a.w.ref.did.settled)
	a.learn(l, rev, err)
}

func (a *actor) live1(key string) *dcs.Hold {
	h := a.holds[key]
	if h != nil && h.Err() != nil {
		delete(a.holds, key)
		return nil
	}
	return h
}

func (a *actor) acquire(key string) {
	if a.session == nil || a.session.Err() != nil {
		a.session = nil
		_ = a.bounded("NewSession", func(ctx context.Context) error {
			s, err := a.store.NewSession(ctx, dcs.SessionOptions{})
			if err == nil {
				a.session = s
			}
			return err
		})
		if a.session == nil {
			return
		}
	}
	if a.live1(key) != nil {
		return
	}
	before, asked := a.w.ref.highest(key), time.Now()
	var h *dcs.Hold
	var err error
	if a.rng.IntN(4) == 0 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(a.rng.IntN(8000))*time.Millisecond)
		h, err = a.session.Acquire(ctx, key, []byte(a.name))
		cancel()
	} else {
		err = a.bounded("TryAcquire", func(ctx context.Context) (err error) {
			h, err = a.session.TryAcquire(ctx, key, []byte(a.name))
			return err
		})
	}
	if err == nil {
		a.w.ref.acquired(key, h, before, asked)
		a.holds[key] = h
		a.old = append(a.old, h)
	}
}

// guarded writes under a present or a former hold.
func (a *actor) guarded(key string) {
	h := a.live1(key)
	if n := len(a.old); n > 0 && (h == nil || a.rng.IntN(3) == 0) {
		h = a.old[a.rng.IntN(n)]
	}
	if h != nil {
		a.commit(guardedBy(h), []dcs.Cond{h.Guard()})
	}
}

func guardedBy(h *dcs.Hold) string { return fmt.Sprintf("guarded %s %d", h.Key(), h.Token()) }

func (a *actor) update(key string) {
	if h := a.live1(key); h != nil {
		a.n++
		_ = a.bounded("Update", func(ctx context.Context) error {
			return h.Update(ctx, []byte(fmt.Sprint(a.name, a.n)))
		})
	}
}

func (a *actor) release(key string) {
	if h := a.live1(key); h != nil {
		_ = a.bounded("Release", h.Release)
		if h.Valid() {
			a.w.ref.fault("%s: Valid after Release of %s", a.name, key)
		}
		delete(a.holds, key)
	}
}

func (a *actor) confirm(key string) {
	if h := a.live1(key); h != nil {
		_ = a.bounded("Confirm", h.Confirm)
	}
}

// bareLease grants, renews and revokes a lease without a Session.
func (a *actor) bareLease() {
	if a.lease == nil {
		_ = a.bounded("Grant", func(ctx context.Context) error {
			l, r, err := a.store.Grant(ctx, time.Duration(1+a.rng.IntN(10))*time.Second)
			if err == nil {
				a.lease = l
				a.w.ref.promised(l.ID(), r)
			}
			return err
		})
		return
	}
	id := a.lease.ID()
	if a.rng.IntN(4) == 0 {
		a.w.ref.exempt(id)
		_ = a.bounded("Revoke", a.lease.Revoke)
		a.lease = nil
		return
	}
	err := a.bounded("Renew", func(ctx context.Context) error {
		r, err := a.lease.Renew(ctx, "register")
		if err == nil {
			a.w.ref.promised(id, r)
		}
		return err
	})
	if errors.Is(err, dcs.ErrLost) {
		if !a.w.ref.mayBeLost(id) {
			a.w.ref.fault("%s: lease %s is said to be lost before its time", a.name, id)
		}
		a.lease = nil
	}
}

// leave ends the session in an orderly way.
func (a *actor) leave() {
	if a.session == nil {
		return
	}
	_ = a.bounded("Session.Close", a.session.Close)
	a.session = nil
	clear(a.holds)
}

// finish settles all commits and leaves. The store has no faults by then.
func (a *actor) finish() {
	for range 3 {
		for range len(a.open) {
			a.settle()
		}
	}
	for _, l := range a.open {
		a.w.ref.fault("%s: on a healthy store %s cannot be settled: %v", a.name, l.key, l.ambiguous)
	}
	a.leave()
}
