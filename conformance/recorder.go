package conformance

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// recorder is the testing.TB of a case. It records failures instead of passing them on, so
// that the suite can also be run against stores that must fail it, and so that a watchdog
// can abandon a case. The embedded TB serves TempDir, Setenv and similar methods. It is also
// the only way to implement the interface, which has a private method.
type recorder struct {
	testing.TB
	name   string
	ctx    context.Context //nolint:containedctx // the result of testing.TB's Context
	cancel context.CancelFunc

	mu       sync.Mutex
	failures []string
	logs     []string
	failed   bool
	without  []string // missing hooks and capabilities for which checks were left out, in the order of the checks
	over     bool     // the case was given up, and nothing is recorded any more
	cleanups []func()
	measures []latency
}

const keptMessages = 20

func newRecorder(tb testing.TB, name string) *recorder {
	r := &recorder{TB: tb, name: name}
	// Background, because the outer context ends before the outer cleanups. A case's own
	// cleanups run well before that.
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

func (r *recorder) fail(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return
	}
	r.failed = true
	if text != "" && len(r.failures) < keptMessages {
		r.failures = append(r.failures, where()+strings.TrimSpace(text))
	}
}

// where returns the line of a failing case, unless testify adds it.
func where() string {
	var pcs [24]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	for {
		f, more := frames.Next()
		if strings.Contains(f.Function, "/testify/") {
			return ""
		}
		base := filepath.Base(f.File)
		if strings.HasPrefix(base, "case_") {
			return fmt.Sprintf("%s:%d: ", base, f.Line)
		}
		if !more {
			return ""
		}
	}
}

// The methods below are testing.TB's, with the meaning they have there.

func (r *recorder) Name() string             { return r.name }
func (r *recorder) Context() context.Context { return r.ctx }
func (r *recorder) Helper()                  {}
func (r *recorder) Fail()                    { r.fail("") }
func (r *recorder) Error(args ...any)        { r.fail(fmt.Sprintln(args...)) }
func (r *recorder) Errorf(f string, a ...any) {
	r.fail(fmt.Sprintf(f, a...))
}

func (r *recorder) FailNow() {
	r.fail("")
	runtime.Goexit()
}

func (r *recorder) Fatal(args ...any) {
	r.fail(fmt.Sprintln(args...))
	runtime.Goexit()
}

func (r *recorder) Fatalf(f string, a ...any) {
	r.fail(fmt.Sprintf(f, a...))
	runtime.Goexit()
}

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

func (r *recorder) Log(args ...any) { r.log(fmt.Sprintln(args...)) }
func (r *recorder) Logf(f string, a ...any) {
	r.log(fmt.Sprintf(f, a...))
}

func (r *recorder) log(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over && len(r.logs) < 10*keptMessages {
		r.logs = append(r.logs, strings.TrimSpace(text))
	}
}

// measure keeps l, or the earlier latency with the same name if that is closer to its
// bound.
func (r *recorder) measure(l latency) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return
	}
	for i, m := range r.measures {
		if m.what == l.what {
			if l.excess() > m.excess() {
				r.measures[i] = l
			}
			return
		}
	}
	r.measures = append(r.measures, l)
}

// lacks records that a check was left out because a hook or a capability is missing.
func (r *recorder) lacks(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over && !slices.Contains(r.without, what) {
		r.without = append(r.without, what)
	}
}

// A case must not skip itself, because that hides a missing check.
func (r *recorder) Skip(args ...any) { r.Fatal("skipped without being declared:", fmt.Sprint(args...)) }

func (r *recorder) Skipf(f string, a ...any) {
	r.Fatal("skipped without being declared:", fmt.Sprintf(f, a...))
}
func (r *recorder) SkipNow()          { r.Fatal("skipped without being declared") }
func (r *recorder) Skipped() bool     { return false }
func (r *recorder) Output() io.Writer { return logWriter{r} }

type logWriter struct{ r *recorder }

func (w logWriter) Write(p []byte) (int, error) {
	w.r.log(string(p))
	return len(p), nil
}

func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

// cleanup runs the functions of Cleanup, last first, each even if another one fails.
func (r *recorder) cleanup() {
	r.cancel()
	for {
		r.mu.Lock()
		n := len(r.cleanups)
		if n == 0 {
			r.mu.Unlock()
			return
		}
		f := r.cleanups[n-1]
		r.cleanups = r.cleanups[:n-1]
		r.mu.Unlock()
		r.guard(f)
	}
}

// guard runs f in a goroutine of its own, so that a FailNow in it ends only f, and turns a
// panic into a failure.
func (r *recorder) guard(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer r.recoverPanic()
		f()
	}()
	<-done
}

func (r *recorder) recoverPanic() {
	if p := recover(); p != nil {
		stack := make([]byte, 16<<10)
		r.fail(fmt.Sprintf("panic: %v\n%s", p, stack[:runtime.Stack(stack, false)]))
	}
}

// result returns the outcome of case c and stops recording.
func (r *recorder) result(c spec) outcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	o := outcome{c: c, verdict: passed, failures: r.failures, logs: r.logs, without: r.without, latencies: r.measures}
	if r.failed {
		o.verdict = failed
	}
	return o
}
