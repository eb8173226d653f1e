package disk_test

import (
	"io"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
)

// lastEntry is a state that holds the last command.
type lastEntry struct {
	mu   sync.Mutex
	data []byte
}

func (f *lastEntry) get() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return string(f.data)
}

func (f *lastEntry) set(b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.data = b
}

func (f *lastEntry) Apply(l *raft.Log) any { f.set(l.Data); return nil }

func (f *lastEntry) Snapshot() (raft.FSMSnapshot, error) { return &frozenEntry{[]byte(f.get())}, nil }

func (f *lastEntry) Restore(from io.ReadCloser) error {
	b, err := io.ReadAll(from)
	f.set(b)
	return err
}

type frozenEntry struct{ data []byte }

func (s *frozenEntry) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(s.data); err != nil {
		return err
	}
	return sink.Close()
}

func (s *frozenEntry) Release() {}

// raftOn starts Raft with that log and those snapshots.
func raftOn(t *testing.T, id raft.ServerID, logs *raft.InmemStore, snaps *disk.Snapshots) (*raft.Raft, *lastEntry, *raft.InmemTransport) {
	t.Helper()
	c := raft.DefaultConfig()
	c.LocalID, c.LogOutput, c.TrailingLogs = id, io.Discard, 1
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = 200*time.Millisecond, 200*time.Millisecond, 100*time.Millisecond
	state := &lastEntry{}
	_, trans := raft.NewInmemTransport(raft.ServerAddress(id))
	r, err := raft.NewRaft(c, state, logs, logs, snaps, trans)
	require.NoError(t, err)
	return r, state, trans
}

// Raft starts from a snapshot of this store, and sends it to another node.
func TestRaftUsesSnapshots(t *testing.T) {
	files, logs := disktest.New(), raft.NewInmemStore()
	snaps := openSnapshots(t, files)
	r, _, trans := raftOn(t, "a", logs, snaps)
	require.NoError(t, r.BootstrapCluster(raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a"}}}).Error())
	require.Eventually(t, func() bool { return r.State() == raft.Leader }, 20*time.Second, time.Millisecond)
	for i := range 20 {
		require.NoError(t, r.Apply(snapContent(uint64(i), 3*chunkSize), 0).Error())
	}
	want := string(snapContent(19, 3*chunkSize))
	require.NoError(t, r.Snapshot().Error())
	require.NoError(t, r.Shutdown().Error())
	require.NoError(t, trans.Close())

	snaps = openSnapshots(t, files.Crash(0))
	list, err := snaps.List()
	require.NoError(t, err)
	require.Len(t, list, 1)
	r, state, trans := raftOn(t, "a", logs, snaps)
	require.Equal(t, want, state.get())

	other := openSnapshots(t, disktest.New())
	follower, state, otherTrans := raftOn(t, "b", raft.NewInmemStore(), other)
	trans.Connect("b", otherTrans)
	otherTrans.Connect("a", trans)
	require.Eventually(t, func() bool { return r.State() == raft.Leader }, 20*time.Second, time.Millisecond)
	require.NoError(t, r.AddNonvoter("b", "b", 0, 0).Error())
	require.Eventually(t, func() bool { return state.get() == want }, 20*time.Second, time.Millisecond)
	got, err := other.List()
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.Equal(t, *list[0], *got[0])
	for _, r := range []*raft.Raft{r, follower} {
		require.NoError(t, r.Shutdown().Error())
	}
}
