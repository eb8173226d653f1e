package watchcache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// server is a fake endpoint of a Stream.
type server struct {
	follow func(ctx context.Context, w *Watch) error // nil sends one answer and then nothing
	probe  func(ctx context.Context, w *Watch) error // nil answers
}

type fakeStream struct {
	server
	w *Watch
}

func (s fakeStream) Follow(ctx context.Context) error {
	if s.follow != nil {
		return s.follow(ctx, s.w)
	}
	s.w.Heard()
	<-ctx.Done()
	return ctx.Err()
}

func (s fakeStream) Probe(ctx context.Context) error {
	if s.probe != nil {
		return s.probe(ctx, s.w)
	}
	return nil
}

// mute never answers.
func mute(ctx context.Context, _ *Watch) error {
	<-ctx.Done()
	return ctx.Err()
}

const budget = 10 * time.Second

// rig is a Cache of a store with fake servers. The Tree begins at revision 20.
type rig struct {
	Cache
	t     *testing.T
	began time.Time

	mu      sync.Mutex
	opened  []string // endpoints of the watches, in order
	openedA []time.Duration
	changes map[dcs.EndpointChange]int
	reads   int
	readErr error // of each read except the first
}

// newRig starts a Wait that runs until the end of the test. All servers are equally
// fast, and the first watch is at the endpoint that Endpoints returns first.
func newRig(t *testing.T, servers map[string]server) *rig {
	r := &rig{t: t, began: time.Now(), changes: map[dcs.EndpointChange]int{}}
	var seeds []string
	for _, addr := range []string{"a", "b", "c"} {
		if _, ok := servers[addr]; ok {
			seeds = append(seeds, addr)
		}
	}
	life, end := context.WithCancelCause(t.Context())
	var least MinRevision
	pool := endpoint.New(endpoint.Options{
		Backend: "fake", Seeds: seeds, Budget: budget, Judge: backend.Judge,
		Rand: func(int64) int64 { return 0 },
		Observer: r.Observer(func(ev dcs.EndpointEvent) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.changes[ev.Change]++
		}),
	})
	r.Init(Source{
		Backend: "fake", Budget: budget, Life: life, Raise: least.Raise, Pool: pool,
		Read: func(context.Context) (dcs.Snapshot, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.reads++; r.reads == 1 {
				return dcs.Snapshot{Revision: 20}, nil
			}
			return dcs.Snapshot{Revision: 20}, r.readErr
		},
		Stream: func(w *Watch) Stream {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.opened = append(r.opened, w.Endpoint())
			r.openedA = append(r.openedA, time.Since(r.began))
			return fakeStream{servers[w.Endpoint()], w}
		},
	})
	t.Cleanup(func() {
		end(dcs.ErrClosed)
		r.Close()
		pool.Close()
	})
	return r
}

// wait runs a Wait for at most d and returns its error.
func (r *rig) wait(d time.Duration) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), d)
	defer cancel()
	_, err := r.Wait(ctx, "k", max(20, r.Tree.Revision()))
	return err
}

// watched returns the endpoints that were watched, and when each watch began.
func (r *rig) watched() ([]string, []time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.opened...), append([]time.Duration(nil), r.openedA...)
}

func (r *rig) count(change dcs.EndpointChange) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changes[change]
}

// attemptTime is the attempt timeout of a Pool that knows no latencies.
func (r *rig) attemptTime() time.Duration { return r.Pool.AttemptTimeout(endpoint.Read, budget, 0) }

// A watch leaves an endpoint that does not answer its opening within the timeout of an
// attempt, and one failure is counted.
func TestSilentOpening(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, map[string]server{"a": {follow: mute}, "b": {}})
		require.ErrorIs(t, r.wait(5*time.Second), context.DeadlineExceeded)
		at, when := r.watched()
		require.Equal(t, []string{"a", "b"}, at)
		require.InDelta(t, r.attemptTime(), when[1], float64(20*time.Millisecond))
		require.Equal(t, 1, r.count(dcs.Switched))
		require.Zero(t, r.count(dcs.Ejected), "one failure was counted twice")
	})
}

// A watch without changes is probed, and stays open while the probes are answered.
func TestQuietWatchIsProbed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var probes atomic.Int64
		r := newRig(t, map[string]server{"a": {probe: func(context.Context, *Watch) error { probes.Add(1); return nil }}, "b": {}})
		require.ErrorIs(t, r.wait(time.Minute), context.DeadlineExceeded)
		at, _ := r.watched()
		require.Equal(t, []string{"a"}, at)
		require.InDelta(t, int64(time.Minute/r.Every), probes.Load(), 1)
	})
}

