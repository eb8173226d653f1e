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

func manyKeys(e *env) {
	a, b := e.pair()
	s := a.session()
	n := max(a.Caps().MaxTxnOps, aTransaction) + 2
	holds := make([]*dcs.Hold, n)
	const workers = 4
	e.together(workers, func(w int) {
		for i := w; i < n; i += workers {
			holds[i] = e.acquire(s, e.key("lock", strconv.Itoa(i)), "v")
		}
	})
	require.NoError(e, holds[0].Confirm(e.ctx), "with %d keys", n)
	begin := time.Now()
	require.NoError(e, holds[0].Confirm(e.ctx), "with %d keys", n)
	e.Logf("a renewal of %d keys took %v", n, time.Since(begin).Round(time.Microsecond))
	last := holds[n-1]
	b.del(last.Key())
	e.ended(last, e.oneRenewal(), dcs.ErrLost, "the last of the keys was deleted")
	for _, h := range holds[:n-1] {
		if !h.Valid() {
			e.Fatalf("%q is not held any more: %v", h.Key(), h.Err())
		}
	}
}
