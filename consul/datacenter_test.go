package consul

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance/fault"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// patient has limits that no answer of a fake agent exceeds on a busy machine.
var patient = dcs.Timing{TTL: 2 * time.Minute, LoopWait: 10 * time.Second, RetryTimeout: 40 * time.Second}

// whole returns the context of one call of a client with that timing.
func whole(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patient.RetryTimeout)
	t.Cleanup(cancel)
	return ctx
}

// copies returns agents that share one identity, as if the keys were replicated between
// their datacenters.
func copies(t *testing.T, id string, datacenters ...string) []*fakeAgent {
	var agents []*fakeAgent
	for _, dc := range datacenters {
		a := newFake(t)
		a.datacenters = []string{dc, "another"}
		if len(agents) > 0 {
			a.place = agents[0].place
		}
		agents = append(agents, a)
	}
	agents[0].place.id = id
	return agents
}

func (f *fakeAgent) identity() string {
	f.place.mu.Lock()
	defer f.place.mu.Unlock()
	return f.place.id
}

// An agent of another datacenter is ejected although the identity was replicated there,
// for any place in the list. The error names both datacenters.
func TestAgentOfAnotherDatacenterIsEjected(t *testing.T) {
	for n := range 3 {
		datacenters := slices.Insert([]string{"dc1", "dc1"}, n, "dc2")
		agents := copies(t, "x@dc1", datacenters...)
		foreign := agents[n]
		ejection := testcluster.NewEjection(foreign.addr())
		b := fakeClient(t, func(c *Config) { c.Timing, c.Observer = patient, ejection.Observer() }, agents...)
		for range 5 {
			_, err := b.Get(whole(t), "k")
			require.ErrorIs(t, err, dcs.ErrNotFound)
		}
		require.Equal(t, "x@dc1", b.ident.ID())
		c, err := b.connected(foreign.addr())
		require.NoError(t, err)
		_, err = b.read(whole(t), c, "k")
		require.ErrorContains(t, err, "the server belongs to store x@dc2, this Store to store x@dc1")
		ejection.Await(t)
		require.Zero(t, foreign.saw("get"), "reads in the other datacenter")
	}
}

// The datacenter is recorded when the identity is created. An identity that was created
// without one is valid in every datacenter, and costs no further request.
func TestDatacenterIsRecorded(t *testing.T) {
	grant := func(change func(*Config), agents ...*fakeAgent) *Backend {
		b := fakeClient(t, change, agents...)
		_, _, err := b.Grant(whole(t), suiteTiming.TTL)
		require.NoError(t, err)
		require.Equal(t, agents[0].identity(), b.ident.ID())
		return b
	}
	agents := copies(t, "", "dc7", "dc7")
	grant(func(c *Config) { c.Timing = patient }, agents...)
	require.Regexp(t, "^[A-Z2-7]+@dc7$", agents[0].identity())
	grant(nil, agents...)

	configured := copies(t, "", "dc1", "dc2")
	grant(func(c *Config) { c.Datacenter = "dc9" }, configured...)
	require.Regexp(t, "^[A-Z2-7]+@dc9$", configured[0].identity())

	old := copies(t, "x", "dc1", "dc2")
	grant(nil, old...)
	require.Equal(t, "x", old[0].identity())
	for _, a := range append(configured, old...) {
		require.Zero(t, a.lists.Load(), "reads of the datacenter")
	}

	unknown := copies(t, "", "")
	grant(nil, unknown...)
	require.Regexp(t, "^[A-Z2-7]+$", unknown[0].identity())
}

// A new connection costs at most one read of the datacenter, and a request none.
func TestDatacenterIsReadOncePerConnection(t *testing.T) {
	a := copies(t, "x@dc1", "dc1")[0]
	b := fakeClient(t, func(c *Config) { c.Timing = patient }, a)
	for range 20 {
		_, err := b.Get(whole(t), "k")
		require.ErrorIs(t, err, dcs.ErrNotFound)
	}
	lists := a.lists.Load()
	require.Positive(t, lists)
	require.LessOrEqual(t, lists, a.identities.Load())
	require.Less(t, lists, int64(20))
}