// A watch ends if its probe is not answered. Each answer in the meantime restarts the
// timeout, because a large answer may come in parts.
func TestSilentWatch(t *testing.T) {
	for name, parts := range map[string]int{"nothing": 0, "an answer in parts": 5} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				r := newRig(t, map[string]server{"b": {}, "a": {probe: func(ctx context.Context, w *Watch) error {
					for range parts {
						time.Sleep(400 * time.Millisecond)
						w.Heard()
					}
					return mute(ctx, w)
				}}})
				require.ErrorIs(t, r.wait(8*time.Second), context.DeadlineExceeded)
				at, when := r.watched()
				require.Equal(t, []string{"a", "b"}, at)
				want := r.Every + time.Duration(parts)*400*time.Millisecond + r.attemptTime()
				require.InDelta(t, want, when[1], float64(20*time.Millisecond))
				require.Equal(t, 1, r.count(dcs.Switched))
			})
		})
	}
}

// A watch leaves an endpoint whose view does not reach a revision that another answer
// has named, once the endpoint has answered a probe. It stays if the view reaches the
// revision by the probe.
func TestLaggingWatch(t *testing.T) {
	for name, row := range map[string]struct {
		probe func(ctx context.Context, w *Watch) error
		stays bool
		after time.Duration // in addition to Limit*3/2
	}{
		"lags":                    {probe: func(context.Context, *Watch) error { return nil }},
		"catches up":              {probe: func(_ context.Context, w *Watch) error { return w.Apply(50, nil, nil) }, stays: true},
		"answers an old revision": {probe: func(_ context.Context, w *Watch) error { return w.Apply(30, nil, nil) }},
		"answers late": {after: 750 * time.Millisecond, probe: func(ctx context.Context, w *Watch) error {
			for range 5 {
				backoff.Sleep(ctx, 200*time.Millisecond)
				w.Heard()
			}
			return ctx.Err()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				r := newRig(t, map[string]server{"a": {probe: row.probe}, "b": {follow: func(ctx context.Context, w *Watch) error {
					_ = w.Apply(50, nil, nil)
					return mute(ctx, w)
				}}})
				go func() {
					time.Sleep(time.Second)
					r.Saw(50)
				}()
				require.ErrorIs(t, r.wait(4*time.Second), context.DeadlineExceeded)
				at, when := r.watched()
				if row.stays {
					require.Equal(t, []string{"a"}, at)
					return
				}
				require.Equal(t, []string{"a", "b"}, at)
				require.InDelta(t, time.Second+r.Limit*3/2+row.after, when[1], float64(20*time.Millisecond))
				require.Equal(t, 1, r.count(dcs.Switched))
			})
		})
	}
}

// The target of a view is one fixed revision. Compared with the latest one, each view
// would lag under writes.
func TestMovingTargetIsNoLag(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		const behind = 200 * time.Millisecond
		r := newRig(t, map[string]server{"b": {}, "a": {
			probe: func(context.Context, *Watch) error { return nil },
			follow: func(ctx context.Context, w *Watch) error {
				for rev := dcs.Revision(21); ctx.Err() == nil; rev++ {
					w.c.Saw(rev + dcs.Revision(behind/(10*time.Millisecond)))
					time.Sleep(10 * time.Millisecond)
					w.ApplyNewer(rev, nil, nil)
				}
				return ctx.Err()
			},
		}})
		require.ErrorIs(t, r.wait(30*time.Second), context.DeadlineExceeded)
		at, _ := r.watched()
		require.Equal(t, []string{"a"}, at)
	})
}

// A backend that holds changes back gets that time in addition.
func TestDelayIsNoLag(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, map[string]server{"a": {}, "b": {}})
		r.Delay = time.Second
		r.Saw(50)
		require.ErrorIs(t, r.wait(r.Limit+r.Delay), context.DeadlineExceeded)
		at, _ := r.watched()
		require.Equal(t, []string{"a"}, at)
		require.ErrorIs(t, r.wait(r.Limit), context.DeadlineExceeded)
		at, _ = r.watched()
		require.Equal(t, []string{"a", "b"}, at)
	})
}

