package remote

import (
	"context"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Where neither the copy nor the store can tell what changed before the copy
// began, the store is asked how it is now: the copy may not have it yet.
func TestWaitFromBeforeTheCopy(t *testing.T) {
	life, end := context.WithCancel(context.Background())
	var f Floor
	var r Replica
	now := dcs.Snapshot{Revision: 20, Entries: []dcs.Entry{{Key: "k", Created: 5, Modified: 5}}}
	still := false
	r.Init(Source{
		Backend: "b", Budget: 5 * time.Second, Life: life, Raise: f.Raise,
		Read:     func(context.Context) (dcs.Snapshot, error) { return now, nil },
		Snapshot: func(context.Context, string) (dcs.Snapshot, error) { return dcs.Snapshot{Revision: 30}, nil },
		Still:    func(context.Context, string, dcs.Revision, map[string]bool) bool { return still },
		Follow:   func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	})
	defer r.Close()
	defer end()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	s, err := r.Wait(ctx, "k", 4)
	require.NoError(t, err)
	require.Len(t, s.Entries, 1, "the copy shows the change")
	s, err = r.Wait(ctx, "k", 10)
	require.NoError(t, err)
	require.Empty(t, s.Entries, "it was deleted, and the copy does not show it")
	still = true
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err = r.Wait(short, "k", 10)
	require.ErrorIs(t, err, context.DeadlineExceeded, "nothing changed")
}

// The watch hears of the servers that are left out, and of no others; the
// user's observer hears of everything.
func TestReplicaObserves(t *testing.T) {
	var r Replica
	r.Init(Source{Budget: time.Second})
	var heard []dcs.EndpointChange
	observe := r.Observer(func(ev dcs.EndpointEvent) { heard = append(heard, ev.Change) })
	all := []dcs.EndpointChange{dcs.Switched, dcs.Ejected, dcs.Restored, dcs.Removed}
	for i, c := range all {
		observe(dcs.EndpointEvent{From: fmt.Sprint("s", i), Change: c})
	}
	require.Equal(t, all, heard)
	require.Len(t, r.Left, 2)
	require.Equal(t, []string{"s1", "s3"}, []string{<-r.Left, <-r.Left})
	r.Observer(nil)(dcs.EndpointEvent{Change: dcs.Switched})
}

// A Wait that has ended leaves nothing in the copy.
func TestReplicaWaitLeavesNothing(t *testing.T) {
	life, end := context.WithCancel(t.Context())
	var f Floor
	var r Replica
	r.Init(Source{
		Backend: "b", Budget: 5 * time.Second, Life: life, Raise: f.Raise,
		Read:   func(context.Context) (dcs.Snapshot, error) { return dcs.Snapshot{Revision: 20}, nil },
		Follow: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	})
	defer r.Close()
	defer end()
	for i := range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		_, err := r.Wait(ctx, fmt.Sprint("quiet/", i), 20)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	require.Zero(t, reflect.ValueOf(r.Tree).Elem().FieldByName("waiters").Len(), "prefixes that no Wait watches")
}
