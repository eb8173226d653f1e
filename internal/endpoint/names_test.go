package endpoint

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// hosts is a resolver.
type hosts struct {
	mu    sync.Mutex
	addrs map[string][]netip.Addr
	err   error
	hangs bool
	asked int
}

func (h *hosts) set(host string, addrs ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []netip.Addr
	for _, a := range addrs {
		list = append(list, netip.MustParseAddr(a))
	}
	h.addrs = map[string][]netip.Addr{host: list}
}

func (h *hosts) fail(err error, hangs bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err, h.hangs = err, hangs
}

func (h *hosts) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked
}

func (h *hosts) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	h.mu.Lock()
	h.asked++
	addrs, err, hangs := slices.Clone(h.addrs[host]), h.err, h.hangs
	h.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return addrs, err
}

// named returns a Pool whose seeds are looked up in h. A call dials like a backend.
func (b *bench) named(h *hosts, seeds ...string) (Options, func(p *Pool) func(ctx context.Context, endpoint string) (string, error)) {
	o := b.options(seeds...)
	o.Lookup = h.lookup
	return o, func(p *Pool) func(ctx context.Context, endpoint string) (string, error) {
		return func(ctx context.Context, endpoint string) (string, error) {
			at, err := p.Address(ctx, endpoint)
			if err != nil {
				return "", err
			}
			return b.call(ctx, at)
		}
	}
}

// startNamed starts a Pool whose probes dial like its calls.
func (b *bench) startNamed(h *hosts, edit func(*Options), seeds ...string) (*Pool, func(ctx context.Context, endpoint string) (string, error)) {
	o, dialled := b.named(h, seeds...)
	var p *Pool
	o.Probe = func(ctx context.Context, endpoint string) (bool, error) {
		_, err := dialled(p)(ctx, endpoint)
		return false, err
	}
	if edit != nil {
		edit(&o)
	}
	p = New(o)
	p.Start()
	return p, dialled(p)
}

// call makes one call of f with a budget of a second.
func makeCall(t *testing.T, p *Pool, f func(ctx context.Context, endpoint string) (string, error)) (Answer[string], error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	a, err := Do(ctx, p, Read, f)
	require.LessOrEqual(t, time.Since(began), time.Second)
	return a, err
}

func TestEachAddressOfANameIsAnEndpoint(t *testing.T) {
	for _, mode := range []string{"hang", "refuse"} {
		bubble.Test(t, func(t *testing.T) {
			b, h := newBench("10.0.0.1:1", "10.0.0.2:1", "[2001:db8::1]:1"), &hosts{}
			h.set("db", "10.0.0.2", "10.0.0.1", "2001:db8::1")
			b.set("10.0.0.1:1", mode)
			b.set("[2001:db8::1]:1", mode)
			p, call := b.startNamed(h, nil, "db:1")
			defer p.Close()
			for range 10 {
				a, err := makeCall(t, p, call)
				require.NoError(t, err)
				require.Equal(t, "10.0.0.2:1", a.Value)
				require.Equal(t, "db/10.0.0.2:1", a.Endpoint)
			}
			time.Sleep(5 * time.Second)
			require.Equal(t, "db/10.0.0.2:1", p.Endpoints()[0])
			require.ElementsMatch(t, []string{"db/10.0.0.1:1", "db/10.0.0.2:1", "db/[2001:db8::1]:1"}, p.Endpoints())
			require.Equal(t, 1, b.count(dcs.Ejected, "db/10.0.0.1:1"))
			require.Equal(t, "db", Host("db/[2001:db8::1]:1"))
			require.Equal(t, "db:1", HostPort("db/[2001:db8::1]:1"))
		})
	}
}

func TestNameThatMovesIsFollowed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b, h := newBench("10.0.0.1:1", "10.0.0.2:1"), &hosts{}
		h.set("db", "10.0.0.1")
		var mu sync.Mutex
		var drops []string
		p, call := b.startNamed(h, func(o *Options) {
			o.Drop = func(endpoint string) {
				mu.Lock()
				defer mu.Unlock()
				drops = append(drops, endpoint)
			}
		}, "db:1")
		defer p.Close()
		a, err := makeCall(t, p, call)
		require.NoError(t, err)
		require.Equal(t, "db:1", a.Endpoint, "a name with one address must be one endpoint")

		b.set("10.0.0.1:1", "hang")
		for b.count(dcs.Ejected, "db:1") == 0 {
			_, err := makeCall(t, p, call)
			require.Error(t, err)
		}
		time.Sleep(3 * p.o.Budget)
		mu.Lock()
		require.Equal(t, []string{"db:1"}, drops, "the connection to the ejected server must be dropped")
		drops = nil
		mu.Unlock()
		h.set("db", "10.0.0.2")
		time.Sleep(10 * p.o.ProbeInterval)
		for range 5 {
			a, err = makeCall(t, p, call)
			require.NoError(t, err)
			require.Equal(t, "10.0.0.2:1", a.Value)
		}
		mu.Lock()
		require.Contains(t, drops, "db:1", "the connection to the old address must be dropped")
		mu.Unlock()
		require.Equal(t, 1, b.count(dcs.Restored, "db:1"))

		// A second address is added to the name: the first stays in use.
		h.set("db", "10.0.0.2", "10.0.0.1")
		time.Sleep(5 * p.o.Budget)
		a, err = makeCall(t, p, call)
		require.NoError(t, err)
		require.Equal(t, "db/10.0.0.2:1", a.Endpoint)
		require.Equal(t, []string{"db/10.0.0.2:1", "db/10.0.0.1:1"}, p.Endpoints(), "a later address must be probed first")
		h.set("db", "10.0.0.1")
		b.set("10.0.0.1:1", "")
		time.Sleep(5 * p.o.Budget)
		require.Equal(t, []string{"db/10.0.0.1:1"}, p.Endpoints())
		require.False(t, p.Knows("db/10.0.0.2:1"))
	})
}