// A Store whose agents all belong to another datacenter than the identity is served, and
// a warning names both. A Store with a datacenter of its own does not depend on the agents.
func TestStoreInACopy(t *testing.T) {
	var log testcluster.Log
	served := func(change func(*Config)) (*Backend, []*fakeAgent) {
		agents := copies(t, "x@dc1", "dc2", "dc2")
		b := fakeClient(t, func(c *Config) { c.Timing = patient; change(c) }, agents...)
		_, _, err := b.Grant(whole(t), time.Minute)
		require.NoError(t, err)
		return b, agents
	}
	b, _ := served(func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	require.Equal(t, "x@dc2", b.ident.ID())
	require.NoError(t, b.Close())
	require.Equal(t, 1, strings.Count(log.String(), "copied from another datacenter"))
	require.Contains(t, log.String(), "datacenter=dc2 created_in=dc1")

	b, agents := served(func(c *Config) { c.Datacenter = "dc1" })
	require.Equal(t, "x@dc1", b.ident.ID())
	require.Zero(t, agents[0].lists.Load()+agents[1].lists.Load(), "reads of the datacenter")
}

// An agent that does not return its datacenter serves the Store like any other.
func TestUnreadableDatacenterCostsNothing(t *testing.T) {
	says := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = w.Write([]byte(body))
		}
	}
	for name, listed := range map[string]http.HandlerFunc{
		"denied":   says(http.StatusForbidden, "Permission denied"),
		"a proxy":  says(http.StatusNotFound, "no such page"),
		"failed":   says(http.StatusInternalServerError, "No known Consul servers"),
		"too many": says(http.StatusTooManyRequests, "rate limit exceeded"),
		"null":     says(http.StatusOK, "null"),
		"empty":    says(http.StatusOK, "[]"),
		"no JSON":  says(http.StatusOK, "<html>"),
		"too long": says(http.StatusOK, `["`+strings.Repeat("d", 2*mostBody)+`"]`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for own, datacenter := range map[string]string{"x@dc1": "dc1", "x@dc2": "dc2"} {
				agents := copies(t, "x@dc1", datacenter, datacenter, datacenter)
				agents[1].listed = listed
				var ejected ejections
				b := fakeClient(t, func(c *Config) { c.Timing, c.Observer.Endpoint = patient, ejected.note }, agents...)
				_, err := b.Get(whole(t), "k")
				require.ErrorIs(t, err, dcs.ErrNotFound)
				require.Equal(t, own, b.ident.ID())
				c, err := b.connected(agents[1].addr())
				require.NoError(t, err)
				for range 3 {
					_, err = b.read(whole(t), c, "k")
					require.NoError(t, err)
					c.calls.http.CloseIdleConnections()
				}
				require.Positive(t, agents[1].lists.Load())
				if datacenter == "dc1" { // in a copy the agent is left out until it is known to belong to it
					require.Empty(t, ejected.hasty())
				}
			}
		})
	}
}

// An agent that never answers the question for its datacenter serves the Store, and is
// not asked again for some time.
func TestSilentCatalogCostsNoCall(t *testing.T) {
	t.Parallel()
	a := copies(t, "x@dc1", "dc1")[0]
	a.listed = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	b := fakeClient(t, nil, a)
	for range 5 {
		_, err := b.Get(whole(t), "k")
		require.ErrorIs(t, err, dcs.ErrNotFound)
		c, err := b.connected(a.addr())
		require.NoError(t, err)
		c.calls.http.CloseIdleConnections()
	}
	require.Equal(t, "x@dc1", b.ident.ID())
	require.LessOrEqual(t, a.lists.Load(), int64(unreadable))
}

// federation starts two datacenters of one server each, which know each other, and returns
// clients of both.
func federation(t *testing.T) (clusters [2]*testcluster.Cluster, admins [2]*api.Client) {
	ports, err := fault.Loopback().FreePorts(t.Context(), len(clusters))
	require.NoError(t, err)
	var starts sync.WaitGroup
	var errs [2]error
	for i, dc := range []string{"dc1", "dc2"} {
		starts.Go(func() {
			clusters[i], errs[i] = testcluster.Start(t.Context(), testcluster.Options{
				Kind: testcluster.Consul, Nodes: 1, Loopback: true, Flags: []string{"-datacenter", dc, "-hcl", fmt.Sprintf("ports { serf_wan = %d }", ports[i])},
			})
		})
	}
	starts.Wait()
	for i, c := range clusters {
		if errs[i] == nil {
			t.Cleanup(c.Close)
			admins[i], errs[i] = c.ConsulAdmin(0)
		}
	}
	testcluster.Need(t, errors.Join(errs[:]...))
	require.NoError(t, admins[1].Agent().Join(net.JoinHostPort(clusters[0].Servers()[0].Host().Addr(), strconv.Itoa(ports[0])), true))
	return clusters, admins
}

// Two real datacenters of one federation, with a replicated identity: the agent of the
// other datacenter is ejected, and lists its own datacenter first.
func TestReplicatedDatacenter(t *testing.T) {
	t.Parallel()
	clusters, admins := federation(t)
	server, foreign := clusters[0].Servers()[0], clusters[1].Servers()[0].Direct()
	ejection := testcluster.NewEjection(foreign)
	open := func(endpoints ...string) *Backend {
		b, err := New(Config{Endpoints: endpoints, Root: "pg", Node: "pg", MinTTL: time.Second, Timing: suiteTiming, Observer: ejection.Observer()})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Close()) })
		return b
	}
	_, _, err := open(server.Direct()).Grant(whole(t), suiteTiming.TTL)
	require.NoError(t, err)
	stored, _, err := admins[0].KV().Get("pg/"+identityKey, nil)
	require.NoError(t, err)
	require.Regexp(t, "@dc1$", string(stored.Value))
	_, err = admins[1].KV().Put(&api.KVPair{Key: stored.Key, Value: stored.Value}, nil)
	require.NoError(t, err)
	for i, own := range []string{"dc1", "dc2"} {
		require.Eventually(t, func() bool {
			list, err := admins[i].Catalog().Datacenters()
			return err == nil && len(list) == 2 && list[0] == own
		}, 30*time.Second, 10*time.Millisecond)
	}

	b := open(server.Direct(), server.Endpoint(), foreign)
	_, err = b.Get(whole(t), "k")
	require.ErrorIs(t, err, dcs.ErrNotFound)
	ejection.Await(t)
	c, err := b.connected(foreign)
	require.NoError(t, err)
	_, err = b.read(whole(t), c, "k")
	require.ErrorContains(t, err, "@dc2, this Store to store ")
	require.ErrorContains(t, err, "@dc1: ")
}
