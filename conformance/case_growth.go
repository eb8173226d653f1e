package conformance

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// noGrowth compares the goroutines and descriptors before and after many rounds. The first
// rounds are not compared, because a client may keep connections once it has made them.
func noGrowth(e *env) {
	c := e.open()
	interrupted, rounds := e.hasInject(), e.rounds(24, 100)
	thorough := e.h.Virtual || slowProfile()
	round := func(i int) {
		e.giveUpWaits(c, fmt.Sprint(i))
		s, err := c.NewSession(e.ctx, dcs.SessionOptions{})
		require.NoError(e, err)
		require.NoError(e, e.acquire(s, e.key("released", fmt.Sprint(i)), "v").Release(e.ctx))
		e.acquire(s, e.key("closed", fmt.Sprint(i)), "v")
		switch {
		case !interrupted:
		case thorough && i%8 == 0:
			e.interrupt(c, s.Done())
		case thorough || i%6 == 0: // an interruption takes about half a second
			e.interrupt(c, nil)
		}
		_ = s.Close(e.ctx) // an interruption may have ended the session
	}
	for i := range rounds / 3 {
		round(i)
	}
	before := e.footprint()
	for batch := 1; ; batch++ {
		for i := range rounds {
			round(batch*rounds + i)
		}
		now, small := e.asSmallAs(before, rounds/2)
		if small {
			return
		}
		if batch == fullPools {
			e.Fatalf("the client grows with each %d rounds: %d more goroutines and descriptors are allowed", rounds, rounds/2)
		}
		before = now
	}
}

// fullPools is the number of batches of rounds within which the pools of connections of a
// client fill. How many connections it uses depends on the number of calls at the same
// moment, which is larger on a slow machine. That growth ends, and the growth of a leak
// does not.
const fullPools = 4

// giveUpWaits makes Waits for keys that do not exist, and ends them by their contexts.
func (e *env) giveUpWaits(c *client, name string) {
	since := c.snapshot(e.prefix).Revision
	ctx, cancel := context.WithTimeout(e.ctx, 5*time.Millisecond)
	defer cancel()
	e.together(3, func(i int) { _, _ = c.Wait(ctx, e.key("never", name, fmt.Sprint(i)), since) })
}

// interrupt loses all requests of c, until ended is closed. If that is nil, it does so until
// some requests are lost or a call has failed.
func (e *env) interrupt(c *client, ended <-chan struct{}) {
	var n atomic.Int64
	lost := make(chan struct{})
	lift := e.inject(c, Fault{Do: LoseRequest, When: func(Request) bool {
		if n.Add(1) == 3 {
			close(lost)
		}
		return true
	}})
	ctx, cancel := context.WithTimeout(e.ctx, e.budget()/5)
	defer cancel()
	called := e.start(func() { _, _ = c.Get(ctx, e.key("k")) })
	if ended != nil {
		e.within(2*e.timing.TTL, ended, "a Session ends in an outage")
	}
	select {
	case <-lost:
	case <-called:
	}
	lift()
	e.within(e.budget()+slack, called, "a call whose requests were lost ends")
}

// footprint is the number of goroutines, by the function that started them, and the number
// of descriptors of this process, or 0 if the system does not list them.
type footprint struct {
	goroutines, descriptors int
	by                      map[string]int
}

func (e *env) footprint() footprint {
	e.settle()
	f := footprint{by: map[string]int{}}
	for _, stack := range goroutines() {
		if matchesAny(stack, notOurs) || matchesAny(stack, e.h.Ours) {
			continue
		}
		_, creator, _ := strings.Cut(stack, "\ncreated by ")
		creator, _, _ = strings.Cut(creator, " in goroutine ")
		f.by[creator]++
		f.goroutines++
	}
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		f.descriptors = len(open)
	}
	return f
}

// asSmallAs waits until the process has at most a few goroutines and descriptors more than
// before, and reports whether it has. Those of requests that were given up may take a budget
// to end.
func (e *env) asSmallAs(before footprint, few int) (now footprint, small bool) {
	began := time.Now()
	for {
		now = e.footprint()
		small = now.goroutines <= before.goroutines+few && now.descriptors <= before.descriptors+few
		if small || e.since(began, 2*e.budget(), "").excess() > 0 {
			break
		}
		e.breathe(e.budget() / 50)
	}
	e.Logf("%d goroutines and %d descriptors, before %d and %d%s", now.goroutines, now.descriptors, before.goroutines, before.descriptors, now.above(before))
	return now, small
}

// above lists the functions that started more goroutines than before.
func (f footprint) above(before footprint) string {
	var out strings.Builder
	for _, creator := range slices.Sorted(maps.Keys(f.by)) {
		if more := f.by[creator] - before.by[creator]; more > 0 {
			fmt.Fprintf(&out, "\n\t%d more by %s", more, creator)
		}
	}
	return out.String()
}
