package raftstore

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// deafPeers is a transport whose server answers nothing while deaf is set. While stalled
// is set it answers heartbeats only, as a server with a hanging disk does.
type deafPeers struct {
	raftPeers
	deaf, stalled atomic.Bool
	entries       atomic.Int64
	snapshots     atomic.Int64
}

var errDeaf = errors.New("no answer")

func (d *deafPeers) AppendEntries(_ raft.ServerID, _ raft.ServerAddress, req *raft.AppendEntriesRequest, _ *raft.AppendEntriesResponse) error {
	time.Sleep(10 * time.Millisecond)
	if d.deaf.Load() || d.stalled.Load() && !isHeartbeat(req) {
		return errDeaf
	}
	if !isHeartbeat(req) {
		d.entries.Add(1)
	}
	return nil
}

func (d *deafPeers) InstallSnapshot(raft.ServerID, raft.ServerAddress, *raft.InstallSnapshotRequest, *raft.InstallSnapshotResponse, io.Reader) error {
	if d.deaf.Load() {
		return errDeaf
	}
	d.snapshots.Add(1)
	return nil
}

var (
	aHeartbeat = &raft.AppendEntriesRequest{Term: 3}
	anAppend   = &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 7, PrevLogTerm: 3, Entries: []*raft.Log{{Index: 8, Term: 3}}}
)

// TestEntriesAreSentAtTheReturn checks that a server that was away for minutes is sent
// entries as soon as it answers, whether it had answered nothing or heartbeats only.
func TestEntriesAreSentAtTheReturn(t *testing.T) {
	for _, fault := range []string{"deaf", "stalled"} {
		t.Run(fault, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				inner := &deafPeers{}
				p := newPatientTransport(t.Context(), inner, 100*time.Millisecond, func(raft.ServerID, uint64) bool { return true })
				set := inner.deaf.Store
				if fault == "stalled" {
					set = inner.stalled.Store
				}
				set(true)
				done := make(chan error, 1)
				go func() { done <- p.AppendEntries("b", "addr", anAppend, &raft.AppendEntriesResponse{}) }()
				time.Sleep(5 * time.Minute)
				set(false)
				back := time.Now()
				require.NoError(t, <-done)
				assert.LessOrEqual(t, time.Since(back), 200*time.Millisecond)
				assert.EqualValues(t, 1, inner.entries.Load())
			})
		})
	}
}

// TestSnapshotWaitsForAHeartbeat checks that a snapshot is not begun while its server
// answers nothing.
func TestSnapshotWaitsForAHeartbeat(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		inner := &deafPeers{}
		p := newPatientTransport(t.Context(), inner, 100*time.Millisecond, func(raft.ServerID, uint64) bool { return true })
		inner.deaf.Store(true)
		require.ErrorIs(t, p.AppendEntries("b", "addr", aHeartbeat, &raft.AppendEntriesResponse{}), errDeaf)
		done := make(chan error, 1)
		go func() {
			done <- p.InstallSnapshot("b", "addr", &raft.InstallSnapshotRequest{Term: 3}, &raft.InstallSnapshotResponse{}, strings.NewReader(""))
		}()
		time.Sleep(time.Minute)
		assert.Zero(t, inner.snapshots.Load())
		inner.deaf.Store(false)
		require.NoError(t, p.AppendEntries("b", "addr", aHeartbeat, &raft.AppendEntriesResponse{}))
		require.NoError(t, <-done)
		assert.EqualValues(t, 1, inner.snapshots.Load())
	})
}

// TestResendingEnds checks that a message is not sent again if its sender no longer
// leads or has closed, and that a heartbeat is never sent again.
func TestResendingEnds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		life, end := context.WithCancel(t.Context())
		inner := &deafPeers{}
		inner.deaf.Store(true)
		var wanted atomic.Bool
		wanted.Store(true)
		p := newPatientTransport(life, inner, 100*time.Millisecond, func(raft.ServerID, uint64) bool { return wanted.Load() })
		send := func(req *raft.AppendEntriesRequest) chan error {
			done := make(chan error, 1)
			go func() { done <- p.AppendEntries("b", "addr", req, &raft.AppendEntriesResponse{}) }()
			return done
		}
		beat := time.Now()
		require.ErrorIs(t, <-send(aHeartbeat), errDeaf)
		assert.Equal(t, 10*time.Millisecond, time.Since(beat))

		over := send(anAppend)
		time.Sleep(time.Second)
		wanted.Store(false)
		require.ErrorIs(t, <-over, errDeaf)

		wanted.Store(true)
		closed := send(anAppend)
		time.Sleep(time.Second)
		end()
		require.ErrorIs(t, <-closed, errDeaf)
	})
}
