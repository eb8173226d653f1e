package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// inTime runs f in virtual time with two clients of one store.
func inTime(t *testing.T, f func(t *testing.T, server *memstore.Server, a, b *dcs.Store)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		server := memstore.NewServer(memstore.Options{})
		open := func(name string) *dcs.Store {
			s, err := dcs.New(server.Open(memstore.ClientOptions{Name: name}), dcs.Options{})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, s.Close()) })
			return s
		}
		f(t, server, open("a"), open("b"))
	})
}

func read(t *testing.T, s *dcs.Store) *View {
	t.Helper()
	v, err := Read(t.Context(), s, "pg")
	require.NoError(t, err)
	return v
}

func session(t *testing.T, s *dcs.Store) *dcs.Session {
	t.Helper()
	n, err := s.NewSession(t.Context(), dcs.SessionOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = n.Close(context.Background()) })
	return n
}

// A record is written only as long as it is as it was read.
func TestTxnIsConditional(t *testing.T) {
	inTime(t, func(t *testing.T, _ *memstore.Server, a, b *dcs.Store) {
		old := read(t, a)
		config := Config{TTL: 30 * time.Second, LoopWait: 10 * time.Second, RetryTimeout: 10 * time.Second}
		txn, err := old.Txn(config, Initialize("1"))
		require.NoError(t, err)
		_, err = a.Commit(t.Context(), txn)
		require.NoError(t, err)
		_, err = b.Commit(t.Context(), txn)
		require.ErrorIs(t, err, dcs.ErrConflict)

		v := read(t, b)
		require.Equal(t, config, v.Config)
		require.Equal(t, Initialize("1"), v.Initialize)
		txn, err = v.Txn(config, Initialize("1"), Remove(FailoverKey))
		require.NoError(t, err)
		require.Len(t, txn.Then, 0, "it is stored already")

		// A pause that must not overtake a switchover.
		config.Pause = true
		txn, err = v.Txn(config)
		require.NoError(t, err)
		txn.If = append(txn.If, v.Unchanged(FailoverKey)...)
		ask, err := v.Txn(Failover{Leader: "a", Candidate: "b", At: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)})
		require.NoError(t, err)
		_, err = b.Commit(t.Context(), ask)
		require.NoError(t, err)
		_, err = a.Commit(t.Context(), txn)
		require.ErrorIs(t, err, dcs.ErrConflict)
		v = read(t, a)
		require.Equal(t, "b", v.Failover.Candidate)
		txn, err = v.Txn(ClearFailover{}, Remove(ConfigKey))
		require.NoError(t, err)
		_, err = a.Commit(t.Context(), txn)
		require.NoError(t, err)
		v = read(t, a)
		require.Nil(t, v.Failover)
		require.Zero(t, v.Config)
	})
}

