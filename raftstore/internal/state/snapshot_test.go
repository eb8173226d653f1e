package state

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// sample returns a state that has something of everything.
func sample(t testing.TB) *testLog {
	l := newTestLog(t)
	client := l.open()
	l.open()
	l.add(Command{Kind: KindGrant, Client: client, Seq: 1, Low: 1, Lease: "l", TTL: time.Minute})
	l.add(Command{Kind: KindTxn, Client: client, Seq: 2, Low: 1, Txn: dcs.Txn{
		Then: []dcs.Write{dcs.Put("a", []byte("value")), dcs.PutLeased("b", nil, "l")},
	}})
	l.add(Command{Kind: KindTxn, Client: client, Seq: 3, Low: 1, Txn: dcs.Txn{
		If: []dcs.Cond{dcs.Absent("a")}, Then: []dcs.Write{dcs.Delete("b")},
	}})
	require.Equal(t, StatusConflict, l.last.Status)
	return l
}

func TestSnapshotIsTheState(t *testing.T) {
	l := sample(t)
	b := l.snapshot()
	f := New()
	require.NoError(t, restore(f, b))
	require.Equal(t, l.f.tree.Dump(), f.tree.Dump())
	require.Equal(t, l.f.ttls, f.ttls)
	require.Equal(t, l.f.clients.byID, f.clients.byID)
	require.Equal(t, l.f.Applied(), f.Applied())
	require.Equal(t, l.f.term.Load(), f.term.Load())
	require.Equal(t, b, encoded(t, f))
}

// A snapshot that cannot be read changes nothing.
func TestSnapshotThatCannotBeRead(t *testing.T) {
	l := sample(t)
	good := l.snapshot()
	refused := func(name string, b []byte, want string) {
		t.Helper()
		err := restore(l.f, b)
		require.ErrorContains(t, err, "snapshot: ", name)
		require.ErrorContains(t, err, want, name)
		require.Equal(t, err, l.f.Unreadable())
		require.NoError(t, l.f.Failed(), name)
		require.Equal(t, good, l.snapshot(), "%s changed something", name)
	}
	for cut := range good {
		refused(fmt.Sprint("cut to ", cut), good[:cut], io.ErrUnexpectedEOF.Error())
	}
	refused("longer", append(bytes.Clone(good), 0), "after the last record")
	version := func(v byte) []byte {
		b := bytes.Clone(good)
		b[1] = v // after the length of the first record
		return b
	}
	refused("of an older version", version(1), "format version 1 is of a development version")
	refused("without a level", append(append(bytes.Clone(good[:2]), 0), good[3:]...), "feature level")
	records := func(records ...string) []byte {
		to := &bytes.Buffer{}
		w := newRecordWriter(to)
		for _, r := range append([]string{string(good[1 : 1+good[0]])}, records...) {
			w.begin([]byte(r)...)
			w.end()
		}
		require.NoError(t, w.flush())
		return to.Bytes()
	}
	refused("an unknown record", records("\x77"), "record 1: unknown kind 119")
	refused("an empty record", records(""), "")
	refused("a result of no client", records(string(recordResult)), "of no client")
	refused("a missing record", records(string([]byte{recordEnd, 2})), "1 records, and 2 were written")
	refused("a huge record", append(records()[:1+good[0]:1+good[0]], 0xff, 0xff, 0xff, 0x7f), "more than any record has")

	// The others go on without a node that a newer release's snapshot stops.
	var broken error
	l.f.OnBroken = func(err error) { broken = err }
	err := restore(l.f, version(snapshotVersion+1))
	require.ErrorContains(t, err, "format version 3")
	require.Equal(t, err, broken)
	require.Equal(t, err, l.f.Failed())
}

// failingSink fails after so many bytes.
type failingSink struct {
	sink
	left   int
	failed error
	most   int
}

func (s *failingSink) Write(p []byte) (int, error) {
	s.most = max(s.most, len(p))
	if s.left -= len(p); s.left < 0 {
		return 0, s.failed
	}
	return s.sink.Write(p)
}

func TestSnapshotIsWrittenInChunks(t *testing.T) {
	l := sample(t)
	client := l.open()
	for i := range 64 {
		l.add(Command{Kind: KindTxn, Client: client, Seq: uint64(i + 1), Low: 1, Txn: dcs.Txn{
			Then: []dcs.Write{dcs.Put(fmt.Sprint("k", i), make([]byte, 60<<10))},
		}})
	}
	s, err := l.f.Snapshot()
	require.NoError(t, err)
	to := &failingSink{left: 1 << 30}
	require.NoError(t, s.Persist(to))
	require.LessOrEqual(t, to.most, snapshotChunk)
	require.Equal(t, "closed", to.ended)

	failed := errors.New("disk full")
	for _, left := range []int{0, 1 << 20, to.Len() - 1} {
		bad := &failingSink{left: left, failed: failed}
		require.ErrorIs(t, s.Persist(bad), failed)
		require.Equal(t, "cancelled", bad.ended)
	}
}

