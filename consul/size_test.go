package consul

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
)

// Commits beside fifty clients that wait for another key take at most three times
// as long as without them: after a burst they are not sent the tree with each.
func TestCommitsBesideManyWaiters(t *testing.T) {
	if os.Getenv("HOLDFAST_PROFILE") != "slow" {
		t.Skip("in the slow profile: it measures for a minute")
	}
	s := newSuite(t).fresh(t)
	fresh := func() *Backend {
		b, err := New(s.config(conformance.Opening{}))
		require.NoError(t, err)
		t.Cleanup(func() { b.Close() })
		return b
	}
	b := fresh()
	put := func(key string) {
		ctx, cancel := context.WithTimeout(t.Context(), suiteTiming.RetryTimeout)
		defer cancel()
		_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put(key, make([]byte, 100))}})
		require.NoError(t, err)
	}
	for i := range 3 {
		put(fmt.Sprintf("members/%03d", i))
	}
	p95 := func() time.Duration {
		var took []time.Duration
		for range 400 {
			began := time.Now()
			put("busy")
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		return took[len(took)*95/100]
	}
	p95() // warm
	alone := p95()
	life, end := context.WithCancel(t.Context())
	var waiters sync.WaitGroup
	for range 50 {
		w := fresh()
		waiters.Go(func() {
			for since := dcs.Revision(0); life.Err() == nil; {
				got, err := w.Wait(life, "leader", since)
				if err == nil {
					since = got.Revision
				}
			}
		})
	}
	defer waiters.Wait()
	defer end()
	p95() // the burst
	with := p95()
	t.Logf("p95 of a Commit: %v alone, %v beside 50 waiters", alone, with)
	require.LessOrEqual(t, with, 3*alone)
}
