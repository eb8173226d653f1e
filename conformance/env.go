package conformance

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	mathrand "math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// env is the environment of a case. It has a testing.TB of its own, the store, and a part of
// the tree that no other case uses.
type env struct {
	testing.TB
	h      Harness
	c      spec
	s      Store
	ctx    context.Context //nolint:containedctx // it is the life of the case, not of a call
	timing dcs.Timing
	prefix string
	log    *lockedBuffer
	seed   uint64

	clients atomic.Int64
	mu      sync.Mutex
	rng     *mathrand.Rand
}

func newEnv(tb testing.TB, h Harness, c spec) *env {
	e := &env{TB: tb, h: h, c: c, ctx: tb.Context(), timing: h.timing(), log: &lockedBuffer{}}
	// Random and unique, because the cluster may have keys of earlier runs.
	e.prefix = "t-" + strings.ToLower(rand.Text())[:12]
	e.seed = seed()
	e.rng = mathrand.New(mathrand.NewPCG(e.seed, 0)) //nolint:gosec // G404: random choices of a test, repeatable by seed
	tb.Logf("seed: HOLDFAST_SEED=%d", e.seed)
	e.s = h.New(tb)
	if e.s.Open == nil {
		tb.Fatal("the harness's New returned a Store without Open")
	}
	return e
}

// seed returns the seed in HOLDFAST_SEED, else a new one.
func seed() uint64 {
	if s, err := strconv.ParseUint(os.Getenv("HOLDFAST_SEED"), 10, 64); err == nil {
		return s
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:]) % 1_000_000
}

// intn returns a random number below n. Safe for concurrent use.
func (e *env) intn(n int) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.rng.IntN(n)
}

// rounds returns a count for the profile in force.
func (e *env) rounds(fast, slow int) int {
	if slowProfile() {
		return slow
	}
	return fast
}

// costly returns the number of repetitions of a step that takes a call's whole budget. It
// is 1 in real time, except in the slow profile.
func (e *env) costly(times int) int {
	if e.h.Virtual || slowProfile() {
		return times
	}
	return 1
}

// key returns a key of this case.
func (e *env) key(parts ...string) string {
	return strings.Join(append([]string{e.prefix}, parts...), "/")
}

// budget returns B, the time that one call may take.
func (e *env) budget() time.Duration { return e.timing.RetryTimeout }

// renewEvery returns the longest pause between two renewals of a session.
func (e *env) renewEvery() time.Duration { return min(e.timing.LoopWait, e.timing.TTL/3) }

// pass waits, for virtual time in a bubble and for real time outside. It is only for cases
// about time itself, such as "still held three TTL later", and never for synchronisation.
func (e *env) pass(d time.Duration) {
	e.breathe(d)
	if e.ctx.Err() != nil {
		e.Fatal("the case was ended")
	}
}

// breathe is pass for goroutines that the end of the case ends.
func (e *env) breathe(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-e.ctx.Done():
	}
}

// settle waits until every goroutine of the case is blocked, in a bubble. Outside of a
// bubble callers must not depend on it.
func (e *env) settle() {
	if e.h.Virtual {
		synctest.Wait()
	}
}

// within requires that ch is closed before limit has passed, and the time that
// the control took meanwhile.
func (e *env) within(limit time.Duration, ch <-chan struct{}, what string) {
	begin := time.Now()
	for wait := limit; wait > 0; wait = e.more(limit, begin) {
		t := time.NewTimer(wait)
		select {
		case <-ch:
			t.Stop()
			e.measured(e.since(begin, limit, what))
			return
		case <-t.C:
		}
	}
	l := e.since(begin, limit, what)
	e.measured(l)
	e.Fatalf("%s: not within %v%s", what, limit, allowance(l.control))
}

// more returns the time by which the control widens a limit further, or zero. The control
// must run meanwhile, so callers must pause between two calls.
func (e *env) more(limit time.Duration, begin time.Time) time.Duration {
	left := -e.since(begin, limit, "").excess()
	if left <= 0 {
		return 0
	}
	return max(left, samplePause)
}

// since returns the latency of an event that begin was the beginning of, if it is over now.
func (e *env) since(begin time.Time, limit time.Duration, what string) latency {
	took := time.Since(begin)
	return latency{what, took, limit, e.allowed(took, limit, begin)}
}

// promptly runs f and requires that it returns within limit.
func (e *env) promptly(limit time.Duration, what string, f func()) time.Duration {
	begin := time.Now()
	done := e.start(f)
	e.within(limit, done, what)
	return time.Since(begin)
}

// start runs f in a goroutine. The channel is closed when f has ended, even if it failed.
func (e *env) start(f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer e.catch()
		f()
	}()
	return done
}

func (e *env) catch() {
	if r, ok := e.TB.(*recorder); ok {
		r.recoverPanic()
	}
}

// together runs f(0) to f(n-1) at once and waits for all. If one failed, the case ends.
func (e *env) together(n int, f func(i int)) {
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer e.catch()
			<-begin
			f(i)
		}()
	}
	close(begin)
	wg.Wait()
	if e.Failed() {
		e.FailNow()
	}
}

// kind requires that err is of the kind and carries it in a *dcs.Error. It
// returns the entry that the error names, if it does.
func (e *env) kind(err, kind error, what string) (current *dcs.Entry) {
	if err == nil {
		e.Fatalf("%s: succeeded, want %q", what, kind)
	}
	if !errors.Is(err, kind) {
		e.Fatalf("%s: got %q, want %q", what, err, kind)
	}
	var typed *dcs.Error
	if !errors.As(err, &typed) {
		e.Fatalf("%s: %q is not a *dcs.Error", what, err)
	}
	return typed.Current
}

// needs ends the case if the harness lacks a hook without which no part of the case can be
// checked.
func (e *env) needs(present bool, hook string) {
	if !present {
		e.Fatalf("the harness has no %s: give it, or say why %s is not applicable", hook, e.c.Name)
	}
}

// has reports whether the harness has a hook that only a part of the case needs. If it does
// not, the result of the case names the hook.
func (e *env) has(present bool, hook string) bool {
	if !present {
		e.without(hook)
	}
	return present
}

// without records that a part of the case cannot be checked, because a hook is missing or a
// capability that backends may lack. The result of the case names it.
func (e *env) without(what string) {
	if r, ok := e.TB.(*recorder); ok {
		r.lacks(what)
	}
}

func (e *env) hasInject() bool { return e.has(e.s.Inject != nil, "Inject") }

// inject puts a fault on the client's requests until lift, or the case's end.
func (e *env) inject(c *client, f Fault) (lift func()) {
	e.needs(e.s.Inject != nil, "Inject")
	if f.When == nil {
		f.When = func(Request) bool { return true }
	}
	lift = sync.OnceFunc(e.s.Inject(c.raw, f))
	e.Cleanup(lift)
	return lift
}

// on selects the requests of a method.
func on(op string) func(Request) bool { return func(q Request) bool { return q.Op == op } }

// commitsOf selects the copies of Commits that touch key.
func commitsOf(key string) func(Request) bool {
	return func(q Request) bool { return q.Op == "Commit" && q.Touches(key) }
}

// lockedBuffer collects the log of clients.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// pause is the pause of a caller with an ordinary rate of calls. Without pauses virtual time
// would stand still.
func (e *env) pause() {
	if e.h.Virtual {
		e.pass(time.Duration(1+e.intn(3)) * time.Millisecond)
	}
}
