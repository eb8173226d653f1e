package raftstore

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// healthRecord is a storeHealth that records its calls.
type healthRecord struct {
	mu      sync.Mutex
	next    uint64
	pending map[uint64]error // the last fault of each operation in progress
	faults  int
	lost    error
}

func (h *healthRecord) begin() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next++
	h.pending[h.next] = nil
	return h.next
}

func (h *healthRecord) ended(id uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.pending, id)
}

func (h *healthRecord) fault(id uint64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pending[id] = err
	h.faults++
}

func (h *healthRecord) permanent(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lost = err
}

func (h *healthRecord) failures() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.faults
}

func (h *healthRecord) faulty() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, err := range h.pending {
		if err != nil {
			return true
		}
	}
	return false
}

// storeFixture is a raftLog on a disk in memory.
type storeFixture struct {
	*raftLog
	t        *testing.T
	files    *disktest.FS
	record   *healthRecord
	snapshot [2]uint64
	restarts int
}

const (
	fixtureLog  = "/node/log"
	fixtureVote = "/node/vote"
)

func newStoreFixture(t *testing.T) *storeFixture {
	files := disktest.New()
	require.NoError(t, files.MakeDir("/node"))
	require.NoError(t, disk.CreateMirror(files, fixtureVote, disk.Vote{}.Encode()))
	return openStoreFixture(t, files, disk.LogEnd{})
}

func openStoreFixture(t *testing.T, files *disktest.FS, mark disk.LogEnd) *storeFixture {
	f := &storeFixture{t: t, files: files, record: &healthRecord{pending: map[uint64]error{}}}
	log, _, err := disk.OpenLog(disk.LogOptions{
		Files: files, Dir: fixtureLog, Life: disk.Life{1}, Mark: mark, Check: transport.CheckEntry, SegmentBytes: 1 << 12, KeepEntries: 3,
	})
	require.NoError(t, err)
	votes, err := disk.OpenMirror(files, fixtureVote)
	require.NoError(t, err)
	_, payload := votes.Load()
	vote, err := disk.DecodeVote(payload)
	require.NoError(t, err)
	f.raftLog = newRaftLog(log, votes, vote, func() (index, term uint64) { return f.snapshot[0], f.snapshot[1] }, func() { f.restarts++ }, f.record)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// crash returns the store as it is after the machine lost power.
func (f *storeFixture) crash() *storeFixture {
	end := f.log.End()
	files := f.files.Crash(0)
	f.files.Halt()
	return openStoreFixture(f.t, files, end)
}

func commands(from, to, term uint64) []*raft.Log {
	var list []*raft.Log
	for i := from; i <= to; i++ {
		list = append(list, &raft.Log{Index: i, Term: term, Data: []byte(fmt.Sprintf("%d of %d", i, term))})
	}
	return list
}

// inGoroutine runs f as Raft would. The channel gets the error of f, or errEnded if f
// ended the goroutine.
func inGoroutine(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() {
		err := errEnded
		defer func() { done <- err }()
		err = f()
	}()
	return done
}

var errEnded = errors.New("the goroutine ended")

// storeOperations are the operations of a store that touch the disk, after
// entries 1 to 5 were stored.
func storeOperations() map[string]func(f *storeFixture) error {
	return map[string]func(f *storeFixture) error{
		"StoreLogs":    func(f *storeFixture) error { return f.StoreLogs(commands(6, 8, 2)) },
		"StoreLog":     func(f *storeFixture) error { return f.StoreLog(commands(6, 6, 2)[0]) },
		"cut back":     func(f *storeFixture) error { return f.DeleteRange(4, 5) },
		"cut front":    func(f *storeFixture) error { return f.DeleteRange(1, 2) },
		"cut all":      func(f *storeFixture) error { f.snapshot = [2]uint64{9, 2}; return f.DeleteRange(1, 5) },
		"current term": func(f *storeFixture) error { return f.SetUint64([]byte(keyTerm), 7) },
		"vote": func(f *storeFixture) error {
			return errors.Join(f.SetUint64([]byte(keyVoteTerm), 7), f.Set([]byte(keyVoteCandidate), []byte("b")))
		},
		"GetLog": func(f *storeFixture) error { return f.GetLog(3, &raft.Log{}) },
	}
}

// TestStoreErrorsBeforeStart checks that errors are returned while Raft does
// not run yet.
func TestStoreErrorsBeforeStart(t *testing.T) {
	for name, do := range storeOperations() {
		f := newStoreFixture(t)
		require.NoError(t, f.StoreLogs(commands(1, 5, 1)))
		f.files.Fail(disktest.Any(disktest.Read, disktest.Write, disktest.Sync), syscall.EIO)
		require.ErrorIs(t, do(f), syscall.EIO, name)
		require.Zero(t, f.record.faults)
		require.Empty(t, f.record.pending)
	}
}

// TestRetryEndsThePause checks that a failed write is repeated at once on request, in
// every pause.
func TestRetryEndsThePause(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f := newStoreFixture(t)
		f.start()
		stop := f.files.Fail(disktest.Any(disktest.Write, disktest.Create), syscall.ENOSPC)
		done := inGoroutine(func() error { return f.StoreLogs(commands(1, 5, 1)) })
		for range 20 {
			time.Sleep(777 * time.Millisecond)
			synctest.Wait()
			before := f.record.failures()
			f.retry()
			synctest.Wait()
			require.Equal(t, before+1, f.record.failures())
		}
		stop()
		f.retry()
		synctest.Wait()
		require.Len(t, done, 1)
		require.NoError(t, <-done)
	})
}

