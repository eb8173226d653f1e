package conformance

import (
	"strconv"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// aTransaction is the number of operations that the stores with the highest limit
// take in one transaction by default.
const aTransaction = 128

// moreThanATransaction returns a number of keys above the operations of a Txn.
func (c *client) moreThanATransaction() int { return max(c.Caps().MaxTxnOps, aTransaction) + 2 }

// acquireMany acquires n locks, many at once: a client that makes room for each
// Commit makes more of it (attempt.Options.Slots).
func (e *env) acquireMany(s *dcs.Session, n int) []*dcs.Hold {
	holds := make([]*dcs.Hold, n)
	const workers = 32
	e.together(workers, func(w int) {
		for i := w; i < n; i += workers {
			holds[i] = e.acquire(s, e.key("lock", strconv.Itoa(i)), "v")
		}
	})
	return holds
}

// allHeld requires that all Holds are valid.
func (e *env) allHeld(holds []*dcs.Hold) {
	for _, h := range holds {
		if !h.Valid() {
			e.Fatalf("%q is not held any more: %v", h.Key(), h.Err())
		}
	}
}

func manyKeys(e *env) {
	a, b := e.pair()
	s := a.session()
	n := a.moreThanATransaction()
	holds := e.acquireMany(s, n)
	require.NoError(e, holds[0].Confirm(e.ctx), "with %d keys", n)
	begin := time.Now()
	require.NoError(e, holds[0].Confirm(e.ctx), "with %d keys", n)
	e.Logf("a renewal of %d keys took %v", n, time.Since(begin).Round(time.Microsecond))
	last := holds[n-1]
	b.del(last.Key())
	e.ended(last, e.oneRenewal(), dcs.ErrLost, "the last of the keys was deleted")
	e.allHeld(holds[:n-1])
}

func manyKeysMove(e *env) {
	a, b := e.pair()
	if !a.Caps().Rebind {
		e.without("Caps.Rebind") // a session never moves its keys
		return
	}
	n, s := a.moreThanATransaction(), a.session
	switch {
	case e.h.Virtual:
		n = 5000
	case slowProfile():
		n, s = 5000, a.longSession
	}
	e.movesKeys(a, b, s(), n)
}

// movesKeys is confirmsKeepFailing for a session with n locks.
func (e *env) movesKeys(a, b *client, s *dcs.Session, n int) {
	begin := time.Now()
	holds := e.acquireMany(s, n)
	require.NoError(e, holds[0].Confirm(e.ctx))
	e.Logf("%d locks were acquired and confirmed after %v", n, time.Since(begin).Round(time.Millisecond))
	from := s.Lease()
	stop := e.guardian(b, holds[n-1])
	lift := e.inject(a, Fault{Do: LoseRequest, When: on("Renew")})
	// The first lease and each key that did not move are gone well before.
	e.pass(max(2*s.Granted().TTL, s.Granted().Expiry*5/4))
	e.allHeld(holds)
	if s.Lease() == from {
		e.Fatal("the session never moved to a fresh lease")
	}
	lift()
	e.pass(2 * e.oneRenewal())
	require.NoError(e, holds[0].Confirm(e.ctx))
	e.allHeld(holds)
	stop()
	stored := b.snapshot(e.prefix)
	require.Len(e, stored.Entries, n)
	for _, h := range holds {
		en, _ := stored.Get(h.Key())
		require.Equal(e, h.Token(), en.Created, "the token of %q", h.Key())
		require.Equal(e, s.Lease(), en.Lease, "the lease of %q", h.Key())
	}
	begin = time.Now()
	require.NoError(e, s.Close(e.ctx))
	e.Logf("closing the session took %v", time.Since(begin).Round(time.Millisecond))
	require.Empty(e, b.snapshot(e.prefix).Entries, "closing the session removes all keys")
}
