package conformance

import (
	"fmt"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

func waitSinceZero(e *env) {
	a, b := e.pair()
	never := e.key("never")
	first := e.sinceZero(a, never) // perhaps before the first write of the whole store
	require.Empty(e, first.Entries, "nothing was ever written there")
	got, done := e.waking(a, never, first.Revision)
	a.put(e.key("some", "k"), "v")
	a.put(e.key("some", "other"), "v")
	a.put(e.key("gone"), "v")
	a.del(e.key("gone"))
	for _, c := range []*client{a, b, e.open()} {
		for prefix, want := range map[string]int{
			e.key("some"): 2, e.key("some", "k"): 1, e.key("gone"): 0, never: 0, e.prefix: 2,
		} {
			// Like every Wait, it may first return a state without another client's write.
			if s := e.sinceZero(c, prefix); len(s.Entries) != want {
				c.follow(prefix, s.Revision, e.budget()+slack, nil, func(s dcs.Snapshot) bool { return len(s.Entries) == want })
			}
		}
	}
	select {
	case <-done:
		if got.Revision <= first.Revision {
			e.Fatalf("Wait(since %d) returned revision %d", first.Revision, got.Revision)
		}
	default:
		a.put(never, "v")
		e.within(e.budget()+slack, done, "the first key wakes a Wait that began with none")
		require.Len(e, got.Entries, 1)
	}
}

// sinceZero makes a Wait that must return at once.
func (e *env) sinceZero(c *client, prefix string) (s dcs.Snapshot) {
	e.promptly(e.budget()+slack, fmt.Sprintf("Wait %q since 0", prefix), func() {
		var err error
		s, err = c.Wait(e.ctx, prefix, 0)
		require.NoError(e, err, "Wait %q since 0", prefix)
	})
	e.wellFormed(prefix, s)
	return s
}
