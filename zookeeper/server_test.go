package zookeeper

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// budget returns a context for one call.
func budget(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), suiteTiming.RetryTimeout)
	t.Cleanup(cancel)
	return ctx
}

// ours returns a client of the shared servers, without a fault injector.
func ours(t *testing.T, s *suite, change func(*Config)) *Backend {
	c := s.config(conformance.Opening{})
	if change != nil {
		change(&c)
	}
	b, err := New(c)
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

// P2: an acknowledgement of a follower does not prove a renewal yet, unless it is the first
// one on a connection: the leader has renewed the session then. The follower is frozen as
// soon as a renewal is answered. The key must exist until the Renewal's From + TTL. A
// renewal that counted from its own sending would fail that.
func TestRenewalIsProven(t *testing.T) {
	s := newSuite(t)
	if s.Cluster == nil {
		t.Skip("the servers are the user's own")
	}
	follower := (s.Cluster.Leader(t.Context()) + 1) % 3
	through := ours(t, s, func(c *Config) { c.Endpoints = []string{s.Endpoints[follower]} })
	look := ours(t, s, func(c *Config) { c.Endpoints = []string{s.Endpoints[(follower+1)%3]} })
	const ttl = 1500 * time.Millisecond
	gained := time.Duration(0)
	for round, reconnects := range []bool{false, true, false, true, false, true} {
		key := "held" + strconv.Itoa(round)
		l, first, err := through.Grant(budget(t), ttl)
		require.NoError(t, err)
		_, err = through.Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.PutLeased(key, nil, l.ID())}})
		require.NoError(t, err)
		// Wait until the leader has forgotten all earlier writes.
		require.Eventually(t, func() bool { return first.From.Elapsed() > ttl/2 }, ttl, time.Millisecond)
		if reconnects {
			l.(*lease).s.disconnect()
		}
		sent := dcs.Now()
		r, err := l.Renew(budget(t))
		require.NoError(t, err)
		require.Equal(t, reconnects, sent.Before(r.From), "the renewal is proven by an earlier write, or by the new connection")
		gained += r.From.Elapsed() - first.From.Elapsed()
		thaw, err := s.Cluster.Servers()[follower].Process().Freeze()
		require.NoError(t, err)
		for r.From.Elapsed() < ttl {
			_, err := look.Get(budget(t), key)
			if r.From.Elapsed() < ttl {
				require.NoError(t, err, "gone %v after From", r.From.Elapsed())
			}
		}
		thaw()
		require.NoError(t, s.Cluster.Healthy(t.Context()))
	}
	require.Negative(t, gained, "From has moved on since the grant")
}

// From follows the renewals within two ticks and the servers' latency, though a
// renewal is one write.
func TestFromNeverLagsByALoopWait(t *testing.T) {
	b := ours(t, newSuite(t), nil)
	l, _, err := b.Grant(budget(t), suiteTiming.TTL)
	require.NoError(t, err)
	for range 3 {
		<-time.After(suiteTiming.LoopWait)
		sent := dcs.Now()
		r, err := l.Renew(budget(t))
		require.NoError(t, err)
		lag := r.From.Elapsed() - sent.Elapsed()
		require.Less(t, lag, 2*testcluster.ZooKeeperTick+suiteTiming.LoopWait/2)
	}
}

