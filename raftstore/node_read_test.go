package raftstore

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// A commit is visible on a follower as soon as it is applied there, which may be before
// it is applied on the leader. After a Wait has returned it, no later read or renewal on
// any node returns an older state.
func TestReadsAreNotOlderThanWaits(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	ctx := testCtx(t)
	leader, follower := tc.node[tc.leader()], tc.node[tc.follower()]
	lease, _, err := follower.Grant(ctx, 10*time.Second)
	require.NoError(t, err)
	rev, err := follower.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte("old"))}})
	require.NoError(t, err)

	// The leader's state machine stops after the present batch.
	leader.node.member().notices.mu.Lock()
	proceed := leader.node.member().notices.mu.Unlock
	defer func() { proceed() }()
	unanswered, giveUp := context.WithCancel(ctx)
	defer giveUp()
	for _, v := range []string{"held", "new"} {
		go func() {
			_, _ = follower.Commit(unanswered, dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte(v))}})
		}()
		s, err := follower.Wait(ctx, "k", rev)
		require.NoError(t, err)
		require.Equal(t, v, string(s.Entries[0].Value))
		rev = s.Revision
	}
	require.Less(t, leader.node.state.Applied(), uint64(rev), "the leader is not behind")

	for name, read := range map[string]func(ctx context.Context, b *Backend) (string, error){
		"Get": func(ctx context.Context, b *Backend) (string, error) {
			e, err := b.Get(ctx, "k")
			return string(e.Value), err
		},
		"Snapshot": func(ctx context.Context, b *Backend) (string, error) {
			s, err := b.Snapshot(ctx, "")
			if err != nil {
				return "", err
			}
			return string(s.Entries[0].Value), nil
		},
		"Renew": func(ctx context.Context, b *Backend) (string, error) {
			r, err := (&leaseHandle{b: &b.frontend, id: lease.ID()}).Renew(ctx, "k")
			if err != nil {
				return "", err
			}
			return string(r.Entries[0].Value), nil
		},
	} {
		for _, b := range []*Backend{leader, follower} {
			soon, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			v, err := read(soon, b)
			cancel()
			if !errors.Is(err, dcs.ErrUnavailable) {
				require.NoError(t, err, name)
				require.Equal(t, "new", v, name)
			}
		}
	}
	proceed()
	proceed = func() {}
	e, err := leader.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, "new", string(e.Value))
}