// TestStoreWaitsForTheDisk checks that Raft never gets an error of the disk.
func TestStoreWaitsForTheDisk(t *testing.T) {
	for name, do := range storeOperations() {
		for _, err := range []error{syscall.EIO, syscall.ENOSPC, syscall.EROFS, syscall.EMFILE, syscall.EDQUOT, syscall.ENOENT} {
			bubble.Test(t, func(t *testing.T) {
				f := newStoreFixture(t)
				require.NoError(t, f.StoreLogs(commands(1, 5, 1)))
				f.start()
				stop := f.files.Fail(disktest.Any(disktest.Read, disktest.Write, disktest.Create, disktest.Open, disktest.Sync), err)
				done := inGoroutine(func() error { return do(f) })
				time.Sleep(time.Minute)
				require.Empty(t, done, name)
				require.True(t, f.record.faulty(), name)
				require.GreaterOrEqual(t, f.record.faults, 30, "at least every 2 s")
				require.LessOrEqual(t, f.record.faults, 120, "with a back-off")
				stop()
				time.Sleep(2*time.Second + time.Millisecond)
				require.Len(t, done, 1, name)
				require.NoError(t, <-done, name)
				require.False(t, f.record.faulty())
				require.Empty(t, f.record.pending)
				require.NoError(t, f.record.lost)

				again := f.crash()
				want := newStoreFixture(t)
				require.NoError(t, want.StoreLogs(commands(1, 5, 1)))
				require.NoError(t, do(want))
				require.Equal(t, contentOf(want), contentOf(again), name)
			})
		}
	}
}

func contentOf(f *storeFixture) string {
	text := fmt.Sprintf("%+v, %d to %d up to %d", f.storedVote(), f.log.First(), f.log.Last(), f.log.End().Index)
	for i := f.log.First(); i <= f.log.Last() && i > 0; i++ {
		var e raft.Log
		err := f.log.Get(i, &e)
		text += fmt.Sprintf("\n%d %s %v", e.Term, e.Data, err)
	}
	return text
}

// TestCloseEndsWaitingOperations closes the store while the disk fails.
func TestCloseEndsWaitingOperations(t *testing.T) {
	for name, do := range storeOperations() {
		bubble.Test(t, func(t *testing.T) {
			f := newStoreFixture(t)
			require.NoError(t, f.StoreLogs(commands(1, 5, 1)))
			f.start()
			f.files.Fail(disktest.Any(disktest.Read, disktest.Write, disktest.Open, disktest.Sync), syscall.EIO)
			done := inGoroutine(func() error { return do(f) })
			time.Sleep(time.Minute)
			begun := time.Now()
			_ = f.Close()
			require.ErrorIs(t, <-done, errEnded, name)
			require.Less(t, time.Since(begun), 10*time.Millisecond)
			require.Empty(t, f.record.pending)
			require.ErrorIs(t, <-inGoroutine(func() error { return do(f) }), errEnded, "%s after the end", name)
			require.Empty(t, f.files.OpenFiles())
		})
	}
}

