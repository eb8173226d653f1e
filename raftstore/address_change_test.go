package raftstore

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// heldPeers is a transport whose server answers a message when it is let go.
type heldPeers struct {
	raftPeers
	answer chan error
	newer  uint64 // the difference of the term in the answer to a snapshot
}

func (h *heldPeers) AppendEntries(raft.ServerID, raft.ServerAddress, *raft.AppendEntriesRequest, *raft.AppendEntriesResponse) error {
	return <-h.answer
}

func (h *heldPeers) InstallSnapshot(_ raft.ServerID, _ raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, _ io.Reader) error {
	resp.Term = req.Term + h.newer
	return <-h.answer
}

// sending sends entries to an address of server b.
func sending(t raftPeers, to raft.ServerAddress, req *raft.AppendEntriesRequest) chan error {
	done := make(chan error, 1)
	go func() { done <- t.AppendEntries("b", to, req, &raft.AppendEntriesResponse{}) }()
	synctest.Wait()
	return done
}

// TestMessageDuringAnAddressChangeFails checks that a message that was sent before the
// change fails although it is acknowledged, that heartbeats and the new address are not
// affected, and that the end of the change is.
func TestMessageDuringAnAddressChangeFails(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		inner := &heldPeers{answer: make(chan error)}
		a := newAddressChanges(inner)
		early := sending(a, "old", anAppend)
		began := time.Now()
		end := a.begin(t.Context(), "b", "new")
		require.Zero(t, time.Since(began))
		inner.answer <- nil
		require.ErrorIs(t, <-early, errAddressChanges)
		require.ErrorIs(t, <-sending(a, "old", anAppend), errAddressChanges)

		beat := sending(a, "old", aHeartbeat)
		inner.answer <- nil
		require.NoError(t, <-beat)
		fresh := sending(a, "new", anAppend)
		inner.answer <- errDeaf
		require.ErrorIs(t, <-fresh, errDeaf)

		end()
		late := sending(a, "old", anAppend)
		inner.answer <- nil
		require.NoError(t, <-late)
	})
}

// TestAddressChangeWaitsForTheReplication checks that a change begins with the next message
// of the replication, or if none is sent.
func TestAddressChangeWaitsForTheReplication(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		inner := &heldPeers{answer: make(chan error)}
		a := newAddressChanges(inner)
		began := make(chan func(), 1)
		go func() { began <- a.begin(t.Context(), "b", "new") }()
		beat := sending(a, "old", aHeartbeat)
		require.Empty(t, began)
		require.ErrorIs(t, <-sending(a, "old", anAppend), errAddressChanges)
		(<-began)()
		inner.answer <- nil
		require.NoError(t, <-beat)

		at := time.Now()
		a.begin(t.Context(), "b", "new")()
		require.Equal(t, replicationTimeout, time.Since(at))
	})
}

// TestSnapshotDuringAnAddressChange checks that a snapshot succeeds, unless the answer has a
// newer term, and that a change need not wait while one is sent.
func TestSnapshotDuringAnAddressChange(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		inner := &heldPeers{answer: make(chan error)}
		a := newAddressChanges(inner)
		for _, newer := range []uint64{0, 1} {
			inner.newer = newer
			done := make(chan error, 1)
			go func() {
				done <- a.InstallSnapshot("b", "old", &raft.InstallSnapshotRequest{Term: 3}, &raft.InstallSnapshotResponse{}, nil)
			}()
			synctest.Wait()
			began := time.Now()
			end := a.begin(t.Context(), "b", "new")
			require.Zero(t, time.Since(began))
			inner.answer <- nil
			if newer == 0 {
				require.NoError(t, <-done)
			} else {
				require.ErrorIs(t, <-done, errAddressChanges)
			}
			end()
		}
	})
}

// countedPeers counts the messages that fail because an address is being changed.
type countedPeers struct {
	raftPeers
	failed atomic.Int64
}

func (c *countedPeers) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	err := c.raftPeers.AppendEntries(id, to, req, resp)
	if errors.Is(err, errAddressChanges) {
		c.failed.Add(1)
	}
	return err
}

// TestAddressChangesWhileEntriesAreSent changes the address of a server while entries are
// sent to it. Without addressChanges the race detector reports hashicorp/raft.
func TestAddressChangesWhileEntriesAreSent(t *testing.T) {
	parallel(t)
	const changes = 20
	peers := make([]*countedPeers, 3)
	tc := newTestCluster(t, 3, func(i int, _ *Config, h *hooks) {
		h.transport = func(inner raft.Transport) raft.Transport {
			peers[i] = &countedPeers{raftPeers: inner.(raftPeers)} //nolint:forcetypeassert // it is one
			return peers[i]
		}
	})
	leader, follower := tc.leader(), tc.follower()
	ctx, end := context.WithCancel(testCtx(t))
	var load sync.WaitGroup
	defer load.Wait()
	defer end()
	load.Go(func() {
		for ctx.Err() == nil {
			_, err := tc.node[leader].Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
			assert.True(t, err == nil || ctx.Err() != nil, err)
		}
	})
	n, id := tc.node[leader].node, tc.config[follower].ID
	m := n.member()
	host, port, err := net.SplitHostPort(tc.addrOf(follower))
	require.NoError(t, err)
	texts := []string{net.JoinHostPort("::ffff:"+host, port), net.JoinHostPort(host, port)} // one address
	for i := range changes {
		c, err := m.settle(ctx)
		require.NoError(t, err)
		own := c.lives(id)[0]
		_, life := transport.SplitServer(own.ID)
		step := configStep{stepVotersAddress, own.ID, serverAddr(texts[i%len(texts)], life)}
		require.NoError(t, n.reconfigurer.change(ctx, string(step.kind), own.ID, func() error { return step.make(m, c.index) }))
		changed := raft.Server{Suffrage: raft.Voter, ID: own.ID, Address: step.addr}
		tc.eventually(func() bool {
			return slices.Contains(tc.node[follower].node.member().committed().servers, changed)
		}, "the server is sent nothing after its address was changed")
	}
	require.GreaterOrEqual(t, peers[leader].failed.Load(), int64(changes/2))
}
