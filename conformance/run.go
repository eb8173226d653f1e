package conformance

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// Run runs every case of the suite against the harness's backend, as subtests named after
// the cases, and prints a table at the end. If the environment variable
// HOLDFAST_CONFORMANCE_JSON names a file, Run appends one JSON object for each case to it.
// HOLDFAST_PROFILE=slow selects the long counts.
func Run(t *testing.T, h Harness) {
	t.Helper()
	if faults := h.check(); len(faults) > 0 {
		t.Fatalf("conformance: the harness has faults:\n\t%s", strings.Join(faults, "\n\t"))
	}
	report := &report{backend: h.Name, virtual: h.Virtual}
	t.Cleanup(func() { report.finish(t) })
	t.Logf("conformance: %d cases", len(table())) // make test shows its progress by this line
	s := schedule{t: t, run: func(t *testing.T, c spec) { runOne(t, h, c, report) }}
	if h.Virtual { // the cases only compute, so running two at once gains nothing
		for _, c := range table() {
			s.one(c)
		}
		return
	}
	defer machine.use()()
	before := goroutines()
	s.together()
	for _, stack := range leaked(before, false, h.Ours, nil) {
		t.Errorf("a goroutine outlives the cases that ran at the same time and all their clients:\n%s", stack)
	}
	s.alone()
}

// runOne runs one case as the test t.
func runOne(t *testing.T, h Harness, c spec, report *report) {
	if why, ok := h.notApplicable(c.Name); ok {
		report.add(outcome{c: c, verdict: notApplicable, reason: why})
		t.Skipf("not applicable to %s: %s", h.Name, why)
	}
	o := runCase(t, h, c)
	report.add(o)
	if o.verdict == failed || testing.Verbose() {
		for _, l := range o.logs {
			t.Log(l)
		}
	}
	if o.verdict == failed {
		t.Errorf("%s: %s\n\n%s", c.Name, c.Rule, strings.Join(o.failures, "\n\n"))
	}
}

// schedule decides which cases run at the same time.
type schedule struct {
	t   *testing.T
	run func(t *testing.T, c spec)
}

// sleepers is the number of cases that mostly wait and run at once, and ramp the number by
// which it grows with each of the first cases. A store that has just started, on a busy
// machine, cannot answer the first requests of all clients within a budget.
const (
	sleepers = 10
	ramp     = 3
)

func (s schedule) one(c spec) { s.t.Run(c.Name, func(t *testing.T) { s.run(t, c) }) }

// together runs every case that need not be alone. Those that compute run one after the
// other, and those that mostly wait run at the same time.
func (s schedule) together() {
	var all sync.WaitGroup
	free := make(chan struct{}, sleepers)
	for _, c := range table() {
		if c.sleeps {
			all.Go(func() {
				<-free
				defer func() { free <- struct{}{} }()
				s.one(c)
			})
		}
	}
	released := 0
	release := func(n int) {
		for ; n > 0 && released < sleepers; n-- {
			free <- struct{}{}
			released++
		}
	}
	for _, c := range table() {
		if !c.sleeps && !c.alone {
			s.one(c)
			release(ramp)
		}
	}
	release(sleepers)
	all.Wait()
}

// alone runs the other cases.
func (s schedule) alone() {
	for _, c := range table() {
		if c.alone {
			s.one(c)
		}
	}
}

// runCase runs one case on a store of its own and returns the outcome. It never fails t.
func runCase(t *testing.T, h Harness, c spec) (o outcome) {
	t.Helper()
	begin := time.Now()
	if !h.Virtual {
		o = runBody(t, h, c)
	} else {
		func() {
			// A bubble panics if goroutines are left that can never wake.
			defer func() {
				if p := recover(); p != nil {
					o.c, o.verdict = c, failed
					o.failures = append(o.failures, fmt.Sprintf("the bubble could not end: %v", p))
				}
			}()
			bubble.Test(t, func(t *testing.T) { o = runBody(t, h, c) })
		}()
	}
	o.took = time.Since(begin)
	return o
}

// runBody runs a case, its cleanups and the leak check, in the bubble of the caller, if
// any.
func runBody(tb testing.TB, h Harness, c spec) outcome {
	if !h.Virtual {
		defer machine.use()()
	}
	before := goroutines()
	rec := newRecorder(tb, tb.Name())
	limit := c.limit
	if limit == 0 {
		limit = time.Minute + 10*h.timing().TTL
	}
	if h.Virtual || slowProfile() {
		limit *= 60
	}
	began := time.Now()
	ended := watched(rec, limit, "the case", func() {
		e := newEnv(rec, h, c)
		defer e.fastEnough(began)
		c.run(e)
	})
	// Cleanups end the clients, which also frees a body that hangs in a call.
	ended = watched(rec, limit, "closing its clients", rec.cleanup) && ended
	if ended && (h.Virtual || c.alone) {
		for _, stack := range leaked(before, h.Virtual, h.Ours, nil) {
			rec.fail("a goroutine outlives the case and every client of it:\n" + stack)
		}
	}
	return rec.result(c)
}

// watched runs f until it ends. When the limit is reached, it records the stacks of all
// goroutines and gives f up.
func watched(rec *recorder, limit time.Duration, what string, f func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		rec.guard(f)
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		var stacks []string
		for _, s := range goroutines() {
			if !matchesAny(s, notOurs) {
				stacks = append(stacks, s)
			}
		}
		rec.fail(fmt.Sprintf("%s did not end within %v; its goroutines:\n\n%s", what, limit, strings.Join(stacks, "\n\n")))
		return false
	}
}

// slack is ε, the time that a call may take beyond its budget.
const slack = 100 * time.Millisecond