// The answers of an endpoint that lags do not prove that the store serves. A Wait ends
// within its budget although they continue.
func TestLagIsNoSignOfLife(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, map[string]server{"a": {follow: func(ctx context.Context, w *Watch) error {
			for ctx.Err() == nil {
				w.Heard()
				time.Sleep(100 * time.Millisecond)
			}
			return ctx.Err()
		}}})
		r.Saw(50)
		began := time.Now()
		err := r.wait(2 * budget)
		require.ErrorIs(t, err, dcs.ErrUnavailable)
		require.ErrorIs(t, err, ErrBehind)
		require.ErrorContains(t, err, "a", "the error must name the endpoint")
		require.InDelta(t, budget, time.Since(began), float64(2*time.Second))
	})
}

// The error of a failed watch alone decides whether its endpoint is at fault, whether or
// not the endpoint had answered before. It is counted once (decision 0030).
func TestFailureIsJudgedOnce(t *testing.T) {
	for name, row := range map[string]struct {
		err               error
		switched, ejected int
	}{
		"blame":                 {err: &backend.Failure{Endpoint: "a", Err: errors.New("broken"), Blame: true}, switched: 1},
		"of no kind":            {err: errors.New("broken"), switched: 1},
		"unreachable":           {err: &backend.Failure{Endpoint: "a", Err: errors.New("connection refused"), Blame: true, Unreachable: true}, switched: 1, ejected: 1},
		"doubt":                 {err: &backend.Failure{Endpoint: "a", Err: errors.New("no leader"), Doubt: true}},
		"local":                 {err: &backend.Failure{Endpoint: "a", Err: errors.New("no descriptor"), Local: true}},
		"compaction":            {err: &backend.Failure{Endpoint: "a", Err: errors.New("compacted")}},
		"end of a request":      {err: context.DeadlineExceeded, switched: 1},
		"of no error":           {switched: 1},
		"refused by one server": {err: &backend.Failure{Endpoint: "a", Kind: dcs.ErrUnauthorized, Unconfirmed: true, Err: errors.New("denied")}, switched: 1},
	} {
		for _, opened := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", open", false: ", opening"}[opened], func(t *testing.T) {
				bubble.Test(t, func(t *testing.T) {
					failed := false
					r := newRig(t, map[string]server{"b": {}, "a": {follow: func(ctx context.Context, w *Watch) error {
						if !failed && opened {
							w.Heard()
							time.Sleep(time.Second)
						}
						if !failed {
							failed = true
							return row.err
						}
						w.Heard()
						return mute(ctx, w)
					}}})
					require.ErrorIs(t, r.wait(2*time.Second), context.DeadlineExceeded)
					switched := row.switched
					if errors.Is(row.err, context.DeadlineExceeded) && !opened {
						switched = 0 // too early to count as a failure
					}
					require.Equal(t, []int{switched, row.ejected}, []int{r.count(dcs.Switched), r.count(dcs.Ejected)}, "%v", row.err)
					at, _ := r.watched()
					require.Len(t, at, 2)
				})
			})
		}
	}
}

// A silence that was caused inside the client is not the endpoint's fault.
func TestLocalCauseOfASilence(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		local := &backend.Failure{Endpoint: "a", Err: errors.New("no connection is free"), Local: true}
		r := newRig(t, map[string]server{"b": {}, "a": {follow: func(ctx context.Context, _ *Watch) error {
			<-ctx.Done()
			return local
		}}})
		require.ErrorIs(t, r.wait(5*time.Second), context.DeadlineExceeded)
		require.Zero(t, r.count(dcs.Switched))
		at, _ := r.watched()
		require.Greater(t, len(at), 5)
		require.NotContains(t, at, "b")
	})
}

// A probe that could not be sent for a reason inside the client does not end the watch.
// It is sent again when the next one is due.
func TestLocalFailureOfAProbe(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var probes atomic.Int64
		local := &backend.Failure{Endpoint: "a", Err: errors.New("no connection is free"), Local: true}
		r := newRig(t, map[string]server{"b": {}, "a": {probe: func(context.Context, *Watch) error {
			if probes.Add(1) <= 2 {
				return local
			}
			return nil
		}}})
		require.ErrorIs(t, r.wait(3*r.Every+r.Every/2), context.DeadlineExceeded)
		require.EqualValues(t, 3, probes.Load())
		at, _ := r.watched()
		require.Equal(t, []string{"a"}, at)
		require.Zero(t, r.count(dcs.Switched))
	})
}

