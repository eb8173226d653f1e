package endpoint

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// The first endpoint hangs and the endpoint of the hedge refuses. The third one must be
// called at once, and not after the timeout of the first.
func TestHedgeThatFailsGoesOn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b", "c")
		p := b.unsampled("a", "b", "c")
		defer p.Close()
		for _, n := range []string{"a", "b", "c"} { // learn latencies
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			a := p.Pick(Read, without(n, "a", "b", "c")...)
			_, err := b.call(ctx, a.Endpoint())
			a.End(err)
			cancel()
		}
		first := p.Endpoints()
		b.set(first[0], "hang")
		b.set(first[1], "refuse")
		who, took, err := b.do(t, p, Read)
		require.NoError(t, err)
		require.Equal(t, first[2], who)
		require.LessOrEqual(t, took, 30*time.Millisecond)
	})
}

// A store that is slow at every endpoint gets few second copies, because they do not
// help.
func TestHedgesThatDoNotHelpStop(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b", "c")
		p := b.unsampled("a", "b", "c")
		defer p.Close()
		slow := func(d time.Duration) {
			b.mu.Lock()
			defer b.mu.Unlock()
			for _, s := range b.servers {
				s.after = d
			}
		}
		_, _, err := b.do(t, p, Read) // learn
		require.NoError(t, err)
		const calls = 200
		before := b.calls("a") + b.calls("b") + b.calls("c")
		for i := range calls {
			slow(time.Millisecond)
			if i%4 == 3 {
				slow(100 * time.Millisecond)
			}
			_, _, err := b.do(t, p, Read)
			require.NoError(t, err)
		}
		copies := b.calls("a") + b.calls("b") + b.calls("c") - before
		require.Greater(t, copies, calls, "no hedge was sent")
		require.LessOrEqual(t, copies-calls, hedgeBurst/uselessHedge+calls/(hedgeShare*uselessHedge)+1)
	})
}

func TestCostOfAHedge(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b")
		p := New(b.options("a", "b"))
		defer p.Close()
		ends := func(err error) (allowed int) {
			p.hedges = hedgeBurst
			for ; allowed < 100 && p.AllowHedge(); allowed++ {
				a := p.Pick(Write, "a")
				a.Hedge()
				a.End(err)
			}
			return allowed
		}
		require.Equal(t, 100, ends(nil), "the hedge was answered first")
		require.Equal(t, hedgeBurst/uselessHedge, ends(ErrOvertaken))
		require.Equal(t, hedgeBurst/uselessHedge, ends(fmt.Errorf("put: %w", context.Canceled)))
		require.Equal(t, 100, ends(context.DeadlineExceeded), "no copy was answered")
		require.Equal(t, 100, ends(errRefused))
	})
}

// A copy whose timeout has passed moves calls to another endpoint. If it is answered
// later, the endpoint was slow and is not at fault.
func TestLateAnswerIsNoFault(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b")
		p := New(b.options("a", "b"))
		defer p.Close()
		p.current = p.find("a")
		a := p.Pick(Write)
		time.Sleep(500 * time.Millisecond)
		a.Late()
		m := p.find("a")
		require.Equal(t, 1, m.failures)
		require.Empty(t, m.open)
		require.Equal(t, "b", p.Endpoints()[0], "new calls must go to another endpoint")
		soon := m.probeAt
		time.Sleep(200 * time.Millisecond)
		a.End(nil)
		require.Zero(t, m.failures)
		require.Greater(t, m.probeAt, soon, "the probe must be postponed")
		require.Equal(t, 700*time.Millisecond, m.lat[Write].mean, "the latency must be recorded")

		a = p.Pick(Write)
		a.End(nil)
		a.Late() // the attempt has ended
		require.Zero(t, p.find(a.Endpoint()).failures)

		a = p.PickAt(Write, "b", "a")
		time.Sleep(500 * time.Millisecond)
		a.Late()
		a.End(context.DeadlineExceeded)
		require.Equal(t, 1, p.find(a.Endpoint()).failures, "silence must count once")
	})
}