// heap returns the bytes in use after a collection.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// large makes n values of 1 MiB, each with a small one in its own Txn.
func large(l *testLog, n int) {
	client := l.open()
	for i := range n {
		l.add(Command{Kind: KindTxn, Client: client, Seq: uint64(i + 1), Low: uint64(i + 1), Txn: dcs.Txn{Then: []dcs.Write{
			dcs.Put(fmt.Sprint("small/", i), []byte("small")), dcs.Put(fmt.Sprint("large/", i), make([]byte, MaxValue-1)),
		}}})
	}
	l.logs = nil
}

// dropLarge deletes them, and the results that hold some of them.
func dropLarge(f *FSM, n int) {
	at := f.Applied()
	for i := range n {
		at++
		f.Apply(&raft.Log{Index: at, Term: 1, Type: raft.LogCommand, Data: (&Command{
			Kind: KindTxn, Client: 1, Seq: uint64(n + i + 1), Low: uint64(n + i + 1),
			Txn: dcs.Txn{Then: []dcs.Write{dcs.Delete(fmt.Sprint("large/", i))}},
		}).Encode()})
	}
}

const larges = 16

// A small value that stays keeps neither the log entry nor the snapshot that it
// came with in memory.
func TestSmallValuesPinNothing(t *testing.T) {
	const most = 4 << 20
	l := newTestLog(t)
	before := heap()
	large(l, larges)
	file := filepath.Join(t.TempDir(), "snapshot")
	require.NoError(t, os.WriteFile(file, l.snapshot(), 0o600))
	dropLarge(l.f, larges)
	require.Less(t, int64(heap()-before), int64(most), "the log entries are kept")
	require.Len(t, l.f.Tree().Snapshot("").Entries, larges)

	f := New()
	from, err := os.Open(file)
	require.NoError(t, err)
	var start, end runtime.MemStats
	runtime.ReadMemStats(&start)
	require.NoError(t, f.Restore(from))
	runtime.ReadMemStats(&end)
	require.Less(t, int64(end.TotalAlloc-start.TotalAlloc), int64(larges*MaxValue*5/4+most), "a snapshot takes more memory than its content")
	require.Len(t, f.Tree().Snapshot("").Entries, 2*larges)
	dropLarge(f, larges)
	require.Less(t, int64(heap()-before), int64(most), "the snapshot is kept")
	require.Len(t, f.Tree().Snapshot("").Entries, larges)
	runtime.KeepAlive(l)
}

func FuzzRestore(f *testing.F) {
	f.Add(sample(f).snapshot())
	f.Add(encoded(f, New()))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := New()
		if restore(s, b) != nil {
			require.Equal(t, encoded(t, New()), encoded(t, unbroken(s)))
			return
		}
		again := New()
		require.NoError(t, restore(again, encoded(t, s)))
		require.Equal(t, encoded(t, s), encoded(t, again))
	})
}

// unbroken makes a state that a newer snapshot has stopped go on.
func unbroken(f *FSM) *FSM {
	f.broken.Store(nil)
	return f
}

// FuzzApply applies commands on two nodes, on one of them over a snapshot. Both
// have the same state, for any commands.
func FuzzApply(f *testing.F) {
	seed := func(commands []Command) (b []byte) {
		for _, c := range commands {
			data := c.Encode()
			b = append(append(b, byte(len(data))), data...)
		}
		return b
	}
	f.Add(seed(sampleCommands()), 3)
	f.Add(seed([]Command{
		{Kind: KindOpen},
		{Kind: KindGrant, Client: 1, Seq: 1, Low: 1, Lease: "l", TTL: time.Second},
		{Kind: KindTxn, Client: 1, Seq: 2, Low: 1, Txn: dcs.Txn{Then: []dcs.Write{dcs.PutLeased("k", []byte("v"), "l")}}},
		{Kind: KindCancel, Client: 1, Seq: 3, Low: 2},
		{Kind: KindExpire, Term: 1, Leases: []dcs.LeaseID{"l"}},
	}), 2)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		one, two := New(), New()
		var logs []*raft.Log
		for len(b) > 0 && len(logs) < 64 {
			n := min(int(b[0]), len(b)-1)
			data := b[1 : 1+n]
			b = b[1+n:]
			if c, err := DecodeCommand(data); err == nil && applicable(one, &c, data) {
				logs = append(logs, &raft.Log{Index: uint64(len(logs) + 1), Term: 1, Type: raft.LogCommand, Data: data})
			}
		}
		for _, l := range logs {
			one.Apply(l)
		}
		cut = max(0, min(cut, len(logs)))
		two.ApplyBatch(logs[:cut])
		three := New()
		require.NoError(t, restore(three, encoded(t, two)))
		three.ApplyBatch(logs[cut:])
		require.NoError(t, errors.Join(one.Failed(), two.Failed(), three.Failed()))
		require.Equal(t, encoded(t, one), encoded(t, three))
	})
}

// applicable reports whether a leader may propose c, or makes such a one itself.
func applicable(f *FSM, c *Command, data []byte) bool {
	switch c.Kind {
	case KindTerm, KindExpire:
		return true
	case KindLevel:
		return c.Level <= Level
	}
	return f.CheckProposal(c.Key(), data) == nil
}
