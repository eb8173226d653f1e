//go:build linux

package filestore

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
)

// The suite starts this test binary as a second process, which opens the store by URL.
func TestMain(m *testing.M) {
	conformance.Process()
	os.Exit(m.Run())
}

// client is a Store whose requests pass a fault injector.
type client struct {
	*Store
	faults *conformance.FaultInjector
}

func open(tb testing.TB, c Config, faults ...conformance.Fault) (dcs.Backend, error) {
	injector := new(conformance.FaultInjector)
	for _, f := range faults {
		tb.Cleanup(injector.Inject(f)) // before the first request
	}
	b, err := newStore(c, hooks{exchange: func(ctx context.Context, r request, send func(context.Context) error) error {
		return injector.Pass(ctx, conformance.Request{Op: r.op, Keys: r.keys}, send)
	}})
	if err != nil {
		return nil, err
	}
	return client{b, injector}, nil
}

// directory returns a new directory, if possible in memory. The suite tests rules, and a
// busy disk would add its own latency to every figure.
func directory(tb testing.TB) string {
	memory, err := os.MkdirTemp("/dev/shm", "filestore")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { require.NoError(tb, os.RemoveAll(memory)) })
	return memory
}

func TestConformance(t *testing.T) {
	// The slow profile has a session with 5,000 keys. Every write of this store writes all.
	t.Setenv("HOLDFAST_PROFILE", "fast")
	timing := dcs.Timing{TTL: 5 * time.Second, LoopWait: 500 * time.Millisecond, RetryTimeout: 2 * time.Second}
	conformance.Run(t, conformance.Harness{
		Name: "filestore", Timing: timing,
		New: func(tb testing.TB) conformance.Store {
			dir := directory(tb) // a store for each case
			return conformance.Store{
				Open: func(tb testing.TB) dcs.Backend {
					b, err := open(tb, Config{Dir: dir, Timing: timing})
					require.NoError(tb, err)
					return b
				},
				OpenWith: func(tb testing.TB, o conformance.Opening) (dcs.Backend, error) {
					return open(tb, Config{Dir: dir, Timing: cmp.Or(o.Timing, timing)}, o.Faults...)
				},
				URL: func(testing.TB) string {
					return fmt.Sprintf("file://%s?ttl=%v&loop_wait=%v&retry_timeout=%v", dir, timing.TTL, timing.LoopWait, timing.RetryTimeout)
				},
				Requests: func(b dcs.Backend) int64 { return b.(client).faults.Requests() },
				Inject:   func(b dcs.Backend, f conformance.Fault) (lift func()) { return b.(client).faults.Inject(f) },
				DropBookkeeping: func(tb testing.TB) {
					b, err := New(Config{Dir: dir})
					require.NoError(tb, err)
					defer b.Close()
					require.NoError(tb, b.locked(tb.Context(), func(s *state, _ time.Duration) bool {
						maps.DeleteFunc(s.Entries, func(key string, _ dcs.Entry) bool { return hidden(key) })
						return true
					}))
				},
			}
		},
		NotApplicable: conformance.Without("the store is a directory: there are no servers, and no credentials", "Cluster", "Secure"),
	})
}