func TestResolverThatFailsLosesNoAddress(t *testing.T) {
	for _, addrs := range [][]string{{"10.0.0.1", "10.0.0.2"}, {"10.0.0.2"}} {
		for _, hangs := range []bool{false, true} {
			bubble.Test(t, func(t *testing.T) {
				b, h := newBench("10.0.0.1:1", "10.0.0.2:1"), &hosts{}
				h.set("db", addrs...)
				p, call := b.startNamed(h, nil, "db:1")
				defer p.Close()
				_, err := makeCall(t, p, call)
				require.NoError(t, err)
				h.fail(errors.New("no name server answers"), hangs)
				b.set("10.0.0.1:1", "refuse")
				for range 20 {
					time.Sleep(p.o.Budget)
					a, err := makeCall(t, p, call)
					require.NoError(t, err)
					require.Equal(t, "10.0.0.2:1", a.Value)
				}
				require.Len(t, p.Endpoints(), len(addrs))
			})
		}
	}
}

func TestSlowResolverDelaysNoCall(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b, h := newBench("10.0.0.1:1", "10.0.0.9:1"), &hosts{}
		h.fail(nil, true)
		p, call := b.startNamed(h, nil, "db:1", "10.0.0.9:1")
		defer p.Close()
		for range 10 {
			a, err := makeCall(t, p, call)
			require.NoError(t, err)
			require.Equal(t, "10.0.0.9:1", a.Endpoint)
		}
		b.set("10.0.0.9:1", "hang")
		_, err := makeCall(t, p, call)
		require.ErrorIs(t, err, context.DeadlineExceeded)

		h.fail(nil, false)
		h.set("db", "10.0.0.1")
		time.Sleep(2 * p.o.Budget)
		a, err := makeCall(t, p, call)
		require.NoError(t, err)
		require.Equal(t, "db:1", a.Endpoint)
	})
}

func TestNamesAreLookedUpAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b, h := newBench("10.0.0.1:1"), &hosts{}
		h.set("db", "10.0.0.1")
		p, _ := b.startNamed(h, nil, "db:1")
		time.Sleep(100 * 3 * p.o.Budget)
		require.InDelta(t, 100, h.count(), 15)
		p.Close()
		n := h.count()
		time.Sleep(time.Minute)
		require.Equal(t, n, h.count())
		_, err := p.Address(t.Context(), "db:1")
		require.NoError(t, err, "a known address must be returned without a lookup")
	})
}

func TestListedNameIsLookedUp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b, h := newBench("10.0.0.1:1", "10.0.0.2:1", "10.0.0.9:1"), &hosts{}
		h.set("db", "10.0.0.1", "10.0.0.2")
		listed := []Listed{{Endpoint: "db:1"}}
		p, _ := b.startNamed(h, func(o *Options) {
			o.Topology = func(context.Context) ([]Listed, error) {
				b.mu.Lock()
				defer b.mu.Unlock()
				return listed, nil
			}
		}, "10.0.0.9:1")
		defer p.Close()
		time.Sleep(p.o.Budget)
		require.ElementsMatch(t, []string{"10.0.0.9:1", "db/10.0.0.1:1", "db/10.0.0.2:1"}, p.Endpoints())
		b.mu.Lock()
		listed = []Listed{{Endpoint: "10.0.0.9:1"}}
		b.mu.Unlock()
		time.Sleep(5 * p.o.Budget)
		require.Equal(t, []string{"10.0.0.9:1"}, p.Endpoints())
		n := h.count()
		time.Sleep(20 * p.o.Budget)
		require.Equal(t, n, h.count(), "a name that is no longer listed is looked up")
	})
}

// A server that hangs is detected even if no call has enough time to prove it.
func TestShortCallsFindAServerThatHangs(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b, h := newBench("10.0.0.1:1", "10.0.0.2:1"), &hosts{}
		h.set("db", "10.0.0.1")
		p, call := b.startNamed(h, nil, "db:1")
		defer p.Close()
		short := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), p.o.AttemptFloor)
			defer cancel()
			_, err := Do(ctx, p, Read, call)
			return err
		}
		require.NoError(t, short())
		b.set("10.0.0.1:1", "hang")
		h.set("db", "10.0.0.2")
		began := time.Now()
		for short() != nil {
			require.Less(t, time.Since(began), p.o.Budget)
		}
	})
}

// A server that is only slow keeps its connections, because new ones would be more
// work for it.
func TestEjectedServerThatAnswersKeepsItsConnections(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b")
		o := b.options("a", "b")
		var mu sync.Mutex
		drops := 0
		o.Drop = func(string) {
			mu.Lock()
			defer mu.Unlock()
			drops++
		}
		count := func() int {
			mu.Lock()
			defer mu.Unlock()
			return drops
		}
		p := started(o)
		defer p.Close()
		time.Sleep(p.o.Budget)
		b.set("a", "no leader")
		for range 5 {
			at := p.PickAt(Read, "a", "b")
			p.Blame("a", "late")
			p.Blame("a", "late")
			time.Sleep(2 * p.o.Budget / 3)
			at.End(nil)
			require.Zero(t, count())
		}
		p.Blame("a", "silent")
		p.Blame("a", "silent")
		time.Sleep(10 * p.o.Budget)
		require.Equal(t, 1, count())
	})
}
