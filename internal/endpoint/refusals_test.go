package endpoint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

var errToken = errors.New("invalid auth token")

// refusing starts a Pool of servers of which those in the list refuse every call. The
// others fail with their error in other, or succeed.
func refusing(o Options, refuse []string, other map[string]error) (*Pool, func(context.Context, string) (int, error)) {
	o.SampleInterval = -1
	judgeOther := o.Judge
	o.Judge = func(err error) Verdict {
		if errors.Is(err, errToken) {
			return Verdict{Unconfirmed: true, Refused: true, Reason: err.Error()}
		}
		return judgeOther(err)
	}
	return started(o), func(ctx context.Context, addr string) (int, error) {
		if slices.Contains(refuse, addr) {
			return 0, &dcs.Error{Kind: dcs.ErrUnauthorized, Err: errToken}
		}
		if err := other[addr]; errors.Is(err, context.DeadlineExceeded) {
			<-ctx.Done()
			return 0, ctx.Err()
		}
		return 1, other[addr]
	}
}

// A server that refuses a call is at fault once another one serves the call.
func TestRefusalOfOneServerIsItsFault(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b", "c")
		o := b.options("a", "b", "c")
		p, call := refusing(o, []string{"a"}, nil)
		defer p.Close()
		b.set("a", "no leader") // for its probes too
		p.mu.Lock()
		p.current = p.find("a")
		p.mu.Unlock()
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			began := time.Now()
			_, err := Do(ctx, p, Read, call)
			cancel()
			require.NoError(t, err)
			require.Zero(t, time.Since(began), "the next server must be called at once")
		}
		require.NotEqual(t, "a", p.Endpoints()[0])
		require.Equal(t, 1, b.count(dcs.Switched, "a"))
	})
}

// If every server refuses a call, no server is ejected and the call ends with the
// refusal at once. It does not wait for a server that is down.
func TestRefusalOfAllServersIsTheStores(t *testing.T) {
	for name, other := range map[string]map[string]error{"all": nil, "one is down": {"c": errRefused}} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				b := newBench("a", "b", "c")
				refuse := slices.DeleteFunc([]string{"a", "b", "c"}, func(n string) bool { return other[n] != nil })
				p, call := refusing(b.options("a", "b", "c"), refuse, other)
				defer p.Close()
				for range 5 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					began := time.Now()
					a, err := Do(ctx, p, Write, call)
					cancel()
					require.ErrorIs(t, err, dcs.ErrUnauthorized)
					require.NotErrorIs(t, err, context.DeadlineExceeded)
					require.Zero(t, time.Since(began))
					require.True(t, a.Clear)
					var f *Fault
					require.ErrorAs(t, err, &f)
					require.Equal(t, a.Endpoint, f.Endpoint)
					require.Contains(t, refuse, f.Endpoint)
				}
				for _, n := range refuse {
					require.Zero(t, b.count(dcs.Ejected, n)+b.count(dcs.Switched, n))
				}
			})
		})
	}
}

// At its deadline a call returns the refusal of one server, unless another server has
// given another answer, such as that it knows no leader.
func TestRefusalIsContradictedByAnotherAnswer(t *testing.T) {
	for name, tc := range map[string]struct {
		other error
		kind  error
	}{"the others are silent": {context.DeadlineExceeded, dcs.ErrUnauthorized}, "the others have no leader": {errNoLeader, nil}} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				b := newBench("a", "b", "c")
				p, call := refusing(doubting(b, "a", "b", "c"), []string{"a"}, map[string]error{"b": tc.other, "c": tc.other})
				defer p.Close()
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				_, err := Do(ctx, p, Read, call)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Equal(t, tc.kind, dcs.KindOf(err), "%v", err)
			})
		})
	}
}

// A Final error does not make the call Clear while another copy is in flight, because
// that copy may still be executed.
func TestFinalErrorIsNotClearWithACopyInFlight(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b")
		p := b.unsampled("a", "b")
		defer p.Close()
		first := p.Endpoints()[0]
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		done := make(chan struct{})
		a, err := Do(ctx, p, Write, func(_ context.Context, addr string) (int, error) {
			if addr == first {
				<-done
				return 1, nil
			}
			time.AfterFunc(time.Millisecond, func() { close(done) }) // in the bubble: once this error is judged
			return 0, fmt.Errorf("asked: %w", errNotFound)
		})
		require.ErrorIs(t, err, errNotFound)
		require.False(t, a.Clear)
	})
}

// A Refused error does not eject the server, and an Unreachable one does.
func TestRefusedIsNotUnreachable(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for _, unreachable := range []bool{false, true} {
			b := newBench("a", "b")
			o := b.options("a", "b")
			o.SampleInterval = -1
			o.Judge = func(err error) Verdict {
				return Verdict{Refused: true, Blame: true, Unreachable: unreachable, Reason: err.Error()}
			}
			p := New(o)
			p.Pick(Read, "b").End(errRefused)
			require.Equal(t, unreachable, b.count(dcs.Ejected, "a") == 1)
		}
	})
}

// A Local failure is no server's fault, is not reported as silence and names no server.
func TestLocalFailureNamesNoServer(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b")
		o := b.options("a", "b")
		o.SampleInterval = -1
		o.Judge = func(error) Verdict { return Verdict{Local: true, Refused: true} }
		p := started(o)
		defer p.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		a, err := Do(ctx, p, Read, func(ctx context.Context, _ string) (int, error) {
			<-ctx.Done() // until its timeout
			return 0, ErrDials
		})
		require.EqualError(t, err, ErrDials.Error()+" ("+context.DeadlineExceeded.Error()+")")
		require.Empty(t, a.Endpoint)
		require.True(t, a.Clear)
		require.Empty(t, b.events)
	})
}

// An error names the server at fault, which is also the Endpoint of the Answer.
func TestFaultNamesItsServer(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b")
		p := b.unsampled("a", "b")
		defer p.Close()
		b.set("a", "hang")
		b.set("b", "no leader")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		a, err := Do(ctx, p, Read, b.call)
		require.EqualError(t, err, "b: no leader (context deadline exceeded)")
		require.Equal(t, "b", a.Endpoint)
	})
}

// A call that its caller cancels is no server's failure.
func TestCancellationIsNoFailure(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a")
		p := b.unsampled("a")
		defer p.Close()
		b.set("a", "hang")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		time.AfterFunc(10*time.Millisecond, cancel)
		_, err := Do(ctx, p, Read, b.call)
		require.EqualError(t, err, context.Canceled.Error())
		require.Zero(t, b.count(dcs.Ejected, "a"))
	})
}