// The library makes a new session by itself when one is over, and sends its
// queued requests in that. Ours connects no more.
func TestNoSecondSessionUnderALease(t *testing.T) {
	s := newSuite(t)
	if s.Cluster == nil {
		t.Skip("the servers are the user's own")
	}
	b, err := newBackend(s.config(conformance.Opening{}), hooks{})
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	s.clients = append(s.clients, b)
	l, _, err := b.Grant(budget(t), suiteTiming.TTL)
	require.NoError(t, err)
	_, err = b.Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.PutLeased("mine", nil, l.ID())}})
	require.NoError(t, err)
	s.endLease(t, l.ID())
	_, err = l.Renew(budget(t))
	require.ErrorIs(t, err, dcs.ErrLost)
	_, err = b.Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.PutLeased("mine", nil, l.ID())}})
	require.ErrorIs(t, err, dcs.ErrLost)
	_, err = l.Renew(budget(t))
	require.ErrorIs(t, err, dcs.ErrLost)
	select {
	case <-l.(*lease).s.gone: // the library has finished
	case <-time.After(10 * time.Second):
		require.Fail(t, "the library may still make a session")
	}
	_, err = b.Get(budget(t), "mine")
	require.ErrorIs(t, err, dcs.ErrNotFound)

	// The library alone does so, which shows that the test can fail.
	var first *trackedConn
	direct := s.Cluster.Servers()[0].Direct()
	raw, _, err := zk.Connect([]string{direct}, suiteTiming.TTL, zk.WithLogInfo(false), zk.WithLogger(silent{}),
		zk.WithDialer(func(string, string, time.Duration) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", direct)
			if err != nil || first != nil {
				return c, err
			}
			first, err = newTrackedConn(c, direct, false, time.Time{})
			return first, err
		}))
	require.NoError(t, err)
	defer raw.Close()
	_, _, err = raw.Exists("/")
	require.NoError(t, err)
	_, g := first.grant()
	require.NoError(t, b.aside(budget(t), s.Endpoints[0], func(c net.Conn) error {
		if _, err := ask(c, g, 0); err != nil {
			return err
		}
		return endSession(c)
	}))
	require.Eventually(t, func() bool { return raw.State() == zk.StateHasSession && raw.SessionID() != g.id }, 10*time.Second, 10*time.Millisecond)
}

// A server that accepts connections and never answers is detected within one
// attempt. The library alone waits for 6.7 session timeouts.
func TestSilentServerIsNoticedWithinAnAttempt(t *testing.T) {
	s := newSuite(t)
	if s.Cluster == nil {
		t.Skip("the servers are the user's own")
	}
	var log lines
	b := ours(t, s, func(c *Config) { c.Logger = log.logger() })
	_, err := b.Get(budget(t), "k")
	require.ErrorIs(t, err, dcs.ErrNotFound)
	for i := range 3 {
		heal := s.Cluster.Servers()[i].Proxy().Silent()
		for range 5 {
			began := time.Now()
			_, err := b.Get(budget(t), "k")
			require.ErrorIs(t, err, dcs.ErrNotFound)
			require.Less(t, time.Since(began), suiteTiming.RetryTimeout/3)
		}
		heal()
	}
}

// Other programs write and read the same nodes: plain nodes with plain values,
// as zkCli and Patroni make them.
func TestForeignWriters(t *testing.T) {
	s := newSuite(t)
	b := ours(t, s, nil)
	s.admin(t, func(c *zk.Conn) {
		all := zk.WorldACL(zk.PermAll)
		for _, path := range append(parents("/"+s.Root+"/members"), "/"+s.Root+"/members") {
			if _, err := c.Create(path, nil, 0, all); !errors.Is(err, zk.ErrNodeExists) {
				require.NoError(t, err)
			}
		}
		_, err := c.Create("/"+s.Root+"/leader", []byte("a"), zk.FlagEphemeral, all)
		require.NoError(t, err)
		_, err = c.Create("/"+s.Root+"/members/a", []byte(`{"role":"primary"}`), zk.FlagEphemeral, all)
		require.NoError(t, err)
		got, err := b.Snapshot(budget(t), "")
		require.NoError(t, err)
		require.Len(t, got.Entries, 2, "the parents are not keys")
		leader, _ := got.Get("leader")
		require.Equal(t, "a", string(leader.Value))
		require.Equal(t, leaseID(c.SessionID()), leader.Lease)

		// The Store sees their changes, which conflict with its own.
		seen := make(chan dcs.Snapshot, 1)
		go func() {
			s, _ := b.Wait(budget(t), "leader", got.Revision)
			seen <- s
		}()
		_, err = c.Set("/"+s.Root+"/leader", []byte("b"), -1)
		require.NoError(t, err)
		now := <-seen
		require.Len(t, now.Entries, 1)
		require.Equal(t, "b", string(now.Entries[0].Value))
		_, err = b.Commit(budget(t), dcs.Txn{If: []dcs.Cond{dcs.ModifiedAt("leader", leader.Modified)}, Then: []dcs.Write{dcs.Put("leader", nil)}})
		require.ErrorIs(t, err, dcs.ErrConflict)
		require.NoError(t, c.Delete("/"+s.Root+"/leader", -1))

		// The other program sees the Store's changes.
		l, _, err := b.Grant(budget(t), suiteTiming.TTL)
		require.NoError(t, err)
		_, err = b.Commit(budget(t), dcs.Txn{
			If:   []dcs.Cond{dcs.Absent("leader")},
			Then: []dcs.Write{dcs.PutLeased("leader", []byte("c"), l.ID()), dcs.PutLeased("members/c", []byte("{}"), l.ID()), dcs.Put("config", []byte("ttl: 30"))},
		})
		require.NoError(t, err)
		for path, want := range map[string]string{"leader": "c", "members/c": "{}", "config": "ttl: 30"} {
			value, stat, err := c.Get("/" + s.Root + "/" + path)
			require.NoError(t, err)
			require.Equal(t, want, string(value))
			require.Equal(t, path != "config", stat.EphemeralOwner != 0, path)
		}
		_, err = c.Create("/"+s.Root+"/leader", []byte("d"), zk.FlagEphemeral, all)
		require.ErrorIs(t, err, zk.ErrNodeExists)
	})
}

