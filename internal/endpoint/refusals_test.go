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
)

var errToken = errors.New("invalid auth token")

// refusing is a Pool of servers, some of which refuse every call. Those of the
// others fail with the error that other has for them, or succeed.
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

// A refusal that one server gives is that server's fault once another one serves.
func TestRefusalOfOneServerIsItsFault(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench("a", "b", "c")
		o := b.options("a", "b", "c")
		p, call := refusing(o, []string{"a"}, nil)
		defer p.Close()
		b.set("a", "no leader") // its probes, too
		p.mu.Lock()
		p.current = p.find("a")
		p.mu.Unlock()
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			began := time.Now()
			_, err := Do(ctx, p, Read, call)
			cancel()
			require.NoError(t, err)
			require.Zero(t, time.Since(began), "the next server is asked at once")
		}
		require.NotEqual(t, "a", p.Endpoints()[0])
		require.Equal(t, 1, b.count(dcs.Switched, "a"))
	})
}

// A refusal that every server gives is the store's: no server is ejected, and the
// call ends with it at once. A server that is down is not waited for.
func TestRefusalOfAllServersIsTheStores(t *testing.T) {
	for name, other := range map[string]map[string]error{"all": nil, "one is down": {"c": errRefused}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
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

// A call is unauthorized at its deadline if no server was heard of that did not
// refuse it. One that knows no leader is such a server.
func TestRefusalIsContradictedByAServerThatIsHeardOf(t *testing.T) {
	for name, tc := range map[string]struct {
		other error
		kind  error
	}{"the others are silent": {context.DeadlineExceeded, dcs.ErrUnauthorized}, "the others have no leader": {errNoLeader, nil}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
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

// A final no leaves nothing clear while another copy is under way: that one may
// still be done.
func TestFinalNoIsNotClearWhileAnotherCopyIsOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
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
			defer close(done)
			return 0, fmt.Errorf("asked: %w", errNotFound)
		})
		require.ErrorIs(t, err, errNotFound)
		require.False(t, a.Clear)
	})
}

// A copy that wrote nothing because it was refused does not eject its server, and
// one whose server cannot be reached does.
func TestRefusedIsNotUnreachable(t *testing.T) {
	bubble(t, func(t *testing.T) {
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

// A failure on our own side is no server's fault, is not called silence and names
// no server.
func TestOwnFailureNamesNoServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench("a", "b")
		o := b.options("a", "b")
		o.SampleInterval = -1
		o.Judge = func(error) Verdict { return Verdict{Local: true, Refused: true} }
		p := started(o)
		defer p.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		a, err := Do(ctx, p, Read, func(ctx context.Context, _ string) (int, error) {
			<-ctx.Done() // until its time is over
			return 0, ErrDials
		})
		require.EqualError(t, err, ErrDials.Error()+" ("+context.DeadlineExceeded.Error()+")")
		require.Empty(t, a.Endpoint)
		require.True(t, a.Clear)
		require.Empty(t, b.events)
	})
}

// An error names the server at fault, and that is the Answer's.
func TestFaultNamesItsServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
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

// A call that its caller gives up blames nobody.
func TestOwnCancellationIsNobodysFault(t *testing.T) {
	bubble(t, func(t *testing.T) {
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
