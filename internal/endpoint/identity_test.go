package endpoint

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// identified starts a Pool that identifies the server of each answer.
func (b *bench) identified(servers map[string]string, edit func(*Options), seeds ...string) (*Pool, func(ctx context.Context, endpoint string) (string, error)) {
	var p *Pool
	call := func(ctx context.Context, endpoint string) (string, error) {
		v, err := b.call(ctx, endpoint)
		if err == nil {
			b.mu.Lock()
			id := servers[endpoint]
			b.mu.Unlock()
			p.Identify(endpoint, id)
		}
		return v, err
	}
	o := b.options(seeds...)
	o.Probe = func(ctx context.Context, endpoint string) (bool, error) {
		_, err := call(ctx, endpoint)
		return false, err
	}
	if edit != nil {
		edit(&o)
	}
	p = New(o)
	p.Start()
	return p, call
}

func TestOneServerIsOneEndpoint(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("addr1", "addr2", "name1", "name2")
		servers := map[string]string{"addr1": "1", "addr2": "2", "name1": "1", "name2": "2"}
		var mu sync.Mutex
		dropped := map[string]bool{}
		p, call := b.identified(servers, func(o *Options) {
			o.Topology = func(context.Context) ([]Listed, error) {
				return []Listed{{"name1", "1"}, {"name2", "2"}}, nil
			}
			o.Drop = func(endpoint string) {
				mu.Lock()
				defer mu.Unlock()
				dropped[endpoint] = true
			}
		}, "addr1", "addr2")
		defer p.Close()
		time.Sleep(p.o.Budget)
		require.ElementsMatch(t, []string{"addr1", "addr2"}, p.Endpoints())
		require.Equal(t, 2, p.size())
		require.True(t, p.Knows("addr1"))
		require.False(t, p.Knows("name1"), "a server with a connection needs none at its second address")
		before := b.calls("name1") + b.calls("name2")
		time.Sleep(20 * p.o.Budget)
		require.Equal(t, before, b.calls("name1")+b.calls("name2"), "a server is probed at two addresses")

		// The server stays reachable by its other address.
		b.set("addr1", "hang")
		b.set("addr2", "hang")
		time.Sleep(2 * p.o.SampleInterval)
		require.Equal(t, 1, b.count(dcs.Ejected, "addr1"))
		require.Equal(t, 1, b.count(dcs.Ejected, "addr2"))
		time.Sleep(2 * p.o.Budget)
		require.ElementsMatch(t, []string{"name1", "name2"}, p.Endpoints()[:2])
		a, err := makeCall(t, p, call)
		require.NoError(t, err)
		require.Contains(t, []string{"name1", "name2"}, a.Endpoint)
		mu.Lock()
		require.True(t, dropped["addr1"])
		mu.Unlock()

		// It is reached by the first one again once that answers.
		b.set("addr1", "")
		time.Sleep(20 * p.o.ProbeInterval)
		require.Equal(t, b.count(dcs.Ejected, "addr1"), b.count(dcs.Restored, "addr1"))
		require.False(t, p.Knows("name1"))
		b.set("name1", "hang")
		b.set("name2", "refuse")
		for range 10 {
			_, _ = makeCall(t, p, call)
			time.Sleep(p.o.Budget / 4)
		}
		a, err = makeCall(t, p, call)
		require.NoError(t, err)
		require.Equal(t, "addr1", a.Endpoint)
	})
}

