package etcd3

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/harness"
)

// A watch that fell behind a compaction begins again. No change during that time is
// missed, including deletions.
func TestWatchSurvivesACompaction(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{Kind: testcluster.Etcd})
	s := (&suite{Env: harness.Env{Cluster: c}}).fresh(t)
	timing := dcs.Timing{TTL: 30 * time.Second, LoopWait: time.Second, RetryTimeout: 10 * time.Second}
	b, err := New(Config{Endpoints: s.Endpoints, Root: s.Root, Timing: timing})
	require.NoError(t, err)
	store, err := dcs.New(b, dcs.Options{Timing: timing})
	require.NoError(t, err)
	defer store.Close()
	ctx := t.Context()
	_, err = store.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("c/kept", []byte("old")), dcs.Put("c/gone", nil)}})
	require.NoError(t, err)
	since, err := store.Snapshot(ctx, "c")
	require.NoError(t, err)
	got := make(chan dcs.Snapshot, 1)
	failed := make(chan error, 1)
	go func() {
		s, err := store.Wait(ctx, "c", since.Revision)
		if err != nil {
			failed <- err
			return
		}
		got <- s
	}()
	require.Eventually(t, func() bool { return b.copy.Begins() > 0 }, 5*time.Second, time.Millisecond)

	var heals []func()
	for i := range s.Endpoints {
		heals = append(heals, s.faults().InjectFault(t, i, conformance.ServerFault{Do: conformance.Refused}))
	}
	admin, err := c.Admin(ctx)
	require.NoError(t, err)
	defer admin.Close()
	_, err = admin.Put(ctx, "/"+s.Root+"/c/kept", "new")
	require.NoError(t, err)
	last, err := admin.Delete(ctx, "/"+s.Root+"/c/gone")
	require.NoError(t, err)
	for i := range 20 {
		last2, err := admin.Put(ctx, "/elsewhere", fmt.Sprint(i))
		require.NoError(t, err)
		last.Header = last2.Header
	}
	_, err = admin.Compact(ctx, last.Header.Revision)
	require.NoError(t, err)
	for _, heal := range heals {
		heal()
	}
	select {
	case s := <-got:
		require.Len(t, s.Entries, 1)
		require.Equal(t, "new", string(s.Entries[0].Value))
	case err := <-failed:
		t.Fatal(err)
	case <-time.After(15 * time.Second):
		t.Fatal("the Wait did not return")
	}
	require.Greater(t, b.copy.Begins(), since.Revision, "the copy was made again")
}

// A Wait whose revision is older than the copy of the watch returns only if a key below
// its prefix has changed since.
func TestWaitSinceBeforeTheCopy(t *testing.T) {
	s := newSuite(t)
	raw := s.open(t)
	store, err := dcs.New(raw, dcs.Options{Timing: suiteTiming})
	require.NoError(t, err)
	defer store.Close()
	ctx := t.Context()
	commit := func(w ...dcs.Write) dcs.Revision {
		r, err := store.Commit(ctx, dcs.Txn{Then: w})
		require.NoError(t, err)
		return r
	}
	commit(dcs.Put("w/a", nil), dcs.Put("w/b", nil))
	since := commit(dcs.Put("w/a", []byte("2")))
	commit(dcs.Put("elsewhere", nil))
	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	_, err = store.Wait(short, "w", since)
	require.ErrorIs(t, err, context.DeadlineExceeded, "nothing changed below w")

	// The copy exists now. A Wait that begins later must check for deletions.
	other, err := dcs.New(s.open(t), dcs.Options{Timing: suiteTiming})
	require.NoError(t, err)
	defer other.Close()
	commit(dcs.Delete("w/b"))
	commit(dcs.Put("elsewhere", nil))
	got, err := other.Wait(ctx, "w", since)
	require.NoError(t, err)
	require.Len(t, got.Entries, 1)
}
