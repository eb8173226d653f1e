package consul

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/harness"
)

// lines collects the lines of a log.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// await waits until the log contains text.
func (l *lines) await(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(l.String(), text) }, 10*time.Second, time.Millisecond)
}

// budget returns a context for one call.
func budget(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), suiteTiming.RetryTimeout)
	t.Cleanup(cancel)
	return ctx
}

// With one agent the sessions belong to the agent's own node, need no permission on
// another one, and a warning states the consequence.
func TestOneAgentNeedsNoCatalog(t *testing.T) {
	s := newSuite(t)
	if s.Cluster == nil {
		t.Skip("the servers are the user's own")
	}
	var log lines
	c := s.config(conformance.Opening{})
	c.Endpoints, c.Node, c.Logger = c.Endpoints[:1], "", log.logger()
	b, err := open(t.Context(), c, false)
	require.NoError(t, err)
	defer b.Close()
	log.await(t, "sessions belong to the agent's node")
	l, _, err := b.Grant(budget(t), suiteTiming.TTL)
	require.NoError(t, err)
	info, _, err := s.admin(t).Session().Info(string(l.ID()), nil)
	require.NoError(t, err)
	self, err := s.admin(t).Agent().NodeName()
	require.NoError(t, err)
	require.Equal(t, self, info.Node)
	require.Empty(t, info.NodeChecks)
	require.Equal(t, "delete", info.Behavior)
	require.NoError(t, l.Revoke(budget(t)))
}

// The minimum session TTL is learnt at Open, or at the first Grant of a Backend that New
// made.
func TestShortestSessionIsLearnt(t *testing.T) {
	s := newSuite(t)
	c := s.config(conformance.Opening{})
	c.MinTTL = 0
	b, err := open(t.Context(), c, false)
	require.NoError(t, err)
	defer b.Close()
	require.Equal(t, time.Second, b.Caps().MinTTL)

	c.MinTTL = time.Millisecond
	b, err = New(c)
	require.NoError(t, err)
	defer b.Close()
	_, r, err := b.Grant(budget(t), 10*time.Millisecond)
	require.NoError(t, err)
	require.Equal(t, time.Second, r.TTL)
	require.Equal(t, time.Second, b.Caps().MinTTL)
}

// A node that was removed from the catalog is registered again.
func TestMissingNodeIsRegistered(t *testing.T) {
	s := newSuite(t)
	c := s.config(conformance.Opening{})
	c.Node = "holdfast-taken-away"
	b, err := New(c)
	require.NoError(t, err)
	defer b.Close()
	for range 2 {
		l, _, err := b.Grant(budget(t), suiteTiming.TTL)
		require.NoError(t, err)
		_, err = s.admin(t).Catalog().Deregister(&api.CatalogDeregistration{Node: c.Node}, nil)
		require.NoError(t, err)
		_, err = l.Renew(budget(t))
		require.ErrorIs(t, err, dcs.ErrLost, "a session ends with its node")
	}
}

// If a session of another program held a key, the lock-delay of that session applies.
// During the delay the key cannot be locked, and the error names the delay.
func TestForeignLockDelay(t *testing.T) {
	s := newSuite(t)
	admin, b := s.admin(t), s.open(t)
	defer b.Close()
	foreign := &api.SessionEntry{LockDelay: 6 * time.Second, Behavior: "delete"}
	if os.Getenv("HOLDFAST_PROFILE") == "slow" {
		foreign.LockDelay = 0 // Consul's default of 15 s
	}
	id, _, err := admin.Session().Create(foreign, nil)
	require.NoError(t, err)
	ok, _, err := admin.KV().Acquire(&api.KVPair{Key: s.Root + "/leader", Session: id}, nil)
	require.NoError(t, err)
	require.True(t, ok)
	l, _, err := b.Grant(budget(t), suiteTiming.TTL)
	require.NoError(t, err)
	_, err = admin.Session().Destroy(id, nil)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err = b.Commit(ctx, dcs.Txn{If: []dcs.Cond{dcs.Absent("leader")}, Then: []dcs.Write{dcs.PutLeased("leader", nil, l.ID())}})
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.NotErrorIs(t, err, dcs.ErrAmbiguous, "every copy was refused")
	require.ErrorContains(t, err, "lock delay")
	require.Eventually(t, func() bool {
		_, err := b.Commit(budget(t), dcs.Txn{If: []dcs.Cond{dcs.Absent("leader")}, Then: []dcs.Write{dcs.PutLeased("leader", nil, l.ID())}})
		return err == nil
	}, 20*time.Second, 50*time.Millisecond)
}