// A key has no keys below it, also if only the stored nodes show that.
func TestKeysBelowKeysAreRefused(t *testing.T) {
	b := ours(t, newSuite(t), nil)
	l, _, err := b.Grant(budget(t), suiteTiming.TTL)
	require.NoError(t, err)
	_, err = b.Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.Put("a/b", nil), dcs.PutLeased("c", nil, l.ID())}})
	require.NoError(t, err)
	_, err = b.Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.Put("a", nil)}})
	require.ErrorIs(t, err, dcs.ErrInvalid)
	_, err = b.Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.Put("c/d", nil)}})
	require.ErrorIs(t, err, dcs.ErrInvalid)
	_, err = b.Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.Delete("a/b")}})
	require.NoError(t, err)
	first, err := b.Commit(budget(t), dcs.Txn{If: []dcs.Cond{dcs.Absent("a")}, Then: []dcs.Write{dcs.Put("a", nil)}})
	require.NoError(t, err, "the keys below are gone")
	e, err := b.Get(budget(t), "a")
	require.NoError(t, err)
	require.Equal(t, first, e.Created)
}

// Parents and bookkeeping that another client deleted are made again.
func TestWholeTreeIsDeleted(t *testing.T) {
	s := newSuite(t)
	b := ours(t, s, nil)
	put := func() {
		_, err := b.Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.Put("deep/er/key", []byte("v"))}})
		require.NoError(t, err)
	}
	put()
	s.admin(t, func(c *zk.Conn) {
		var remove func(path string)
		remove = func(path string) {
			names, _, err := c.Children(path)
			require.NoError(t, err)
			for _, n := range names {
				remove(path + "/" + n)
			}
			require.NoError(t, c.Delete(path, -1))
		}
		remove("/" + s.Root)
	})
	put()
	e, err := b.Get(budget(t), "deep/er/key")
	require.NoError(t, err)
	require.Equal(t, "v", string(e.Value))
}

