package interop

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

func TestRecords(t *testing.T) {
	t.Parallel()
	onEachStore(t, func(t *testing.T, s *server) {
		store := s.open(t)
		t.Run("written by this module", func(t *testing.T) { writtenByUs(t, s, store) })
		t.Run("written by Patroni", func(t *testing.T) { writtenByPatroni(t, s, store) })
		t.Run("written by both", func(t *testing.T) { writtenByBoth(t, s, store) })
		t.Run("lock", func(t *testing.T) { oneLock(t, s, store) })
	})
}

// session starts a session that lasts until the end of the test.
func session(t *testing.T, store *dcs.Store) *dcs.Session {
	t.Helper()
	n, err := store.NewSession(t.Context(), dcs.SessionOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		require.NoError(t, n.Close(ctx))
	})
	return n
}

func read(t *testing.T, store *dcs.Store, scope string) *cluster.View {
	t.Helper()
	v, err := cluster.Read(t.Context(), store, scope)
	require.NoError(t, err)
	require.Empty(t, v.Problems)
	return v
}

// commit commits a transaction of the cluster package.
func commit(t *testing.T, store *dcs.Store, txn dcs.Txn, err error) error {
	t.Helper()
	require.NoError(t, err)
	_, err = store.Commit(t.Context(), txn)
	return err
}

func raw(text string) json.RawMessage { return json.RawMessage(text) }

const (
	segment    = 16 << 20 // of PostgreSQL's log
	identifier = "7301234567890123456"
)

var (
	config = cluster.Config{
		TTL: 30 * time.Second, LoopWait: 10 * time.Second, RetryTimeout: 10 * time.Second, MaxLag: 1 << 20, FailsafeMode: true,
		Extra: cluster.Extra{"postgresql": raw(`{"use_slots":true}`)},
	}
	history = cluster.History{
		{Timeline: 1, Position: segment, Reason: "no recovery target specified"},
		{Timeline: 2, Position: 4 * segment, Reason: "no recovery target specified", Time: "2026-01-31T15:04:05.000001+00:00", Leader: "a"},
	}
	members = []cluster.Member{
		{
			Name: "a", Instance: "1", APIURL: "http://10.0.0.1:8008/patroni", ConnURL: "postgres://10.0.0.1:5433/postgres",
			State: cluster.StateRunning, Role: cluster.RolePrimary, Version: "1.0.0", Position: 5 * segment, Timeline: 3,
		},
		{
			Name: "b", Instance: "2", APIURL: "http://10.0.0.2:8008/patroni", ConnURL: "postgres://10.0.0.2:5433/postgres",
			State: cluster.StateRunning, Role: cluster.RoleReplica, Version: "1.0.0", Position: 4 * segment, Timeline: 3,
			Tags: map[string]json.RawMessage{"clonefrom": raw(`true`)},
		},
	}
	failsafe = cluster.Failsafe{Members: map[string]string{"a": "http://10.0.0.1:8008/patroni", "b": "http://10.0.0.2:8008/patroni"}, TTL: 30 * time.Second}
)