// A probe that waits in vain on our side is no silence of the endpoint.
func TestProbeThatWaitsIsNoSilence(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		local := &backend.Failure{Endpoint: "a", Err: errors.New("no connection is free"), Local: true}
		r := newRig(t, map[string]server{"b": {}, "a": {probe: func(ctx context.Context, _ *Watch) error {
			<-ctx.Done()
			return local
		}}})
		_ = r.wait(4 * r.Every)
		at, _ := r.watched()
		require.NotContains(t, at, "b")
		require.Zero(t, r.count(dcs.Switched))
	})
}

// A watch at an endpoint that the Pool ejects ends at once, and this counts no failure of
// the endpoint.
func TestEjectedEndpointIsLeft(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, map[string]server{"a": {}, "b": {}})
		go func() {
			time.Sleep(time.Second)
			r.Pool.Blame("a", "one")
			r.Pool.Blame("a", "two")
		}()
		require.ErrorIs(t, r.wait(2*time.Second), context.DeadlineExceeded)
		at, when := r.watched()
		require.Equal(t, []string{"a", "b"}, at)
		require.InDelta(t, time.Second, when[1], float64(10*time.Millisecond))
		require.Equal(t, 1, r.count(dcs.Ejected))
	})
}

// While all endpoints refuse requests because there are too many, a watch is opened once
// a second.
func TestThrottledWatch(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		busy := server{follow: func(_ context.Context, w *Watch) error {
			return &backend.Failure{Endpoint: w.Endpoint(), Err: errors.New("429"), Doubt: true, Throttled: true, Busy: time.Second, Refused: true}
		}}
		r := newRig(t, map[string]server{"a": busy, "b": busy})
		require.ErrorIs(t, r.wait(8*time.Second), context.DeadlineExceeded)
		at, _ := r.watched()
		require.LessOrEqual(t, len(at), 10)
		require.Zero(t, r.count(dcs.Ejected))
	})
}

// An older read of the tree is ignored, and so are events that the Tree already has.
func TestOlderReportsAreIgnored(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, map[string]server{"a": {}})
		require.ErrorIs(t, r.wait(time.Millisecond), context.DeadlineExceeded)
		w := newWatch(&r.Cache)
		entries := []dcs.Entry{{Key: "k", Created: 30, Modified: 30}}
		w.ApplyNewer(30, entries, nil)
		require.NoError(t, w.TakeNewer(25, nil))
		w.ApplyNewer(28, nil, []string{"k"})
		require.Equal(t, dcs.Snapshot{Revision: 30, Entries: entries}, r.Tree.Snapshot(""))
		require.ErrorIs(t, w.Take(25, nil), ErrBehind)
		require.NoError(t, w.TakeNewer(31, nil))
		require.Empty(t, r.Tree.Snapshot("").Entries)
		require.Equal(t, dcs.Revision(31), r.Tree.Revision())
	})
}

// A watch that one server refuses ends a Wait only if all servers refuse. Otherwise that
// server is at fault. A bad certificate is always the fault of one server.
func TestRefusalOfOneServerEndsNoWait(t *testing.T) {
	denied := func(at string) *backend.Failure {
		return &backend.Failure{Endpoint: at, Kind: dcs.ErrUnauthorized, Unconfirmed: true, Err: errors.New("denied")}
	}
	for name, row := range map[string]struct {
		watch  *backend.Failure
		reads  error // of all servers
		ends   bool
		blames int
	}{
		"one refuses":          {watch: denied("a"), blames: 1},
		"all refuse":           {watch: denied("a"), reads: denied("b"), ends: true},
		"the others are down":  {watch: denied("a"), reads: errors.New("down")},
		"a certificate is bad": {watch: &backend.Failure{Endpoint: "a", Kind: dcs.ErrUnauthorized, Unreachable: true, Err: errors.New("x509")}, blames: 1},
		"a definite answer":    {watch: &backend.Failure{Endpoint: "a", Kind: dcs.ErrUnavailable, Err: errors.New("too large")}, ends: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				watches := 0
				r := newRig(t, map[string]server{"b": {}, "a": {follow: func(ctx context.Context, w *Watch) error {
					if watches++; watches == 1 {
						return row.watch
					}
					w.Heard()
					return mute(ctx, w)
				}}})
				r.readErr = row.reads
				err := r.wait(time.Second)
				if row.ends {
					require.Equal(t, row.watch.Kind, dcs.KindOf(err), "%v", err)
				} else {
					require.ErrorIs(t, err, context.DeadlineExceeded)
					require.NotErrorIs(t, err, dcs.ErrUnauthorized)
				}
				require.Equal(t, row.blames, r.count(dcs.Switched))
			})
		})
	}
}
