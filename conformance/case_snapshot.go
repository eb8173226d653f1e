package conformance

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var snapshotCases = []spec{
	{Case: Case{
		Name:       "Snapshot/Atomic",
		Rule:       "Snapshot and Wait never return two keys of different Txns, if the keys always change in one Txn, under write load.",
		Motivation: "A tree that is read key by key was torn 77 to 84 times of 100 on ZooKeeper.",
	}, run: snapshotAtomic},
	{Case: Case{
		Name:       "Snapshot/RevisionNeverFalls",
		Rule:       "The revision of a Snapshot never falls on one Store, whichever method and goroutine returned the last one.",
		Motivation: "After a switch to a member that lags behind, a manager reads the leader of a minute ago.",
	}, run: revisionNeverFalls},
}

// load writes pairs of keys in one Txn each, until stop is called, and makes
// and deletes a second pair.
func (e *env) load(c *client) (stop func()) {
	var over atomic.Bool
	done := e.start(func() {
		for i := 0; !over.Load(); i++ {
			v := []byte(strings.Repeat("x", i%7) + fmt.Sprint(i))
			t := dcs.Txn{Then: []dcs.Write{dcs.Put(e.key("pair", "a"), v), dcs.Put(e.key("pair", "z"), v)}}
			if i%2 == 0 {
				t.Then = append(t.Then, dcs.Put(e.key("both", "a"), v), dcs.Put(e.key("both", "z"), v))
			} else {
				t.Then = append(t.Then, dcs.Delete(e.key("both", "a")), dcs.Delete(e.key("both", "z")))
			}
			c.commit(t)
			e.pause()
		}
	})
	return func() {
		over.Store(true)
		<-done
	}
}

// untorn requires that both keys of each pair are of one Txn.
func (e *env) untorn(s dcs.Snapshot) {
	for _, pair := range []string{"pair", "both"} {
		a, hasA := s.Get(e.key(pair, "a"))
		z, hasZ := s.Get(e.key(pair, "z"))
		if hasA != hasZ || a.Modified != z.Modified || string(a.Value) != string(z.Value) {
			e.Fatalf("torn at %d: a is %q of %d (exists: %v), z is %q of %d (exists: %v)", s.Revision, a.Value, a.Modified, hasA, z.Value, z.Modified, hasZ)
		}
	}
}

func snapshotAtomic(e *env) {
	a, b := e.pair()
	stop := e.load(a)
	defer stop()
	third := e.open()
	e.together(3, func(i int) {
		c := []*client{a, b, third}[i]
		for range e.rounds(40, 2000) {
			e.untorn(c.snapshot(e.prefix))
			e.pause()
		}
		s := c.snapshot(e.prefix)
		for range e.rounds(25, 1000) {
			next, err := c.Wait(e.ctx, e.prefix, s.Revision)
			require.NoError(e, err)
			e.wellFormed(e.prefix, next)
			e.untorn(next)
			s = next
		}
	})
}

// latest is the highest revision that any goroutine has seen on one Store.
type latest struct {
	mu  sync.Mutex
	rev dcs.Revision
}

func (l *latest) get() dcs.Revision {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rev
}

func (l *latest) saw(r dcs.Revision) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rev = max(l.rev, r)
}

func revisionNeverFalls(e *env) {
	a, b := e.pair()
	stop := e.load(a)
	defer stop()
	var seen latest
	prefixes := []string{e.prefix, e.key("pair"), e.key("never written"), ""}
	e.together(4, func(i int) {
		for range e.rounds(40, 1000) {
			before := seen.get()
			s := b.snapshot(prefixes[i])
			if s.Revision < before {
				e.Fatalf("a Snapshot of %q is at %d, after one at %d was returned", prefixes[i], s.Revision, before)
			}
			seen.saw(s.Revision)
			e.pause()
			if i < 2 {
				before = seen.get()
				ctx, cancel := context.WithTimeout(e.ctx, e.budget())
				s, err := b.Wait(ctx, prefixes[i], before)
				cancel()
				require.NoError(e, err, "Wait under write load")
				if s.Revision <= before {
					e.Fatalf("Wait(since %d) returned revision %d", before, s.Revision)
				}
				seen.saw(s.Revision)
			}
		}
	})
}
