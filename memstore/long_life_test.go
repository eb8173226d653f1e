package memstore_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// footprint returns the heap in use, the goroutines and the open descriptors.
func footprint(t *testing.T) (heap uint64, goroutines, descriptors int) {
	t.Helper()
	synctest.Wait()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		descriptors = len(open)
	}
	return m.HeapAlloc, runtime.NumGoroutine(), descriptors
}

// A Store that lives through many Waits and many outages keeps nothing of them. The
// slow profile makes a million Waits and 1,000 outages.
func TestLongLifeStaysFlat(t *testing.T) {
	outages, waits := 50, 200
	if os.Getenv("HOLDFAST_PROFILE") == "slow" {
		outages, waits = 1000, 1000
	}
	bubble.Test(t, func(t *testing.T) {
		server := memstore.NewServer(memstore.Options{})
		timing := dcs.Timing{TTL: 9 * time.Second, LoopWait: 2 * time.Second, RetryTimeout: 3 * time.Second}
		store, err := dcs.New(server.Open(memstore.ClientOptions{Timing: timing}), dcs.Options{Timing: timing})
		require.NoError(t, err)
		defer store.Close()
		outage := func() {
			s, err := store.NewSession(t.Context(), dcs.SessionOptions{})
			require.NoError(t, err)
			h, err := s.Acquire(t.Context(), "lock", nil)
			require.NoError(t, err)
			var waiting sync.WaitGroup
			for i := range waits {
				waiting.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i+1)*time.Millisecond)
					defer cancel()
					_, _ = store.Wait(ctx, fmt.Sprint("members/", i), h.Token()) // ends with its context or the outage
				})
			}
			time.Sleep(500 * time.Millisecond)
			server.Down()
			<-s.Done()
			waiting.Wait()
			server.Up()
			_ = s.Close(t.Context()) // an ended session may have nothing to release
		}
		for range 5 {
			outage()
		}
		heap, goroutines, descriptors := footprint(t)
		for range outages {
			outage()
		}
		after, running, open := footprint(t)
		require.Less(t, after, heap+256<<10)
		require.LessOrEqual(t, running, goroutines)
		require.LessOrEqual(t, open, descriptors)
	})
}
