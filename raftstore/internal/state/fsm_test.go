package state

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// testLog feeds a state and remembers each answer.
type testLog struct {
	t     testing.TB
	f     *FSM
	index uint64
	term  uint64
	last  Result
	logs  []*raft.Log
}

func newTestLog(t testing.TB) *testLog {
	l := &testLog{t: t, f: New(), term: 1}
	l.f.OnApply = func(_ *Command, _, _ uint64, r Result) { l.last = r }
	return l
}

func (l *testLog) add(c Command) Result {
	l.t.Helper()
	l.index++
	e := &raft.Log{Index: l.index, Term: l.term, Type: raft.LogCommand, Data: c.Encode()}
	l.logs = append(l.logs, e)
	l.f.Apply(e)
	require.NoError(l.t, l.f.Failed())
	return l.last
}

func (l *testLog) put(client, seq, low uint64, key string) Result {
	return l.add(Command{Kind: KindTxn, Client: client, Seq: seq, Low: low, Txn: dcs.Txn{Then: []dcs.Write{dcs.Put(key, nil)}}})
}

func (l *testLog) open() uint64 { return uint64(l.add(Command{Kind: KindOpen}).Revision) }

func (l *testLog) snapshot() []byte {
	l.t.Helper()
	return encoded(l.t, l.f)
}

// sink keeps a snapshot in memory.
type sink struct {
	bytes.Buffer
	ended string
}

func (s *sink) ID() string    { return "test" }
func (s *sink) Close() error  { s.ended += "closed"; return nil }
func (s *sink) Cancel() error { s.ended += "cancelled"; return nil }

// encoded returns a snapshot of f.
func encoded(t testing.TB, f *FSM) []byte {
	t.Helper()
	s, err := f.Snapshot()
	require.NoError(t, err)
	return persisted(t, s)
}

func persisted(t testing.TB, s raft.FSMSnapshot) []byte {
	t.Helper()
	to := &sink{}
	require.NoError(t, s.Persist(to))
	require.Equal(t, "closed", to.ended)
	s.Release()
	return to.Bytes()
}

func restore(f *FSM, b []byte) error { return f.Restore(io.NopCloser(bytes.NewReader(b))) }

// A caller that waits for a command is answered when its effect is in every reading,
// Status's among them.
func TestAnswersComeLast(t *testing.T) {
	l := newTestLog(t)
	var seen uint64
	l.f.OnApply = func(_ *Command, index, _ uint64, r Result) {
		l.last, seen = r, index
		require.Equal(t, index, l.f.applied.Load())
		require.EqualValues(t, index, l.f.tree.Revision())
	}
	client := l.open()
	l.put(client, 1, 1, "k")
	l.add(Command{Kind: KindTerm, Term: l.term})
	require.Equal(t, l.index, seen)
}

// P15: a command is applied once, however many copies the log has.
func TestP15AppliedOnce(t *testing.T) {
	l := newTestLog(t)
	client := l.open()
	create := Command{Kind: KindTxn, Client: client, Seq: 1, Low: 1, Txn: dcs.Txn{
		If: []dcs.Cond{dcs.Absent("k")}, Then: []dcs.Write{dcs.Put("k", nil)},
	}}
	first := l.add(create)
	require.Equal(t, StatusDone, first.Status)
	require.Equal(t, first, l.add(create), "a copy is answered as the first")
	refused := create
	refused.Seq = 2
	conflict := l.add(refused)
	require.Equal(t, StatusConflict, conflict.Status)
	require.Equal(t, first.Revision, conflict.Current.Created)
	l.add(Command{Kind: KindTxn, Client: client, Seq: 3, Low: 1, Txn: dcs.Txn{Then: []dcs.Write{dcs.Delete("k")}}})
	require.Equal(t, conflict, l.add(refused), "a copy of a refusal lands nowhere, though its condition holds by now")
	_, found := l.f.tree.Get("k")
	require.False(t, found)
}

// P15: a number below the lowest unacknowledged one is refused.
func TestP15BelowLowIsRefused(t *testing.T) {
	l := newTestLog(t)
	client := l.open()
	l.put(client, 1, 1, "a")
	l.put(client, 2, 2, "b")
	require.Len(t, l.f.clients.byID[client].results, 1, "an answered result is forgotten")
	require.Equal(t, StatusSettled, l.put(client, 1, 1, "a").Status)
	require.Equal(t, StatusAhead, l.put(client, 2+ClientWindow, 2, "c").Status)
	require.Equal(t, StatusDone, l.put(client, 3+3*ClientWindow, 3+3*ClientWindow, "c").Status)
	require.Len(t, l.f.clients.byID[client].results, 1)
	restored := New()
	require.NoError(t, restore(restored, l.snapshot()))
	require.Equal(t, l.f.clients.byID, restored.clients.byID, "a snapshot keeps the numbers that are refused")
}

// P15: a client that was forgotten, and one that never was, execute nothing.
func TestP15UnknownClientExecutesNothing(t *testing.T) {
	l := newTestLog(t)
	l.f.clients.most = 2
	first, second := l.open(), l.open()
	l.put(first, 1, 1, "k") // second is the silent one now
	third := l.open()
	require.Contains(t, l.f.clients.byID, first)
	require.NotContains(t, l.f.clients.byID, second)
	require.Contains(t, l.f.clients.byID, third)
	for _, client := range []uint64{second, 12345} {
		require.Equal(t, StatusUnknownClient, l.put(client, 1, 1, "lost").Status)
		require.Equal(t, StatusUnknownClient, l.add(Command{Kind: KindCancel, Client: client, Seq: 1}).Status)
	}
	_, found := l.f.tree.Get("lost")
	require.False(t, found)
}

