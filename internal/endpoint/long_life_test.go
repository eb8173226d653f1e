package endpoint

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// rotating is a store with four servers that fail one after the other and change their
// addresses. One seed is the name of server 1, the other one that of servers 2 and 3. The
// list of members has the addresses of all.
type rotating struct {
	pool  *Pool
	conns Conns[string] // each is the address that it leads to

	mu     sync.Mutex
	open   int    // connections
	round  int    // a part of each address
	mode   string // of the server that fails
	failed int    // that server, or 0
	events map[dcs.EndpointChange]int
}

func newRotating() *rotating {
	r := &rotating{events: map[dcs.EndpointChange]int{}}
	r.pool = New(Options{
		Backend: "test", Seeds: []string{"one:1", "two:1"}, Budget: time.Second, Judge: judge,
		Lookup: r.lookup, Topology: r.list, Drop: r.conns.Drop,
		Probe: func(ctx context.Context, endpoint string) (bool, error) {
			_, err := r.call(ctx, endpoint)
			return false, err
		},
		Observer: func(ev dcs.EndpointEvent) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events[ev.Change]++
		},
	})
	r.conns.Grace, r.conns.Known = time.Second, r.pool.Knows
	r.conns.Close = func(string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.open--
	}
	r.pool.Start()
	return r
}

func (r *rotating) close() {
	r.pool.Close()
	r.conns.CloseAll()
}

// address returns the present address of a server.
func (r *rotating) address(server int) netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	return netip.AddrFrom4([4]byte{10, byte(server), byte(r.round >> 8), byte(r.round)})
}

// move gives every server another address.
func (r *rotating) move() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.round++
}

func (r *rotating) fail(server int, mode string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed, r.mode = server, mode
}

func (r *rotating) count(change dcs.EndpointChange) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events[change]
}

func (r *rotating) connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open
}

func (r *rotating) lookup(_ context.Context, host string) ([]netip.Addr, error) {
	if host == "one" {
		return []netip.Addr{r.address(1)}, nil
	}
	return []netip.Addr{r.address(2), r.address(3)}, nil
}

func (r *rotating) list(context.Context) ([]Listed, error) {
	var all []Listed
	for server := 1; server <= 4; server++ {
		all = append(all, Listed{Endpoint: netip.AddrPortFrom(r.address(server), 1).String(), Server: fmt.Sprint(server)})
	}
	return all, nil
}

// call makes a request as a backend does.
func (r *rotating) call(ctx context.Context, endpoint string) (int, error) {
	at, err := r.pool.Address(ctx, endpoint)
	if err != nil {
		return 0, err
	}
	at, err = r.conns.Get(endpoint, nil, func() (string, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.open++
		return at, nil
	})
	if err != nil {
		return 0, err
	}
	server := serverAt(at)
	r.mu.Lock()
	mode := r.mode
	if server != r.failed {
		mode = ""
	}
	r.mu.Unlock()
	if netip.AddrPortFrom(r.address(server), 1).String() != at {
		mode = "refuse" // it has moved
	}
	switch mode {
	case "hang":
		<-ctx.Done()
		return 0, ctx.Err()
	case "refuse":
		return 0, errRefused
	}
	r.pool.Identify(endpoint, fmt.Sprint(server))
	return server, nil
}

// serverAt returns the server that has or had an address.
func serverAt(addr string) int {
	host, _, _ := net.SplitHostPort(addr)
	return int(netip.MustParseAddr(host).As4()[1])
}

// rotate lets the server in use fail until at least that many endpoints have been ejected
// since the start. After each failure all servers serve again.
func (r *rotating) rotate(t *testing.T, ejections int) {
	t.Helper()
	r.settle(t)
	for n := 0; r.count(dcs.Ejected) < ejections; n++ {
		if n%2 == 0 {
			r.move()
		}
		at, err := r.pool.Address(t.Context(), r.pool.Endpoints()[0])
		require.NoError(t, err)
		r.fail(serverAt(at), []string{"refuse", "hang"}[n/2%2])
		for before := r.count(dcs.Ejected); r.count(dcs.Ejected) == before; {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, _ = Do(ctx, r.pool, Read, r.call) // fails if all addresses have changed
			cancel()
			time.Sleep(time.Second)
		}
		r.fail(0, "")
		r.settle(t)
	}
}

// settle waits until each server serves.
func (r *rotating) settle(t *testing.T) {
	t.Helper()
	for began := time.Now(); !r.serves(); time.Sleep(time.Second) {
		require.Less(t, time.Since(began), 10*time.Minute, "endpoints: %v", r.pool.Endpoints())
	}
}

// serves reports whether each server is in use at its present address.
func (r *rotating) serves() bool {
	p := r.pool
	p.mu.Lock()
	ejected := slices.ContainsFunc(p.members, func(m *member) bool { return m.ejected && !m.shadowed })
	p.mu.Unlock()
	return !ejected && p.size() == 4
}

// usage is the resources that a Pool and its connections use.
type usage struct {
	heap                         uint64
	goroutines, conns, endpoints int
}

func (r *rotating) usage(t *testing.T) usage {
	t.Helper()
	time.Sleep(2 * r.conns.Grace)
	synctest.Wait()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	require.Equal(t, r.conns.Len(), r.connections(), "connections that the Conns have lost")
	r.pool.mu.Lock()
	defer r.pool.mu.Unlock()
	return usage{m.HeapAlloc, runtime.NumGoroutine(), r.connections(), len(r.pool.members) + len(r.pool.names)}
}

// Many ejections and returns, with other addresses and other members each time, leave no
// memory, no goroutine and no connection behind. The slow profile makes 10,000.
func TestRotationsStayFlat(t *testing.T) {
	ejections := 1000
	if os.Getenv("HOLDFAST_PROFILE") == "slow" {
		ejections = 10_000
	}
	bubble.Test(t, func(t *testing.T) {
		r := newRotating()
		defer r.close()
		r.rotate(t, ejections/10)
		before := r.usage(t)
		r.rotate(t, ejections)
		after := r.usage(t)
		t.Logf("before %+v, after %+v, events %v", before, after, r.events)
		require.Less(t, after.heap, before.heap+64<<10)
		require.LessOrEqual(t, after.goroutines, before.goroutines)
		require.LessOrEqual(t, after.endpoints, before.endpoints)
		require.LessOrEqual(t, after.conns, 4, "one for each server")
		for _, change := range []dcs.EndpointChange{dcs.Restored, dcs.Added, dcs.Removed, dcs.Switched} {
			require.Greater(t, r.count(change), ejections/2, "%v", change)
		}
	})
}