// Keys of the leader are written under its guard only.
func TestLeaderTxn(t *testing.T) {
	inTime(t, func(t *testing.T, server *memstore.Server, a, b *dcs.Store) {
		sa, sb := session(t, a), session(t, b)
		lock := Key("pg", LeaderKey)
		decided := read(t, a).Unchanged(ConfigKey, FailoverKey, FailsafeKey, KeeperKey)
		h, err := sa.TryAcquire(t.Context(), lock, []byte("a"), decided...)
		require.NoError(t, err)
		v := read(t, a)
		require.Equal(t, &Leader{Name: "a", Token: h.Token(), Lease: sa.Lease()}, v.Leader)

		records := []Record{
			Sync{Leader: "a", Standbys: []string{"b"}},
			Status{Position: 5},
			History{{Timeline: 1, Position: 2, Reason: "x", Leader: "a"}},
			Failsafe{Members: map[string]string{"a": "http://a:1"}, TTL: time.Second},
			Keeper{Name: "a", Instance: "i", Token: h.Token()},
		}
		for _, r := range records {
			_, err := v.Txn(r)
			require.ErrorIs(t, err, dcs.ErrInvalid)
		}
		_, err = v.Txn(Remove(KeeperKey))
		require.ErrorIs(t, err, dcs.ErrInvalid)
		for _, guard := range []dcs.Cond{{}, dcs.Absent(lock), dcs.ModifiedAt(lock, h.Token()), dcs.CreatedAt("pg2/leader", h.Token())} {
			_, err := v.LeaderTxn(guard, records...)
			require.ErrorIs(t, err, dcs.ErrInvalid)
		}
		txn, err := v.LeaderTxn(h.Guard(), records...)
		require.NoError(t, err)
		_, err = a.Commit(t.Context(), txn)
		require.NoError(t, err)
		v = read(t, a)
		require.Len(t, v.Problems, 0)
		require.Equal(t, int64(5), v.Status.Position)
		require.Equal(t, records[3], v.Failsafe)
		require.Equal(t, "i", v.Keeper.Instance)

		// An unchanged list is written again, to confirm it under this token.
		txn, err = v.LeaderTxn(h.Guard(), records...)
		require.NoError(t, err)
		require.Len(t, txn.Then, 1)
		_, err = a.Commit(t.Context(), txn)
		require.NoError(t, err)

		// Another member leads: an earlier decision of a lands no more.
		v = read(t, a)
		txn, err = v.LeaderTxn(h.Guard(), Status{Position: 6}, Remove(KeeperKey))
		require.NoError(t, err)
		require.True(t, server.Delete("default", lock))
		_, err = sb.TryAcquire(t.Context(), lock, []byte("b"))
		require.NoError(t, err)
		_, err = a.Commit(t.Context(), txn)
		require.ErrorIs(t, err, dcs.ErrConflict)
		require.Equal(t, int64(5), read(t, b).Status.Position)

		// An operator may, if nothing has changed.
		txn, err = read(t, b).ForcedTxn(Remove(KeeperKey), Failsafe{})
		require.NoError(t, err)
		_, err = b.Commit(t.Context(), txn)
		require.NoError(t, err)
		v = read(t, b)
		require.Nil(t, v.Keeper)
		require.True(t, v.Failsafe.Empty())
	})
}

// A fault is refused before anything is sent, all faults at once.
func TestTxnRefusesFaults(t *testing.T) {
	v := Decode("pg", dcs.Snapshot{Revision: 1}, nil)
	for i, r := range []Record{
		Config{TTL: 10 * time.Second, LoopWait: 10 * time.Second, RetryTimeout: time.Second},
		Config{TTL: -1},
		Config{MaxLag: -1},
		Failover{},
		Failover{Leader: "a", Candidate: "a"},
		Failover{Leader: "a/b"},
		Sync{Leader: "a", Standbys: []string{"b,c"}},
		Sync{Leader: "a", Standbys: []string{"b"}, Quorum: 2},
		Sync{Standbys: []string{"b"}},
		Status{Position: -1},
		History{{Timeline: -1}},
		History{{Raw: []byte("{")}},
		Failsafe{Members: map[string]string{"a": "http://a:1"}},
		Failsafe{Members: map[string]string{"a": "a:1"}, TTL: time.Second},
		Failsafe{Members: map[string]string{"": "http://a:1"}, TTL: time.Second},
		Keeper{Name: "a", Token: 1},
		Keeper{Name: "a", Instance: "i"},
		Keeper{Instance: "i", Token: 1},
		Remove("leader"),
		Remove("members/a"),
	} {
		_, err := v.ForcedTxn(r)
		require.ErrorIs(t, err, dcs.ErrInvalid, "record %d: %+v", i, r)
	}
	_, err := v.ForcedTxn(Status{Position: -7}, Config{MaxLag: -9})
	require.Contains(t, fmt.Sprint(err), "-7")
	require.Contains(t, fmt.Sprint(err), "-9")
	for _, m := range []Member{{}, {Name: "a/b"}, {Name: "a", APIURL: "x"}, {Name: "a", Position: -1}, {Name: "a", Tags: map[string]json.RawMessage{"x": json.RawMessage("{")}}} {
		_, err := m.Encode()
		require.ErrorIs(t, err, dcs.ErrInvalid, "%+v", m)
	}
	for _, scheme := range []string{"ftp", "http"} {
		_, err = Member{Name: "a", APIURL: scheme + "://u:" + "secret" + "@h/"}.Encode()
		require.ErrorIs(t, err, dcs.ErrInvalid)
		require.NotContains(t, fmt.Sprint(err), "secret")
	}
}

