package consul

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
)

// A root cannot use the catalog node that another root registered. Open and the first
// Grant fail, and leave no session on the node.
func TestNodeOfAnotherRootIsRefused(t *testing.T) {
	s := newSuite(t)
	c := s.config(conformance.Opening{})
	c.Node = nodeOf(s.Root)
	b, err := open(t.Context(), c, false)
	require.NoError(t, err)
	defer b.Close()
	l, _, err := b.Grant(budget(t), suiteTiming.TTL)
	require.NoError(t, err)
	_, err = b.Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.PutLeased("k", nil, l.ID())}})
	require.NoError(t, err)

	other := c
	other.Root += "-other"
	_, err = open(t.Context(), other, false)
	require.ErrorIs(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, c.Root)
	require.ErrorContains(t, err, "Config.Node")
	other.Endpoints = other.Endpoints[:1] // no second copy of the Grant, which could leave a session
	o, err := New(other)
	require.NoError(t, err)
	defer o.Close()
	otherTTL := suiteTiming.TTL + time.Second
	_, _, err = o.Grant(budget(t), otherTTL)
	require.ErrorIs(t, err, dcs.ErrInvalid)
	sessions, _, err := s.admin(t).Session().Node(c.Node, nil)
	require.NoError(t, err)
	require.NotEmpty(t, sessions, "of the first root")
	for _, session := range sessions {
		require.NotEqual(t, otherTTL.String(), session.TTL, "of the other root")
	}

	same, err := open(t.Context(), c, false)
	require.NoError(t, err, "another program of the same root")
	require.NoError(t, same.Close())

	// Both found no node, and the other root registered it first.
	conn, err := o.connected(o.Endpoints()[0])
	require.NoError(t, err)
	require.NoError(t, o.register(budget(t), conn))
	node, _, err := s.admin(t).Catalog().Node(c.Node, nil)
	require.NoError(t, err)
	require.Equal(t, c.Root, node.Node.Meta[metaRoot])
}

// A session that was created on the catalog node of another root is destroyed at once.
func TestSessionOnAnotherRootsNodeIsEnded(t *testing.T) {
	a := newFake(t)
	b := fakeClient(t, func(c *Config) { c.Node = "shared" }, a)
	a.answer("node", http.StatusOK, `{"Node": {"Node": "shared", "Meta": {"holdfast-root": "another"}}}`)
	_, _, err := b.Grant(budget(t), suiteTiming.TTL)
	require.ErrorIs(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, `"another"`)
	require.Contains(t, a.heard(), "destroy")
}

// The client of Consul's API has the Backend's credentials and no settings of the
// environment.
func TestClientHasTheBackendsSettings(t *testing.T) {
	for name, value := range map[string]string{
		api.HTTPNamespaceEnvName: "leaked", api.HTTPPartitionEnvName: "leaked", api.HTTPTokenFileEnvName: "/no/such/file", api.HTTPAddrEnvName: "leaked:1",
	} {
		t.Setenv(name, value)
	}
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("secret\n"), 0o600))
	heads := make(chan *http.Request, 100)
	a := newFake(t)
	a.serve = func(w http.ResponseWriter, r *http.Request) {
		select {
		case heads <- r:
		default:
		}
		w.Header().Set("X-Consul-Index", "7")
		_, _ = w.Write([]byte("[]"))
	}
	b := fakeClient(t, func(c *Config) { c.TokenFile = file }, a)
	raw, err := b.Client("")
	require.NoError(t, err)
	_, _, err = raw.KV().Keys("", "", nil)
	require.NoError(t, err)
	_, _, err = raw.KV().Keys("", "", &api.QueryOptions{Token: "mine", Namespace: "n"})
	require.NoError(t, err)
	_, err = b.Snapshot(budget(t), "")
	require.NoError(t, err)
	require.NoError(t, b.Close())
	_, _, err = raw.KV().Keys("", "", nil)
	require.Error(t, err, "the Backend is closed")
	close(heads)
	own := 0
	for r := range heads {
		token, query := r.Header.Get("X-Consul-Token"), r.URL.Query()
		if token == "mine" {
			require.Equal(t, "n", query.Get("ns"))
			own++
			continue
		}
		require.Equal(t, "secret", token)
		require.False(t, query.Has("ns") || query.Has("partition"), r.URL.String())
	}
	require.Equal(t, 1, own)

	_, err = b.Client("another.test:8500")
	require.ErrorIs(t, err, dcs.ErrInvalid)
}

// A token of the environment is not sent if Config has none: with calls, with the reads on a
// new connection, and with the requests of a raw client.
func TestTokenOfTheEnvironmentIsNotSent(t *testing.T) {
	t.Setenv(api.HTTPTokenEnvName, "leaked")
	a := unstartedFake()
	var requests atomic.Int64
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		assert.Empty(t, r.Header.Values(tokenHeader), r.URL.String())
		a.ServeHTTP(w, r)
	}))
	t.Cleanup(a.Close)
	b := fakeClient(t, nil, a)
	_, err := b.Snapshot(budget(t), "")
	require.NoError(t, err)
	_, err = b.Wait(budget(t), "", 0)
	require.NoError(t, err)
	l, _, err := b.Grant(budget(t), suiteTiming.TTL)
	require.NoError(t, err)
	_, err = l.Renew(budget(t))
	require.NoError(t, err)
	c, err := b.connected(a.addr())
	require.NoError(t, err)
	_, err = b.read(budget(t), c, "k", "other") // a transaction
	require.NoError(t, err)
	require.NoError(t, l.Revoke(budget(t)))
	raw, err := b.Client("")
	require.NoError(t, err)
	_, _, err = raw.KV().Keys("", "", nil)
	require.NoError(t, err)
	require.Positive(t, a.identities.Load())
	require.Greater(t, requests.Load(), int64(5))
}