// P15: Cancel is the definite no, or returns the result of the command that came first.
func TestP15Cancel(t *testing.T) {
	l := newTestLog(t)
	client := l.open()
	cancel := func(seq uint64) Result { return l.add(Command{Kind: KindCancel, Client: client, Seq: seq, Low: 1}) }
	require.Equal(t, StatusCancelled, cancel(1).Status)
	require.Equal(t, StatusCancelled, l.put(client, 1, 1, "k").Status, "the command comes after its Cancel")
	_, found := l.f.tree.Get("k")
	require.False(t, found)
	done := l.put(client, 2, 1, "k")
	require.Equal(t, done, cancel(2))
	require.Equal(t, done, cancel(2), "it may be repeated")
}

// P22: an expiry that was decided in another term ends nothing.
func TestP22ExpiryOfAnotherTermIsVoid(t *testing.T) {
	l := newTestLog(t)
	client := l.open()
	l.add(Command{Kind: KindGrant, Client: client, Seq: 1, Low: 1, Lease: "l", TTL: time.Second})
	l.term = 3
	l.add(Command{Kind: KindExpire, Term: 1, Leases: []dcs.LeaseID{"l"}})
	require.True(t, l.f.tree.Live("l"))
	l.add(Command{Kind: KindExpire, Term: 3, Leases: []dcs.LeaseID{"l", "unknown"}})
	require.False(t, l.f.tree.Live("l"))
	require.Empty(t, l.f.ttls)
}

func TestP14DeadLeaseWritesNothing(t *testing.T) {
	l := newTestLog(t)
	r := l.add(Command{Kind: KindTxn, Client: l.open(), Seq: 1, Txn: dcs.Txn{
		Then: []dcs.Write{dcs.Put("a", nil), dcs.PutLeased("b", nil, "dead")},
	}})
	require.Equal(t, StatusDeadLease, r.Status)
	require.Empty(t, l.f.tree.Snapshot("").Entries)
}

// Two nodes that apply the same entries, in any batches, one of them over
// a snapshot, hold the same bytes.
func TestStateIsDeterministic(t *testing.T) {
	l := newTestLog(t)
	random := rand.New(rand.NewPCG(1, 2))
	l.f.clients.most = 3
	clients := []uint64{l.open(), l.open()}
	for i := range 2000 {
		client := clients[random.IntN(len(clients))]
		seq, key := uint64(i/4+1), fmt.Sprintf("k/%d", random.IntN(20))
		lease := dcs.LeaseID(fmt.Sprint("l", random.IntN(10)))
		c := Command{Client: client, Seq: seq, Low: seq - min(seq, 5)}
		switch random.IntN(8) {
		case 0:
			clients = append(clients, l.open())
			continue
		case 1:
			c.Kind, c.Lease, c.TTL = KindGrant, lease, time.Second
		case 2:
			c.Kind, c.Lease = KindRevoke, lease
		case 3:
			c.Kind = KindCancel
		case 4:
			c = Command{Kind: KindExpire, Term: l.term, Leases: []dcs.LeaseID{lease}}
		default:
			c.Kind, c.Txn = KindTxn, dcs.Txn{
				If:   []dcs.Cond{dcs.ModifiedAt(key, dcs.Revision(random.IntN(3)))},
				Then: []dcs.Write{dcs.PutLeased(key, []byte{byte(i)}, lease)},
			}
			if random.IntN(2) == 0 {
				c.Txn.If = nil
			}
			if random.IntN(2) == 0 {
				c.Txn.Then[0].Lease = ""
			}
		}
		l.add(c)
	}
	other := New()
	other.clients.most = 3
	for at := 0; at < len(l.logs); {
		n := min(random.IntN(64)+1, len(l.logs)-at)
		require.Len(t, other.ApplyBatch(l.logs[at:at+n]), n)
		at += n
		if at > len(l.logs)/2 && other.unread == nil {
			b := encoded(t, other)
			other = New()
			other.clients.most = 3
			require.NoError(t, restore(other, b))
		}
	}
	require.Equal(t, l.snapshot(), encoded(t, other))
	require.Equal(t, l.f.clients.byID, other.clients.byID, "a snapshot keeps all of P15's bookkeeping")
	require.NotEmpty(t, l.f.tree.Snapshot("").Entries)
}

// An entry of a newer release stops the node: to go on without it would make a
// different state.
func TestLogThatCanNotBeRead(t *testing.T) {
	l := newTestLog(t)
	client := l.open()
	var told []error
	l.f.OnBroken = func(err error) { told = append(told, err) }
	newer := (&Command{Kind: KindTerm}).Encode()
	newer[0] = Level + 1
	later := (&Command{Kind: KindTxn, Client: client, Seq: 1, Txn: dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}}}).Encode()
	answers := l.f.ApplyBatch([]*raft.Log{
		{Index: 2, Term: 1, Data: newer}, {Index: 3, Term: 1, Data: later}, {Index: 4, Term: 1, Data: newer},
	})
	require.Len(t, answers, 3)
	require.Len(t, told, 1)
	require.ErrorContains(t, told[0], "log entry 2: a log entry has format version 2")
	require.Equal(t, uint64(1), l.f.applied.Load())
	_, found := l.f.tree.Get("k")
	require.False(t, found)
	_, err := l.f.Snapshot()
	require.ErrorIs(t, err, told[0])
}
