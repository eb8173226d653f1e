package endpoint

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// doubting returns Options for b under which the answer "no leader" is a Doubt.
func doubting(b *bench, seeds ...string) Options {
	o := b.options(seeds...)
	o.Judge = func(err error) Verdict {
		v := judge(err)
		if errors.Is(err, errNoLeader) {
			v = Verdict{Refused: true, Doubt: true, Reason: err.Error()}
		}
		return v
	}
	return o
}

func TestDoubtIsNoFailureWhileNoServerServes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b", "c")
		p := started(doubting(b, "a", "b", "c"))
		defer p.Close()
		for _, name := range []string{"a", "b", "c"} {
			b.set(name, "no leader")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		time.AfterFunc(2*time.Second, func() {
			for _, name := range []string{"a", "b", "c"} {
				b.set(name, "")
			}
		})
		_, err := Do(ctx, p, Read, b.call)
		require.NoError(t, err)
		for _, name := range []string{"a", "b", "c"} {
			require.Zero(t, b.count(dcs.Ejected, name), "%s was ejected during an election", name)
		}
	})
}

// A server that is cut off from the others answers so at once. Calls move to another
// server although no call is silent.
func TestDoubtIsAFailureOnceAnotherServes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b")
		o := doubting(b, "a", "b")
		o.SampleInterval = -1
		p := started(o)
		defer p.Close()
		at := p.Endpoints()[0]
		b.set(at, "no leader")
		for range 4 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := Do(ctx, p, Read, b.call)
			cancel()
			require.NoError(t, err)
		}
		time.Sleep(10 * time.Second) // its probes get the same answer
		require.NotEqual(t, at, p.Endpoints()[0])
		before := b.calls(at)
		for range 4 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := Do(ctx, p, Read, b.call)
			cancel()
			require.NoError(t, err)
		}
		require.Equal(t, before, b.calls(at), "calls are still sent to %s", at)
		require.NotZero(t, b.count(dcs.Switched, at))
	})
}

func TestAnAnswerNamesTheLeader(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b", "c")
		o := b.options("a", "b", "c")
		o.SampleInterval = time.Hour
		p := started(o)
		defer p.Close()
		time.Sleep(time.Second) // each was probed once
		for _, name := range []string{"a", "b", "c"} {
			p.Leads(name)
			require.Equal(t, name, p.Endpoints()[0])
		}
		p.Leads("unknown")
		require.Equal(t, "c", p.Endpoints()[0])
	})
}

// Endpoints lists ejected endpoints too, and each endpoint once.
func TestEndpointsListsEachOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b", "c")
		p := b.unsampled("a", "b", "c")
		defer p.Close()
		b.set("a", "hang")
		b.set("b", "hang")
		for range ejectAfter {
			p.Blame("a", "a test")
			p.Blame("b", "a test")
		}
		require.Equal(t, "c", p.Endpoints()[0])
		require.ElementsMatch(t, []string{"a", "b", "c"}, p.Endpoints())
	})
}