// The other address of a server is probed while the first one is ejected. The connection
// for that is dropped when the first one serves again.
func TestOtherAddressKeepsNoConnection(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("addr1", "addr2", "name1")
		servers := map[string]string{"addr1": "1", "addr2": "2", "name1": "1"}
		var mu sync.Mutex
		open := map[string]bool{}
		p, _ := b.identified(servers, func(o *Options) {
			o.Seeds = []string{"addr1", "name1", "addr2"}
			probe := o.Probe
			o.Probe = func(ctx context.Context, endpoint string) (bool, error) {
				mu.Lock()
				open[endpoint] = true
				mu.Unlock()
				return probe(ctx, endpoint)
			}
			o.Drop = func(endpoint string) {
				mu.Lock()
				defer mu.Unlock()
				open[endpoint] = false
			}
		})
		defer p.Close()
		connected := func() map[string]bool {
			mu.Lock()
			defer mu.Unlock()
			return maps.Clone(open)
		}
		time.Sleep(p.o.Budget)
		require.Equal(t, map[string]bool{"addr1": true, "addr2": true, "name1": false}, connected())
		b.set("addr1", "refuse")
		b.set("name1", "refuse")
		for b.count(dcs.Ejected, "addr1") == 0 || !connected()["name1"] {
			time.Sleep(p.o.ProbeInterval)
		}
		b.set("addr1", "")
		for b.count(dcs.Restored, "addr1") == 0 {
			time.Sleep(p.o.ProbeInterval)
		}
		require.False(t, p.Knows("name1"))
		require.False(t, connected()["name1"])
	})
}

// A server that hangs at both addresses costs two failures, not four.
func TestOtherAddressMustProveItself(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("addr1", "addr2", "name1")
		servers := map[string]string{"addr1": "1", "addr2": "2", "name1": "1"}
		p, call := b.identified(servers, func(o *Options) { o.Seeds = []string{"addr1", "name1", "addr2"} })
		defer p.Close()
		time.Sleep(p.o.Budget)
		require.ElementsMatch(t, []string{"addr1", "addr2"}, p.Endpoints())
		b.set("addr1", "hang")
		b.set("name1", "hang")
		time.Sleep(2 * p.o.SampleInterval)
		require.Equal(t, 1, b.count(dcs.Ejected, "addr1"))
		for range 50 {
			began := time.Now()
			a, err := makeCall(t, p, call)
			require.NoError(t, err)
			require.Equal(t, "addr2", a.Endpoint)
			require.Less(t, time.Since(began), p.o.AttemptFloor, "a call was sent to another address of the server that hangs")
		}
		time.Sleep(5 * p.o.Budget)
		require.ElementsMatch(t, []string{"addr1", "addr2"}, p.Endpoints())
		require.Zero(t, b.count(dcs.Added, "name1"))
	})
}

// An address at which another server answers becomes a separate endpoint again.
func TestIdentityMayChange(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b", "c")
		servers := map[string]string{"a": "1", "b": "1", "c": "3"}
		p, call := b.identified(servers, nil, "a", "b", "c")
		defer p.Close()
		time.Sleep(p.o.Budget)
		require.ElementsMatch(t, []string{"a", "c"}, p.Endpoints())
		b.mu.Lock()
		servers["a"] = "2"
		b.mu.Unlock()
		_, err := call(t.Context(), "a")
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"a", "b", "c"}, p.Endpoints())
	})
}

func TestDroppedConnectionsAreClosed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var list []int
		opened := 0
		closed := func() []int {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(list)
		}
		known := map[string]bool{"a": true}
		conns := Conns[int]{
			Grace: time.Second, Known: func(endpoint string) bool { return known[endpoint] },
			Close: func(c int) {
				mu.Lock()
				defer mu.Unlock()
				list = append(list, c)
			},
		}
		get := func(endpoint string) int {
			c, err := conns.Get(endpoint, nil, func() (int, error) { opened++; return opened, nil })
			require.NoError(t, err)
			return c
		}
		require.Equal(t, 1, get("a"))
		require.Equal(t, 1, get("a"))
		conns.Drop("a")
		conns.Drop("a")
		require.Equal(t, 2, get("a"))
		time.Sleep(999 * time.Millisecond)
		require.Empty(t, closed(), "calls in flight must be able to continue")
		time.Sleep(2 * time.Millisecond)
		require.Equal(t, []int{1}, closed())

		// A late call to a removed endpoint makes no lasting connection.
		require.Equal(t, 3, get("gone"))
		require.Equal(t, 4, get("gone"))
		time.Sleep(2 * time.Second)
		require.ElementsMatch(t, []int{1, 3, 4}, closed())
		conns.Drop("a")
		conns.CloseAll()
		require.Equal(t, 2, closed()[3])
		time.Sleep(2 * time.Second)
		require.Len(t, closed(), 4)
	})
}