func TestCheckNames(t *testing.T) {
	long := make([]byte, 500)
	for i := range long {
		long[i] = 'x'
	}
	for _, scope := range []string{"pg", "service/pg", "members/pg", string(long[:300])} {
		require.NoError(t, CheckScope(scope), scope)
	}
	for _, scope := range []string{"", "/pg", "pg/", ".pg", "pg/members", string(long)} {
		require.ErrorIs(t, CheckScope(scope), dcs.ErrInvalid, scope)
		_, err := Read(t.Context(), nil, scope)
		require.ErrorIs(t, err, dcs.ErrInvalid, scope)
		for _, err := range Watch(t.Context(), nil, scope) {
			require.ErrorIs(t, err, dcs.ErrInvalid, scope)
		}
	}
	for _, name := range []string{"a", "node-1.example.org", "a b", ".a"} {
		require.NoError(t, CheckName(name), name)
		require.NoError(t, dcs.CheckMemberKey(MemberKey("pg", name)))
	}
	for _, name := range []string{"", ".", "..", "a/b", "a,b", " a", "a\n", "ä", string(long)} {
		require.ErrorIs(t, CheckName(name), dcs.ErrInvalid, name)
	}
}

// Watch yields each change; an unreadable configuration leaves the last in force.
func TestWatch(t *testing.T) {
	inTime(t, func(t *testing.T, server *memstore.Server, a, _ *dcs.Store) {
		ctx, cancel := context.WithCancel(t.Context())
		views := make(chan *View, 10)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for v, err := range Watch(ctx, a, "pg") {
				if err == nil {
					views <- v
				}
			}
		}()
		require.NoError(t, server.Put("default", "pg/config", []byte(`{"pause":true}`)))
		put := func(value string) *View {
			synctest.Wait()
			for len(views) > 0 {
				<-views
			}
			require.NoError(t, server.Put("default", "pg/config", []byte(value)))
			return <-views
		}
		require.True(t, put(`{"pause":true,"ttl":30}`).Config.Pause)
		v := put("{")
		require.True(t, v.Config.Pause)
		require.Len(t, v.Problems, 1)
		v = put("{")
		require.Equal(t, 30*time.Second, v.Config.TTL)
		v = put("{}")
		require.False(t, v.Config.Pause)
		require.Len(t, v.Problems, 0)
		cancel()
		<-done
	})
}

// A position alone is published once in a while, everything else at once.
func TestPublisher(t *testing.T) {
	inTime(t, func(t *testing.T, server *memstore.Server, a, _ *dcs.Store) {
		p := NewPublisher(session(t, a), "pg", 10*time.Second)
		m := Member{Name: "a", Instance: "i", State: StateRunning, Position: 1}
		publish := func(want int64) {
			t.Helper()
			_, err := p.Publish(t.Context(), m)
			require.NoError(t, err)
			got, _ := read(t, a).Member("a")
			require.Equal(t, want, got.Position)
			require.Equal(t, m.State, got.State)
		}
		publish(1)
		m.Position = 2
		publish(1)
		time.Sleep(9 * time.Second)
		publish(1)
		time.Sleep(time.Second)
		publish(2)
		m.Position, m.State = 3, StateFailed
		publish(3)
		m.Position = 4
		fault := server.Inject(memstore.Match{Op: memstore.OpCommit}, memstore.Full())
		m.State = StateRunning
		_, err := p.Publish(t.Context(), m)
		require.Error(t, err)
		fault.Lift()
		publish(4)
		m.Name = "a/b"
		_, err = p.Publish(t.Context(), m)
		require.ErrorIs(t, err, dcs.ErrInvalid)
	})
}

// A Publish that waits for an earlier one ends with its own context.
func TestPublisherTakesTurns(t *testing.T) {
	inTime(t, func(t *testing.T, server *memstore.Server, a, _ *dcs.Store) {
		p := NewPublisher(session(t, a), "pg", 10*time.Second)
		hung := server.Inject(memstore.Match{Op: memstore.OpCommit}, memstore.Hang())
		first := make(chan error, 1)
		go func() { _, err := p.Publish(t.Context(), Member{Name: "a"}); first <- err }() // ends with its budget
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		_, err := p.Publish(ctx, Member{Name: "a", State: StateFailed})
		require.ErrorIs(t, err, dcs.ErrUnavailable)
		require.Equal(t, time.Second, time.Since(begin))
		hung.Lift()
		require.True(t, dcs.KindOf(<-first) != dcs.ErrInvalid) // it may have landed with a later copy
	})
}