// TestDamageEndsTheStore damages an entry while Raft runs.
func TestDamageEndsTheStore(t *testing.T) {
	f := newStoreFixture(t)
	require.NoError(t, f.StoreLogs(commands(1, 5, 1)))
	path := f.files.Paths()[0]
	f.files.Flip(path, 130*8)
	var damage *disk.DamageError
	require.ErrorAs(t, f.GetLog(1, &raft.Log{}), &damage, "before start")
	require.NoError(t, f.record.lost)
	f.start()
	require.ErrorIs(t, <-inGoroutine(func() error { return f.GetLog(1, &raft.Log{}) }), errEnded)
	require.ErrorAs(t, f.record.lost, &damage)
	require.Equal(t, path, damage.File)
	require.Empty(t, f.record.pending)

	// A repair detects it too.
	f.record.lost = nil
	f.files.Fail(disktest.Nth(1, disktest.Any(disktest.Sync)), syscall.EIO)
	require.ErrorIs(t, <-inGoroutine(func() error { return f.StoreLogs(commands(6, 6, 1)) }), errEnded)
	require.ErrorAs(t, f.record.lost, &damage)
}

// TestStoreRefusesUnreadableEntries checks entries at which Raft would panic when it
// reads them.
func TestStoreRefusesUnreadableEntries(t *testing.T) {
	f := newStoreFixture(t)
	f.start()
	for name, e := range map[string]*raft.Log{
		"a gap":                  {Index: 3, Term: 1},
		"an unknown type":        {Index: 2, Term: 1, Type: 77},
		"a deprecated type":      {Index: 2, Term: 1, Type: raft.LogAddPeerDeprecated},
		"no configuration":       {Index: 2, Term: 1, Type: raft.LogConfiguration, Data: []byte("no")},
		"an empty configuration": {Index: 2, Term: 1, Type: raft.LogConfiguration},
		"too long":               {Index: 2, Term: 1, Data: make([]byte, 3<<20)},
	} {
		f := newStoreFixture(t)
		f.start()
		require.NoError(t, f.StoreLogs(commands(1, 1, 1)))
		require.Error(t, f.StoreLog(e), name)
		require.Zero(t, f.record.faults, name)
		require.NoError(t, f.StoreLogs(commands(2, 2, 1)), name)
	}
	configuration := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a:1"}}})
	require.NoError(t, f.StoreLogs([]*raft.Log{
		{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: configuration},
		{Index: 2, Term: 1, Type: raft.LogNoop},
		{Index: 3, Term: 1, Type: raft.LogBarrier},
	}))
	require.NoError(t, f.crash().GetLog(1, &raft.Log{}))
	require.Equal(t, raft.ErrLogNotFound, f.GetLog(4, &raft.Log{}))
	require.True(t, f.IsMonotonic())
	require.Error(t, f.Set([]byte("k"), nil))
	require.Error(t, f.SetUint64([]byte("k"), 1))
	_, err := f.Get([]byte("k"))
	require.Error(t, err)
	_, err = f.GetUint64([]byte("k"))
	require.Error(t, err)
}

func TestDeleteRange(t *testing.T) {
	bounds := func(f *storeFixture) []uint64 {
		first, err := f.FirstIndex()
		require.NoError(t, err)
		last, err := f.LastIndex()
		require.NoError(t, err)
		return []uint64{first, last}
	}
	f := newStoreFixture(t)
	require.NoError(t, f.DeleteRange(0, 0), "of an empty log")
	require.Equal(t, []uint64{0, 0}, bounds(f))
	require.NoError(t, f.StoreLogs(commands(1, 9, 1)))
	require.Error(t, f.DeleteRange(3, 4), "in the middle")
	require.NoError(t, f.DeleteRange(5, 4))
	require.NoError(t, f.DeleteRange(9, 9))
	require.Equal(t, []uint64{1, 8}, bounds(f))
	require.NoError(t, f.DeleteRange(1, 4))
	require.Equal(t, []uint64{5, 8}, bounds(f))
	require.NoError(t, f.DeleteRange(5, 7))
	require.Equal(t, []uint64{6, 8}, bounds(f), "the newest stay")

	// All conflict with those of a new leader. A snapshot must reach up to 5.
	f.snapshot = [2]uint64{5, 1}
	require.NoError(t, f.DeleteRange(6, 8))
	require.Equal(t, uint64(5), f.log.End().Index)
	require.NoError(t, f.StoreLogs(commands(6, 7, 2)))
	require.Equal(t, []uint64{6, 7}, bounds(f))
	// A snapshot was installed.
	f.snapshot = [2]uint64{20, 2}
	require.NoError(t, f.DeleteRange(6, 7))
	require.Equal(t, uint64(20), f.log.End().Index)
	require.NoError(t, f.StoreLogs(commands(21, 22, 2)))
	require.Zero(t, f.restarts)
	// A snapshot was installed that ends before the log does. Raft is restarted, and its
	// goroutine does nothing before that.
	f.snapshot = [2]uint64{21, 3}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = f.DeleteRange(21, 22)
		t.Error("Raft continues with the end of a deleted log")
	}()
	require.Eventually(t, func() bool { return f.log.End().Index == 21 }, 10*time.Second, time.Millisecond)
	f.close()
	<-ended
	require.Equal(t, 1, f.restarts)
	again := f.crash()
	require.NoError(t, again.StoreLogs(commands(22, 22, 3)))
	require.Equal(t, []uint64{22, 22}, bounds(again.crash()))
}