// The servers' limits and tick are learnt at Open, or at the first Grant.
func TestLimitsAreLearnt(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{Kind: testcluster.ZooKeeper, Nodes: 1, Loopback: true, Flags: []string{"maxSessionTimeout=2000"}})
	tick := testcluster.ZooKeeperTick
	conf := Config{Endpoints: c.Endpoints(), Root: "learnt", Timing: dcs.Timing{TTL: 2 * time.Second, LoopWait: 500 * time.Millisecond, RetryTimeout: 700 * time.Millisecond}}
	b, err := open(t.Context(), conf, false)
	require.NoError(t, err)
	defer b.Close()
	require.Equal(t, limits{2 * tick, 20 * tick, tick}, b.limits())
	require.Equal(t, []time.Duration{2 * tick, 20 * tick}, []time.Duration{b.Caps().MinTTL, b.Caps().MaxTTL})

	fresh, err := New(conf)
	require.NoError(t, err)
	defer fresh.Close()
	require.Equal(t, 40*time.Second, fresh.Caps().MaxTTL, "ZooKeeper's default")
	_, r, err := fresh.Grant(budget(t), time.Hour)
	require.NoError(t, err)
	require.Equal(t, 20*tick, r.TTL)
	require.Equal(t, 20*tick, fresh.Caps().MaxTTL)
}

// With ZooKeeper's own tick and limits, and the timing that docs/operations.md
// recommends for them, a holder's calls survive a frozen leader, which its
// followers detect after 10 s.
func TestZooKeepersOwnDefaults(t *testing.T) {
	if os.Getenv("HOLDFAST_PROFILE") != "slow" {
		t.Skip("only in the slow profile, because the test takes a minute")
	}
	c := testcluster.New(t, testcluster.Options{Kind: testcluster.ZooKeeper, Defaults: true})
	timing := dcs.Timing{TTL: 35 * time.Second, LoopWait: 5 * time.Second, RetryTimeout: 14 * time.Second}
	b, err := open(t.Context(), Config{Endpoints: c.Endpoints(), Root: "defaults", Timing: timing}, false)
	require.NoError(t, err)
	defer b.Close()
	require.Equal(t, limits{4 * time.Second, 40 * time.Second, 2 * time.Second}, b.limits())
	store, err := dcs.New(b, dcs.Options{Timing: timing})
	require.NoError(t, err)
	session, err := store.NewSession(t.Context(), dcs.SessionOptions{})
	require.NoError(t, err)
	hold, err := session.Acquire(t.Context(), "leader", []byte("a"))
	require.NoError(t, err)

	thaw, err := c.Servers()[c.Leader(t.Context())].Process().Freeze()
	require.NoError(t, err)
	defer thaw()
	slowest, calls := time.Duration(0), 0
	for began := time.Now(); time.Since(began) < 40*time.Second; calls++ {
		begin := time.Now()
		_, err := store.Commit(t.Context(), dcs.Txn{If: []dcs.Cond{hold.Guard()}, Then: []dcs.Write{dcs.Put("k", nil)}})
		require.NoError(t, err)
		require.True(t, hold.Valid())
		slowest = max(slowest, time.Since(begin))
	}
	t.Logf("%d calls, the slowest %v", calls, slowest)
	require.Greater(t, slowest, 5*time.Second, "no call waited for an election")
	require.NoError(t, hold.Confirm(t.Context()))
}

// The nodes that a user makes belong to that user alone, unless an ACL says
// otherwise.
func TestNodesBelongToTheirUser(t *testing.T) {
	s := newSuite(t)
	mine := func(c *Config) { c.User, c.Password = "me", "mine" }
	b := ours(t, s, mine)
	_, err := b.Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte("v"))}})
	require.NoError(t, err)
	_, err = ours(t, s, mine).Get(budget(t), "k")
	require.NoError(t, err)
	_, err = ours(t, s, nil).Get(budget(t), "k")
	require.ErrorIs(t, err, dcs.ErrUnauthorized)
	require.ErrorContains(t, err, "cdrw on /"+s.Root)

	s = s.fresh(t)
	_, err = ours(t, s, func(c *Config) { mine(c); c.ACL = "auth::cdrwa,world:anyone:r" }).
		Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte("v"))}})
	require.NoError(t, err)
	_, err = ours(t, s, nil).Get(budget(t), "k")
	require.NoError(t, err, "the ACL lets all clients read")
}

// lines counts the writes to a log.
type lines struct{ atomic.Int64 }

func (l *lines) Write(p []byte) (int, error) { l.Add(1); return len(p), nil }

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }
