package endpoint

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

var (
	errRefused  = errors.New("connection refused")
	errNoLeader = errors.New("no leader")
	errNotFound = errors.New("not found")
)

func judge(err error) Verdict {
	switch {
	case errors.Is(err, errNotFound):
		return Verdict{Final: true, Refused: true}
	case errors.Is(err, errRefused):
		return Verdict{Refused: true, Unreachable: true, Reason: err.Error()}
	default:
		return Verdict{Blame: true, Reason: err.Error()}
	}
}

// server is a fake server. mode selects its behaviour.
type server struct {
	mode  string        // "", "hang", "refuse", "no leader"
	after time.Duration // latency of an answer
	calls int
}

// bench is a set of fake servers for a Pool.
type bench struct {
	mu      sync.Mutex
	servers map[string]*server
	leader  string
	events  []dcs.EndpointEvent
	probes  int
}

func newBench(names ...string) *bench {
	b := &bench{servers: map[string]*server{}}
	for _, n := range names {
		b.servers[n] = &server{after: time.Millisecond}
	}
	return b
}

func (b *bench) set(name, mode string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.servers[name].mode = mode
}

func (b *bench) calls(name string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.servers[name].calls
}

func (b *bench) call(ctx context.Context, name string) (string, error) {
	b.mu.Lock()
	s := b.servers[name]
	s.calls++
	mode, after := s.mode, s.after
	b.mu.Unlock()
	switch mode {
	case "hang":
		<-ctx.Done()
		return "", ctx.Err()
	case "refuse":
		return "", errRefused
	case "no leader":
		return "", errNoLeader
	}
	select {
	case <-time.After(after):
		return name, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (b *bench) options(seeds ...string) Options {
	return Options{
		Backend: "test", Seeds: seeds, Budget: 3 * time.Second, Judge: judge,
		Rand: rand.New(rand.NewPCG(1, 2)).Int64N,
		Probe: func(ctx context.Context, name string) (bool, error) {
			b.mu.Lock()
			b.probes++
			b.mu.Unlock()
			_, err := b.call(ctx, name)
			return name == b.leader, err
		},
		Observer: func(ev dcs.EndpointEvent) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.events = append(b.events, ev)
		},
	}
}

// unsampled starts a Pool that does not probe healthy endpoints.
func (b *bench) unsampled(seeds ...string) *Pool {
	o := b.options(seeds...)
	o.SampleInterval = -1
	return started(o)
}

func (b *bench) count(change dcs.EndpointChange, from string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, ev := range b.events {
		if ev.Change == change && ev.From == from {
			n++
		}
	}
	return n
}

// do makes one call and returns the endpoint that answered and the duration.
func (b *bench) do(t *testing.T, p *Pool, c Class) (string, time.Duration, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	began := time.Now()
	a, err := Do(ctx, p, c, b.call)
	return a.Value, time.Since(began), err
}

func started(o Options) *Pool {
	p := New(o)
	p.Start()
	return p
}

func TestSilentEndpointIsLeftAtOnceAndComesBack(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b", "c")
		b.leader = "a"
		p := started(b.options("a", "b", "c"))
		defer p.Close()
		for range 20 {
			_, _, err := b.do(t, p, Read)
			require.NoError(t, err)
		}
		who, _, _ := b.do(t, p, Read)
		require.Equal(t, "a", who, "the leader must be preferred")

		b.set("a", "hang")
		for i := range 50 {
			who, took, err := b.do(t, p, Read)
			require.NoError(t, err)
			require.NotEqual(t, "a", who)
			require.LessOrEqual(t, took, 12*time.Millisecond, "call %d", i)
			if i > 2 {
				require.LessOrEqual(t, took, 2*time.Millisecond, "steady state, call %d", i)
			}
		}
		require.Positive(t, b.count(dcs.Switched, "a"))

		b.set("a", "")
		time.Sleep(30 * time.Second)
		who, _, err := b.do(t, p, Read)
		require.NoError(t, err)
		require.Equal(t, "a", who, "a must be used again within 30 s after the fault")
		require.Equal(t, b.count(dcs.Ejected, "a"), b.count(dcs.Restored, "a"))
	})
}

func TestRefusedEndpointsAreTriedPastAtOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b", "c")
		p := b.unsampled("a", "b", "c")
		defer p.Close()
		first := p.Endpoints()
		b.set(first[0], "refuse")
		b.set(first[1], "no leader")
		for range 5 {
			who, took, err := b.do(t, p, Write)
			require.NoError(t, err)
			require.Equal(t, first[2], who)
			require.LessOrEqual(t, took, 2*time.Millisecond)
		}
		require.Equal(t, 1, b.count(dcs.Ejected, first[0]), "one event, not one for each call")
	})
}

func without(not string, names ...string) []string {
	return slices.DeleteFunc(names, func(n string) bool { return n == not })
}

func TestFinalAnswerIsReturnedAsItIs(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b")
		p := started(b.options("a", "b"))
		defer p.Close()
		calls := 0
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		a, err := Do(ctx, p, Read, func(context.Context, string) (int, error) {
			calls++
			return 0, fmt.Errorf("asked: %w", errNotFound)
		})
		require.ErrorIs(t, err, errNotFound)
		require.True(t, a.Clear)
		require.Equal(t, 1, calls)
		require.Zero(t, b.count(dcs.Ejected, "a")+b.count(dcs.Ejected, "b"))
	})
}

func TestAllDownEndsByTheDeadlineWithTheReason(t *testing.T) {
	for _, mode := range []string{"hang", "refuse", "no leader"} {
		t.Run(mode, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				b := newBench("a", "b", "c")
				p := started(b.options("a", "b", "c"))
				defer p.Close()
				for _, n := range []string{"a", "b", "c"} {
					b.set(n, mode)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				began := time.Now()
				a, err := Do(ctx, p, Write, b.call)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.LessOrEqual(t, time.Since(began), time.Second+time.Millisecond)
				require.Equal(t, mode == "refuse", a.Clear)
				if mode == "no leader" {
					require.ErrorIs(t, err, errNoLeader)
				}
				for _, n := range []string{"a", "b", "c"} {
					require.Positive(t, b.calls(n))
					require.Less(t, b.calls(n), 80, "with back-off")
				}
				b.set("b", "")
				who, took, err := b.do(t, p, Write)
				require.NoError(t, err)
				require.Equal(t, "b", who)
				require.LessOrEqual(t, took, 600*time.Millisecond, "if all are ejected, all must be tried")
			})
		})
	}
}

// A failure that only an operator can correct is reported, even if other failures came
// later.
func TestUnauthorizedIsReportedDespiteLaterFailures(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a")
		p := started(b.options("a"))
		defer p.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n := 0
		_, err := Do(ctx, p, Read, func(context.Context, string) (int, error) {
			if n++; n == 2 {
				return 0, &dcs.Error{Kind: dcs.ErrUnauthorized, Err: errors.New("the certificate has expired")}
			}
			return 0, errors.New("connection reset")
		})
		require.Greater(t, n, 2)
		require.ErrorIs(t, err, dcs.ErrUnauthorized)
		require.ErrorContains(t, err, "the certificate has expired")
	})
}

// DoAt stays at its endpoint while that is healthy, and moves when it is not.
func TestDoAtStaysAtItsEndpoint(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b", "c")
		b.leader = "a"
		p := started(b.options("a", "b", "c"))
		defer p.Close()
		time.Sleep(time.Second) // the first probes
		at := "b"
		call := func() time.Duration {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			began := time.Now()
			a, err := DoAt(ctx, p, Renew, func() string { return at }, b.call)
			require.NoError(t, err)
			at = a.Value
			return time.Since(began)
		}
		for range 20 {
			call()
			require.Equal(t, "b", at, "DoAt must stay at b although a leads")
		}
		b.set("b", "hang")
		require.LessOrEqual(t, call(), 30*time.Millisecond)
		require.NotEqual(t, "b", at)
		stays := at
		for range 20 {
			call()
			require.Equal(t, stays, at)
		}
		b.servers[stays].after = 200 * time.Millisecond // much slower than the others
		for range 50 {
			call()
		}
		require.NotEqual(t, stays, at)
	})
}

// A server that answers the large reads takes longer than the others, and is not slower.
func TestLargeAnswersAreNoSlowness(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b", "c")
		p := started(b.options("a", "b", "c"))
		defer p.Close()
		time.Sleep(time.Second) // the first probes
		used := p.Endpoints()[0]
		takes := func(d time.Duration) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.servers[used].after = d
		}
		for range 50 {
			takes(15 * time.Millisecond) // before a hedge
			_, _, err := b.do(t, p, List)
			require.NoError(t, err)
			takes(time.Millisecond)
			_, _, err = b.do(t, p, Read)
			require.NoError(t, err)
			require.Equal(t, used, p.Endpoints()[0])
		}
		require.Less(t, p.HedgeAfter(Read), 10*time.Millisecond)
		require.Greater(t, p.HedgeAfter(List), 20*time.Millisecond)
	})
}

func TestFarLeaderIsNotPreferred(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("far", "b", "c")
		b.leader, b.servers["far"].after = "far", 80*time.Millisecond
		p := started(b.options("far", "b", "c"))
		defer p.Close()
		time.Sleep(time.Second) // the first probes
		before := b.calls("far")
		for range 100 {
			_, took, err := b.do(t, p, Read)
			require.NoError(t, err)
			require.LessOrEqual(t, took, 2*time.Millisecond)
		}
		require.LessOrEqual(t, b.calls("far")-before, 1)
	})
}

// A first probe connects, and its duration says little about the latency of a call.
func TestLeaderThatConnectsSlowlyIsPreferred(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b", "leader")
		b.leader, b.servers["leader"].after = "leader", 20*time.Millisecond
		p := started(b.options("a", "b"))
		defer p.Close()
		p.mu.Lock()
		p.add(&member{addr: "leader", seed: true}) // not the one in use
		p.mu.Unlock()
		p.wakeUp()
		time.Sleep(20 * time.Millisecond)
		synctest.Wait() // the first probes have been answered
		b.mu.Lock()
		b.servers["leader"].after = time.Millisecond
		b.mu.Unlock()
		require.NotEqual(t, "leader", p.Endpoints()[0])
		time.Sleep(p.o.ProbeInterval + time.Millisecond)
		require.Equal(t, "leader", p.Endpoints()[0])
	})
}

func TestTopology(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b", "c", "d")
		o := b.options("a", "b")
		var dropped []string
		o.Drop = func(endpoint string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			dropped = append(dropped, endpoint)
		}
		listed := []string{"a", "b", "c"}
		o.Topology = func(context.Context) ([]Listed, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			var list []Listed
			for _, name := range listed {
				list = append(list, Listed{Endpoint: name})
			}
			return list, nil
		}
		p := started(o)
		defer p.Close()
		time.Sleep(5 * time.Second)
		require.ElementsMatch(t, []string{"a", "b", "c"}, p.Endpoints())
		require.Equal(t, 1, b.count(dcs.Added, "c"))
		require.Equal(t, 1, b.count(dcs.Restored, "c"), "c must be used after successful probes")

		b.mu.Lock()
		listed = []string{"d"}
		b.mu.Unlock()
		time.Sleep(2 * p.o.TopologyInterval)
		require.ElementsMatch(t, []string{"a", "b", "d"}, p.Endpoints(), "seeds must be kept")
		b.mu.Lock()
		require.Equal(t, []string{"c"}, dropped, "the connections of a removed member")
		b.mu.Unlock()
		for _, n := range []string{"a", "b"} {
			b.set(n, "refuse")
		}
		for range 4 {
			who, _, err := b.do(t, p, Read)
			require.NoError(t, err)
			require.Equal(t, "d", who)
		}
		b.mu.Lock()
		listed = []string{"d", "c"}
		b.mu.Unlock()
		time.Sleep(5 * p.o.Budget)
		require.Contains(t, p.Endpoints(), "c", "members must be listed again while no endpoint fails")
	})
}

func TestProbesAreFew(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		names := make([]string, 50)
		for i := range names {
			names[i] = fmt.Sprint("s", i)
		}
		b := newBench(names...)
		for _, n := range names {
			b.set(n, "hang")
		}
		p := started(b.options(names...))
		defer p.Close()
		time.Sleep(20 * time.Second)
		b.mu.Lock()
		defer b.mu.Unlock()
		assert.LessOrEqual(t, b.probes, probeBurst+20*probesPerSecond+1)
	})
}

func TestDialsAreFew(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := started(newBench("a").options("a"))
		defer p.Close()
		allowed := 0
		for range 1000 {
			if p.AllowDial() {
				allowed++
			}
			time.Sleep(time.Millisecond)
		}
		require.LessOrEqual(t, allowed, dialBurst+dialsPerSecond+1)
	})
}

func TestDialIsAwaited(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := started(newBench("a").options("a"))
		defer p.Close()
		for p.AllowDial() { // until none is left
		}
		began := time.Now()
		require.NoError(t, p.AwaitDial(t.Context()))
		require.LessOrEqual(t, time.Since(began), time.Second/dialsPerSecond+2*betweenDials)
		for p.AllowDial() { // until none is left
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		require.ErrorIs(t, p.AwaitDial(ctx), ErrDials)
	})
}

func TestBlameMovesCalls(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b")
		b.leader = "a"
		p := started(b.options("a", "b"))
		defer p.Close()
		time.Sleep(time.Second)
		p.Blame("a", "its view lags behind")
		who, _, err := b.do(t, p, Read)
		require.NoError(t, err)
		require.Equal(t, "b", who)
		require.Equal(t, 1, b.count(dcs.Switched, "a"))
	})
}

func TestCloseEndsCalls(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a")
		p := started(b.options("a"))
		b.set("a", "refuse")
		done := make(chan error, 1)
		go func() {
			_, _, err := b.do(t, p, Read)
			done <- err
		}()
		time.Sleep(100 * time.Millisecond)
		p.Close()
		require.ErrorIs(t, <-done, dcs.ErrClosed)
		_, _, err := b.do(t, p, Read)
		require.ErrorIs(t, err, dcs.ErrClosed)
	})
}

// Under random faults no call exceeds its budget, and none fails while one endpoint
// is healthy all the time.
func TestNoScheduleBeatsThePool(t *testing.T) {
	for seed := range uint64(150) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) { schedule(t, seed) })
		})
	}
}

func schedule(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 7))
	names := []string{"a", "b", "c", "d", "e"}[:2+r.IntN(4)]
	b := newBench(names...)
	o := b.options(names...)
	o.Rand = rand.New(rand.NewPCG(seed, 8)).Int64N
	o.Budget = time.Second
	p := started(o)
	defer p.Close()
	stop := make(chan struct{})
	var bad sync.WaitGroup
	defer bad.Wait()
	defer close(stop)
	well := names[r.IntN(len(names))]
	bad.Add(1)
	go func() { // every other endpoint changes its mode at random
		defer bad.Done()
		modes := []string{"", "hang", "refuse", "no leader"}
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(r.Int64N(int64(300 * time.Millisecond)))):
			}
			if n := names[r.IntN(len(names))]; n != well {
				b.set(n, modes[r.IntN(len(modes))])
			}
		}
	}()
	for i := range 60 {
		budget := 600*time.Millisecond + time.Duration(i)*10*time.Millisecond
		ctx, cancel := context.WithTimeout(t.Context(), budget)
		began := time.Now()
		_, err := Do(ctx, p, Class(i%int(classes)), b.call)
		took := time.Since(began)
		cancel()
		require.NoError(t, err, "call %d failed although %v was healthy", i, well)
		require.LessOrEqual(t, took, budget)
		time.Sleep(time.Duration(i%7) * 5 * time.Millisecond)
	}
}