// TestVoteIsStoredAsAWhole loses power at each operation while Raft stores a
// vote.
func TestVoteIsStoredAsAWhole(t *testing.T) {
	for k := 1; ; k++ {
		f := newStoreFixture(t)
		require.NoError(t, f.SetUint64([]byte(keyTerm), 3))
		require.NoError(t, f.SetUint64([]byte(keyVoteTerm), 3))
		require.NoError(t, f.Set([]byte(keyVoteCandidate), []byte("stale")))
		require.NoError(t, f.SetUint64([]byte(keyTerm), 4))
		f.files.HaltAt(disktest.Nth(k, disktest.Any(disktest.Changes()...)))
		require.NoError(t, f.SetUint64([]byte(keyVoteTerm), 4))
		err := f.Set([]byte(keyVoteCandidate), []byte("good"))
		for seed := range uint64(5) {
			again := openStoreFixture(t, f.files.Crash(seed), f.log.End())
			term, _ := again.GetUint64([]byte(keyVoteTerm))
			candidate, _ := again.Get([]byte(keyVoteCandidate))
			vote := fmt.Sprintf("%s in %d", candidate, term)
			require.Contains(t, []string{"stale in 3", "good in 4"}, vote, "operation %d", k)
			if err == nil {
				require.Equal(t, "good in 4", vote)
			}
			term, _ = again.GetUint64([]byte(keyTerm))
			require.Equal(t, uint64(4), term)
			require.NoError(t, again.Close())
		}
		if err == nil {
			require.Greater(t, k, 3)
			return
		}
	}
}

// countingFSM is a state machine that counts.
type countingFSM struct{ applied chan uint64 }

func (c countingFSM) Apply(e *raft.Log) any             { c.applied <- e.Index; return nil }
func (countingFSM) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("none") }
func (countingFSM) Restore(io.ReadCloser) error         { return nil }

// startingTransport starts a store when NewRaft has read it.
type startingTransport struct {
	*raft.InmemTransport
	start func()
}

func (s startingTransport) SetHeartbeatHandler(handle func(raft.RPC)) {
	s.start()
	s.InmemTransport.SetHeartbeatHandler(handle)
}

// TestRaftOnAFaultyDisk runs Raft while each of many operations of its disk
// fails. Raft neither panics nor ends, and keeps the confirmed entries.
func TestRaftOnAFaultyDisk(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f := newStoreFixture(t)
		c := raft.DefaultConfig()
		c.LocalID, c.Logger = "a", hclog.NewNullLogger()
		addr, inmem := raft.NewInmemTransport("a")
		transport := startingTransport{inmem, f.start}
		require.NoError(t, raft.BootstrapCluster(c, f, f, raft.NewInmemSnapshotStore(), transport,
			raft.Configuration{Servers: []raft.Server{{ID: "a", Address: addr}}}))
		fsm := countingFSM{make(chan uint64, 1000)}
		r, err := raft.NewRaft(c, fsm, f, f, raft.NewInmemSnapshotStore(), transport)
		require.NoError(t, err)
		require.True(t, f.started.Load())
		// The fault applies to the election too.
		stop := f.files.Fail(disktest.Any(disktest.Changes()...), syscall.ENOSPC)
		time.Sleep(30 * time.Second)
		stop()
		time.Sleep(5 * time.Second)
		require.Equal(t, raft.Leader, r.State())
		term := r.CurrentTerm()
		for k := range 40 {
			stop := f.files.Fail(disktest.Nth(1+k%13, disktest.Any()), syscall.EIO)
			require.NoError(t, r.Apply([]byte{byte(k)}, 0).Error())
			stop()
		}
		require.Equal(t, term, r.CurrentTerm(), "no election")
		require.Len(t, fsm.applied, 40)
		require.Equal(t, r.LastIndex(), f.crash().log.Last())
		require.NoError(t, f.record.lost)

		// Shutdown ends while an operation waits.
		future := r.Apply(nil, 0)
		time.Sleep(time.Minute)
		require.True(t, f.record.faulty(), "halted by the crash")
		done := r.Shutdown()
		_ = f.Close()
		require.NoError(t, done.Error())
		_ = future
	})
}