// Sessions have the configured checks and the configured lock-delay.
func TestChecksAndLockDelayAsAsked(t *testing.T) {
	s := newSuite(t)
	c := s.config(conformance.Opening{})
	c.Endpoints, c.Node, c.Checks, c.LockDelay = c.Endpoints[:1], "", []string{"serfHealth"}, 3*time.Second
	var log lines
	c.Logger = log.logger()
	b, err := open(t.Context(), c, false)
	require.NoError(t, err)
	defer b.Close()
	log.await(t, "lock_delay=3s")
	l, _, err := b.Grant(budget(t), suiteTiming.TTL)
	require.NoError(t, err)
	info, _, err := s.admin(t).Session().Info(string(l.ID()), nil)
	require.NoError(t, err)
	require.Equal(t, []string{"serfHealth"}, info.NodeChecks)
	require.Equal(t, 3*time.Second, info.LockDelay)
	require.NoError(t, l.Revoke(budget(t)))
}

// Logs and errors have no secrets.
func TestTokensAreNotLogged(t *testing.T) {
	cluster := secured.Get(t)
	conf, err := cluster.Authority().Client().Config(cluster.Authority())
	require.NoError(t, err)
	tok := &tokens{tb: t, admin: (&suite{Env: harness.Env{Cluster: cluster}}).admin(t), file: t.TempDir() + "/token"}
	tok.renew(testcluster.ConsulReader)
	secret, err := os.ReadFile(tok.file)
	require.NoError(t, err)
	var log lines
	b, err := openSecure(cluster, conf, tok.file, log.logger())
	require.NoError(t, err)
	defer b.Close()
	_, err = b.Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.ErrorIs(t, err, dcs.ErrUnauthorized)
	require.ErrorContains(t, err, `key_prefix "holdfast/suite/" { policy = "write" }`)
	require.NotContains(t, err.Error()+log.String(), strings.TrimSpace(string(secret)))
}

// A token that may only read keys can open the store and read.
func TestReaderOpens(t *testing.T) {
	cluster := secured.Get(t)
	conf, err := cluster.Authority().Client().Config(cluster.Authority())
	require.NoError(t, err)
	tok := &tokens{tb: t, admin: (&suite{Env: harness.Env{Cluster: cluster}}).admin(t), file: t.TempDir() + "/token"}
	tok.renew(`key_prefix "holdfast/" { policy = "read" }`)
	b, err := open(t.Context(), Config{
		Endpoints: cluster.Endpoints(), Root: harness.EnvRoot, Node: "holdfast-suite", Timing: suiteTiming, TLS: conf, TokenFile: tok.file,
	}, false)
	require.NoError(t, err)
	defer b.Close()
	s, err := b.Snapshot(budget(t), "")
	require.NoError(t, err)
	c, err := b.connected(b.Endpoints()[0])
	require.NoError(t, err)
	dc, err := readDatacenter(budget(t), c.api)
	require.NoError(t, err)
	require.Equal(t, "dc1", dc, "the datacenter needs no permission")
	_, _, err = b.Grant(budget(t), suiteTiming.TTL)
	require.ErrorIs(t, err, dcs.ErrUnauthorized)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = b.Wait(ctx, "nothing", s.Revision)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// With Consul's defaults, a frozen server is removed from the catalog after some ten
// seconds. The sessions that were created on it stay alive, because they belong to a
// separate node. The minimum session TTL is 10 s.
func TestConsulsOwnDefaults(t *testing.T) {
	if os.Getenv("HOLDFAST_PROFILE") != "slow" {
		t.Skip("runs in the slow profile only: it takes a minute")
	}
	c := testcluster.New(t, testcluster.Options{Kind: testcluster.Consul, Defaults: true})
	b, err := open(t.Context(), Config{Endpoints: c.Endpoints(), Root: "defaults"}, false)
	require.NoError(t, err)
	defer b.Close()
	require.Equal(t, 10*time.Second, b.Caps().MinTTL)
	store, err := dcs.New(b, dcs.Options{})
	require.NoError(t, err)
	session, err := store.NewSession(t.Context(), dcs.SessionOptions{})
	require.NoError(t, err)
	hold, err := session.Acquire(t.Context(), "leader", []byte("a"))
	require.NoError(t, err)
	follower := (c.Leader(t.Context()) + 1) % 3
	thaw, err := c.Servers()[follower].Process().Freeze()
	require.NoError(t, err)
	defer thaw()
	admin, err := c.ConsulAdmin(c.Leader(t.Context()))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		nodes, _, err := admin.Catalog().Nodes(nil)
		return err == nil && len(nodes) == 3 // two servers and the sessions' node
	}, 60*time.Second, 200*time.Millisecond, "the frozen server is still in the catalog")
	require.NoError(t, hold.Confirm(t.Context()))
	require.True(t, hold.Valid())
	require.NoError(t, hold.Release(t.Context()))
}