// patronictl and Patroni's classes read a cluster that this module has written.
func writtenByUs(t *testing.T, s *server, store *dcs.Store) {
	const scope = "ours"
	n := session(t, store)
	for _, m := range members {
		_, err := cluster.NewPublisher(n, scope, time.Second).Publish(t.Context(), m)
		require.NoError(t, err)
	}
	hold, err := n.TryAcquire(t.Context(), cluster.Key(scope, cluster.LeaderKey), []byte("a"))
	require.NoError(t, err)
	at := time.Date(2099, 1, 31, 15, 4, 5, 0, time.UTC)
	txn, err := read(t, store, scope).LeaderTxn(hold.Guard(), config, cluster.Initialize(identifier), history, failsafe,
		cluster.Failover{Leader: "a", Candidate: "b", At: at},
		cluster.Sync{Leader: "a", Standbys: []string{"b"}},
		cluster.Status{Position: 5 * segment, Slots: map[string]int64{"logical": segment}})
	require.NoError(t, commit(t, store, txn, err))

	ctl := s.patroni(t, scope, "x")
	require.JSONEq(t, `[
		{"Cluster":"ours","Member":"a","Host":"10.0.0.1:5433","Role":"Leader","State":"running","TL":3},
		{"Cluster":"ours","Member":"b","Host":"10.0.0.2:5433","Role":"Sync Standby","State":"running","TL":3,"Lag in MB":16,"Tags":{"clonefrom":true}}
	]`, ctl.ctl(t, "list", "-f", "json"))
	require.JSONEq(t, `[
		{"TL":1,"LSN":16777216,"Reason":"no recovery target specified","Timestamp":"","New Leader":""},
		{"TL":2,"LSN":67108864,"Reason":"no recovery target specified","Timestamp":"2026-01-31T15:04:05.000001+00:00","New Leader":"a"}
	]`, ctl.ctl(t, "history", "-f", "json"))
	require.Equal(t, `failsafe_mode: true
loop_wait: 10
maximum_lag_on_failover: 1048576
postgresql:
  use_slots: true
retry_timeout: 10
ttl: 30

`, ctl.ctl(t, "show-config"))

	c := ctl.member(t).until(leads("a"))
	require.Equal(t, identifier, c.Initialize)
	require.EqualValues(t, 5*segment, c.LastLSN)
	require.Equal(t, map[string]int64{"logical": segment}, c.Slots)
	require.Equal(t, []string{"a", "b"}, c.Failover)
	require.JSONEq(t, `["a",["b"]]`, string(c.Sync))
	require.Len(t, c.Failsafe, 2)
	require.Contains(t, string(c.List), `"scheduled_switchover": {"at": "2099-01-31T15:04:05+00:00", "from": "a", "to": "b"}`)
	for _, m := range members {
		value, err := m.Encode()
		require.NoError(t, err)
		require.JSONEq(t, string(value), string(c.Members[m.Name]))
	}
}

// This module reads a cluster that Patroni has written.
func writtenByPatroni(t *testing.T, s *server, store *dcs.Store) {
	const scope = "theirs"
	p := s.patroni(t, scope, "p").member(t)
	data := map[string]any{
		"conn_url": "postgres://10.0.0.3:5432/postgres", "api_url": "http://10.0.0.3:8008/patroni", "state": "running", "role": "master",
		"version": "3.0.2", "xlog_location": 5 * segment, "timeline": 3, "tags": map[string]any{"nofailover": true}, "proxy_url": "x",
	}
	require.True(t, p.do("initialize", true, identifier))
	require.True(t, p.do("touch_member", data))
	require.True(t, p.do("attempt_to_acquire_leader"))
	p.until(leads("p")) // as its loop does: update_leader uses the last cluster that was read
	require.True(t, p.do("update_leader", 5*segment, map[string]int64{"logical": segment}, failsafe.Members))
	require.True(t, p.do("set_config_value", `{"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "maximum_lag_on_failover": 1048576, "failsafe_mode": true, "postgresql": {"use_slots": true}}`))
	require.True(t, p.do("set_history_value", `[[1,16777216,"no recovery target specified"],[2,67108864,"no recovery target specified","2026-01-31T15:04:05.000001+00:00","a"]]`))
	require.True(t, p.do("set_sync_state_value", `{"leader": "p", "sync_standby": "a,b"}`))
	require.True(t, p.do("manual_failover", "p", "a", "2099-01-31T15:04:05+01:00"))

	v := read(t, store, scope)
	require.Equal(t, "p", v.Leader.Name)
	require.NotEmpty(t, v.Leader.Lease)
	require.NotZero(t, v.Leader.Token)
	require.Equal(t, cluster.Initialize(identifier), v.Initialize)
	require.Equal(t, config.Timing(), v.Config.Timing())
	require.True(t, v.Config.FailsafeMode)
	require.EqualValues(t, 1<<20, v.Config.MaxLag)
	require.JSONEq(t, `{"use_slots":true}`, string(v.Config.Extra["postgresql"]))
	require.Equal(t, history, v.History)
	require.Equal(t, cluster.Sync{Leader: "p", Standbys: []string{"a", "b"}}, v.Sync)
	require.EqualValues(t, 5*segment, v.Status.Position)
	require.Equal(t, map[string]int64{"logical": segment}, v.Status.Slots)
	require.Equal(t, cluster.Failsafe{Members: failsafe.Members}, v.Failsafe)
	require.Equal(t, "a", v.Failover.Candidate)
	require.True(t, v.Failover.At.Equal(time.Date(2099, 1, 31, 14, 4, 5, 0, time.UTC)), v.Failover.At)
	m, ok := v.Member("p")
	require.True(t, ok)
	require.True(t, m.Primary())
	require.True(t, m.NoFailover())
	require.Equal(t, v.Leader.Lease, m.Lease)
	require.Equal(t, cluster.Extra{"proxy_url": raw(`"x"`)}, m.Extra)
	require.Equal(t, "http://10.0.0.3:8008/patroni", m.APIURL)
	require.EqualValues(t, 3, m.Timeline)

	require.True(t, p.do("set_failover_value", "{}"))
	require.True(t, p.do("delete_sync_state"))
	v = read(t, store, scope)
	require.Nil(t, v.Failover)
	require.Empty(t, v.Sync)
}

// Neither overwrites a configuration that the other one has changed since it was read.
func writtenByBoth(t *testing.T, s *server, store *dcs.Store) {
	const scope = "both"
	ctl := s.patroni(t, scope, "p")
	p := ctl.member(t)
	put := func(v *cluster.View, lag int64) error {
		c := v.Config
		c.MaxLag = lag
		txn, err := v.Txn(c)
		return commit(t, store, txn, err)
	}
	require.NoError(t, put(read(t, store, scope), 1))
	require.NoError(t, put(read(t, store, scope), 2)) // ZooKeeper's version 0 is no condition to Patroni
	old := p.until(lag(2))
	v := read(t, store, scope)
	require.NoError(t, put(v, 3))
	require.False(t, p.do("set_config_value", `{"maximum_lag_on_failover": 4}`, old.ConfigIndex), "over a change of this module")

	v = read(t, store, scope)
	require.Contains(t, ctl.ctl(t, "edit-config", "--force", "-s", "maximum_lag_on_failover=5", "-s", "postgresql.parameters.work_mem=4MB"), "Configuration changed")
	require.ErrorIs(t, put(v, 6), dcs.ErrConflict, "over a change of Patroni's")
	v = read(t, store, scope)
	require.EqualValues(t, 5, v.Config.MaxLag)
	require.NoError(t, put(v, 7))
	require.JSONEq(t, `{"maximum_lag_on_failover": 7, "postgresql": {"parameters": {"work_mem": "4MB"}}}`, string(p.until(lag(7)).Config))
}

// The two exclude each other by one lock.
func oneLock(t *testing.T, s *server, store *dcs.Store) {
	const scope = "lock"
	key := cluster.Key(scope, cluster.LeaderKey)
	p := s.patroni(t, scope, "p").member(t)
	n := session(t, store)
	require.True(t, p.do("attempt_to_acquire_leader"))
	theirs := read(t, store, scope).Leader
	_, err := n.TryAcquire(t.Context(), key, []byte("a"))
	require.ErrorIs(t, err, dcs.ErrConflict)

	acquired := make(chan *dcs.Hold, 1)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	go func() {
		h, err := n.Acquire(ctx, key, []byte("a"))
		if err != nil {
			t.Error(err)
		}
		acquired <- h
	}()
	p.until(leads("p"))
	require.True(t, p.do("delete_leader"))
	h := <-acquired
	require.NotNil(t, h)
	require.Greater(t, h.Token(), theirs.Token)
	p.until(leads("a"))
	require.False(t, p.do("attempt_to_acquire_leader"))
	require.NoError(t, h.Confirm(t.Context()))

	require.NoError(t, h.Release(t.Context()))
	require.True(t, p.do("attempt_to_acquire_leader"))
	require.Greater(t, read(t, store, scope).Leader.Token, h.Token())
}
