package testcluster

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Workload makes calls of every kind on one Store until the end of the test, and fails the
// test if one of them fails.
type Workload struct {
	hold  *dcs.Hold
	kinds map[string]*atomic.Int64 // the number of calls of each kind that have succeeded
	step  atomic.Pointer[string]
}

// workloadKey is the key that the Commits write.
const workloadKey = "workload/key"

// workloadPause is the pause between two calls of one kind.
const workloadPause = 5 * time.Millisecond

// StartWorkload starts the calls on store and holds a lock meanwhile. It uses the keys
// below "workload".
func StartWorkload(tb testing.TB, store *dcs.Store) *Workload {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	session, err := store.NewSession(ctx, dcs.SessionOptions{})
	require.NoError(tb, err)
	w := &Workload{kinds: map[string]*atomic.Int64{}}
	w.hold, err = session.Acquire(ctx, "workload/lock", nil)
	require.NoError(tb, err)
	published := 0
	var since dcs.Revision
	var running sync.WaitGroup
	before := "before"
	w.step.Store(&before)
	for kind, call := range map[string]func() error{
		"Get":      func() error { _, err := store.Get(ctx, "workload/lock"); return err },
		"Snapshot": func() error { _, err := store.Snapshot(ctx, "workload"); return err },
		"Acquire and Release": func() error {
			h, err := session.Acquire(ctx, "workload/other", nil)
			if err != nil {
				return err
			}
			return h.Release(ctx)
		},
		"Publish": func() error {
			published++
			_, err := session.Publish(ctx, "workload/members/a", fmt.Append(nil, published))
			return err
		},
		"Commit": func() error {
			_, err := store.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put(workloadKey, []byte("x"))}})
			return err
		},
		"Wait": func() error {
			s, err := store.Wait(ctx, workloadKey, since)
			since = s.Revision
			return err
		},
		"Confirm": func() error { return w.hold.Confirm(ctx) },
		"Grant and Revoke": func() error {
			l, _, err := store.Grant(ctx, store.Timing().TTL)
			if err != nil {
				return err
			}
			return l.Revoke(ctx)
		},
	} {
		succeeded := &atomic.Int64{}
		w.kinds[kind] = succeeded
		running.Go(func() {
			for ctx.Err() == nil {
				if err := call(); err != nil && ctx.Err() == nil {
					tb.Errorf("%s: %s: %v", *w.step.Load(), kind, err)
				} else {
					succeeded.Add(1)
				}
				time.Sleep(workloadPause)
			}
		})
	}
	tb.Cleanup(func() {
		cancel()
		running.Wait()
		_ = session.Close(context.Background()) // the servers may have stopped
	})
	return w
}

// After sets the name of the step in the errors of calls. It returns once two calls of
// each kind have succeeded since, the second of which began after After was called.
func (w *Workload) After(tb testing.TB, step string) {
	tb.Helper()
	w.step.Store(&step)
	for kind, succeeded := range w.kinds {
		before := succeeded.Load()
		require.Eventually(tb, func() bool { return succeeded.Load() >= before+2 || tb.Failed() }, time.Minute, time.Millisecond, "%s: %s", step, kind)
	}
	require.False(tb, tb.Failed(), step)
	require.NoError(tb, w.hold.Err(), step)
}

// Calls returns the number of calls of each kind that have succeeded.
func (w *Workload) Calls() string {
	all := map[string]int64{}
	for kind, succeeded := range w.kinds {
		all[kind] = succeeded.Load()
	}
	return fmt.Sprint(all)
}
