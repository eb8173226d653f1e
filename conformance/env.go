package conformance

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// env is what a case works with: a testing.TB of its own, the store, and a
// part of the tree that no other case touches.
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
	// Random and never the same: the cluster may hold what earlier runs left.
	e.prefix = "t-" + strings.ToLower(rand.Text())[:12]
	e.seed = seed()
	e.rng = mathrand.New(mathrand.NewPCG(e.seed, 0)) //nolint:gosec // random choices of a test, repeatable by seed
	tb.Logf("seed: HOLDFAST_SEED=%d", e.seed)
	e.s = h.New(tb)
	if e.s.Open == nil {
		tb.Fatal("the harness's New returned a Store without Open")
	}
	return e
}

// seed returns the seed that HOLDFAST_SEED asks for, else a new one.
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

// costly returns how often to do what takes a call's whole budget: once where
// that is real time, unless there is plenty of it.
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

// budget is B: what one call may take.
func (e *env) budget() time.Duration { return e.timing.RetryTimeout }

// renewEvery is the longest pause between two renewals of a session.
func (e *env) renewEvery() time.Duration { return min(e.timing.LoopWait, e.timing.TTL/3) }

// pass lets time pass: virtual time in a bubble, real time outside. It is only
// for cases about time itself, such as "still held three TTL later"; nothing
// is synchronised with it.
func (e *env) pass(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-e.ctx.Done():
		e.Fatal("the case was ended")
	}
}

// settle lets every goroutine of the case come to rest where that can be
// known: in a bubble. Outside, callers must not depend on it.
func (e *env) settle() {
	if e.h.Virtual {
		synctest.Wait()
	}
}

// client is one independent client of the store.
type client struct {
	*dcs.Store
	raw    dcs.Backend
	e      *env
	serial string // tells the clients of a case apart

	mu      sync.Mutex
	states  []dcs.StateEvent
	closing chan struct{} // closed when the first Close has returned
}

// Close closes the Store. A second call waits for the first one on a channel:
// Store waits on a mutex, and a bubble's time stands still meanwhile.
func (c *client) Close() error {
	c.mu.Lock()
	under := c.closing
	if under == nil {
		c.closing = make(chan struct{})
		defer close(c.closing)
	}
	c.mu.Unlock()
	if under != nil {
		<-under
	}
	return c.Store.Close()
}

// open returns a new client. It is closed when the case ends.
func (e *env) open() *client { return e.wrap(e.s.Open(e)) }

// openAlone returns a client that Close really ends.
func (e *env) openAlone() *client {
	if e.s.OpenAlone != nil {
		return e.wrap(e.s.OpenAlone(e))
	}
	return e.open()
}

func (e *env) wrap(raw dcs.Backend) *client { return e.wrapTimed(raw, e.timing) }

func (e *env) wrapTimed(raw dcs.Backend, t dcs.Timing) *client {
	c := &client{raw: raw, e: e, serial: strconv.FormatInt(e.clients.Add(1), 10)}
	s, err := dcs.New(raw, dcs.Options{
		Timing: t,
		Logger: slog.New(slog.NewTextHandler(e.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Observer: dcs.Observer{State: func(ev dcs.StateEvent) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.states = append(c.states, ev)
		}},
	})
	if err != nil {
		_ = raw.Close() // it was never put to use
	}
	require.NoError(e, err, "dcs.New")
	c.Store = s
	e.Cleanup(func() {
		if err := c.Close(); err != nil {
			e.Errorf("closing a client: %v", err)
		}
	})
	return c
}

// pair returns two independent clients.
func (e *env) pair() (a, b *client) { return e.open(), e.open() }

// events returns the state events so far.
func (c *client) events() []dcs.StateEvent {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]dcs.StateEvent(nil), c.states...)
}

// put writes one key and returns the revision.
func (c *client) put(key, value string) dcs.Revision {
	return c.commit(dcs.Txn{Then: []dcs.Write{dcs.Put(key, []byte(value))}})
}

// del deletes one key and returns the revision.
func (c *client) del(key string) dcs.Revision {
	return c.commit(dcs.Txn{Then: []dcs.Write{dcs.Delete(key)}})
}

// commit commits t, which must succeed.
func (c *client) commit(t dcs.Txn) dcs.Revision {
	r, err := c.Commit(c.e.ctx, t)
	require.NoError(c.e, err, "Commit")
	if r == 0 {
		c.e.Fatal("Commit returned revision 0, which means absent")
	}
	return r
}

// get reads one key, which must be there.
func (c *client) get(key string) dcs.Entry {
	en, err := c.Get(c.e.ctx, key)
	require.NoError(c.e, err, "Get %q", key)
	require.Equal(c.e, key, en.Key)
	return en
}

// gone reports whether the key is absent.
func (c *client) gone(key string) bool {
	_, err := c.Get(c.e.ctx, key)
	if errors.Is(err, dcs.ErrNotFound) {
		return true
	}
	require.NoError(c.e, err, "Get %q", key)
	return false
}

// absent requires that the key is not there.
func (c *client) absent(key string, why string) {
	if !c.gone(key) {
		c.e.Fatalf("%q is there: %s", key, why)
	}
}

// snapshot reads a tree.
func (c *client) snapshot(prefix string) dcs.Snapshot {
	s, err := c.Snapshot(c.e.ctx, prefix)
	require.NoError(c.e, err, "Snapshot %q", prefix)
	c.e.wellFormed(prefix, s)
	return s
}

// grant makes a lease with the harness's TTL.
func (c *client) grant() (dcs.Lease, dcs.Renewal) { return c.grantFor(c.e.timing.TTL) }

func (c *client) grantFor(ttl time.Duration) (dcs.Lease, dcs.Renewal) {
	l, r, err := c.Grant(c.e.ctx, ttl)
	require.NoError(c.e, err, "Grant")
	require.NotEmpty(c.e, l.ID(), "a lease has an id")
	return l, r
}

// session starts a session, closed when the case ends.
func (c *client) session() *dcs.Session {
	s, err := c.NewSession(c.e.ctx, dcs.SessionOptions{})
	require.NoError(c.e, err, "NewSession")
	c.e.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), c.e.budget())
		defer cancel()
		_ = s.Close(ctx) // what the case did to its lease may well forbid it
	})
	return s
}

// acquire takes a lock that must be free.
func (e *env) acquire(s *dcs.Session, key, value string) *dcs.Hold {
	h, err := s.TryAcquire(e.ctx, key, []byte(value))
	require.NoError(e, err, "TryAcquire %q", key)
	if !h.Valid() {
		e.Fatal("a Hold that was just acquired is not Valid()")
	}
	if h.Token() == 0 {
		e.Fatal("the token is 0")
	}
	return h
}

// await follows the tree under prefix with Wait until cond holds, and fails
// when it has not within limit.
func (c *client) await(prefix string, limit time.Duration, what string, cond func(dcs.Snapshot) bool) dcs.Snapshot {
	ctx, cancel := context.WithTimeout(c.e.ctx, limit)
	defer cancel()
	s := c.snapshot(prefix)
	for !cond(s) {
		next, err := c.Wait(ctx, prefix, s.Revision)
		if err != nil {
			c.e.Fatalf("waited %v for %s: %v", limit, what, err)
		}
		if next.Revision <= s.Revision {
			c.e.Fatalf("Wait(since %d) returned revision %d", s.Revision, next.Revision)
		}
		s = next
	}
	return s
}

// awaitGone waits until key is absent.
func (c *client) awaitGone(key string, limit time.Duration) {
	c.await(key, limit, key+" to go", func(s dcs.Snapshot) bool {
		_, there := s.Get(key)
		return !there
	})
}

// within requires that ch is closed before limit has passed.
func (e *env) within(limit time.Duration, ch <-chan struct{}, what string) {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-ch:
	case <-t.C:
		e.Fatalf("%s: not within %v", what, limit)
	}
}

// promptly runs f and requires that it returns within limit.
func (e *env) promptly(limit time.Duration, what string, f func()) time.Duration {
	begin := time.Now()
	done := e.start(f)
	e.within(limit, done, what)
	return time.Since(begin)
}

// start runs f in a goroutine. The channel closes when f is over, also when it
// failed.
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

// together runs f(0) to f(n-1) at once and waits for all; if one failed, the
// case ends.
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

// kind requires that err is of the kind and carries it in a *dcs.Error.
func (e *env) kind(err, kind error, what string) *dcs.Error {
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
	return typed
}

// inject puts a fault on the client's requests until lift, or the case's end.
func (e *env) inject(c *client, f Fault) (lift func()) {
	if e.s.Inject == nil {
		e.Fatalf("the harness has no Inject: give it, or say why %s is not applicable", e.c.Name)
	}
	if f.When == nil {
		f.When = func(Request) bool { return true }
	}
	lift = sync.OnceFunc(e.s.Inject(c.raw, f))
	e.Cleanup(lift)
	return lift
}

// on picks the requests of a method.
func on(op string) func(Request) bool { return func(q Request) bool { return q.Op == op } }

// commitsOf picks the copies of Commits that touch key.
func commitsOf(key string) func(Request) bool {
	return func(q Request) bool { return q.Op == "Commit" && q.Touches(key) }
}

// wellFormed checks what every Snapshot must be.
func (e *env) wellFormed(prefix string, s dcs.Snapshot) {
	for i, en := range s.Entries {
		switch {
		case !dcs.Under(prefix, en.Key):
			e.Fatalf("Snapshot(%q) holds %q", prefix, en.Key)
		case i > 0 && s.Entries[i-1].Key >= en.Key:
			e.Fatalf("Snapshot(%q) is not sorted: %q before %q", prefix, s.Entries[i-1].Key, en.Key)
		case dcs.CheckKey(en.Key) != nil:
			e.Fatalf("Snapshot(%q) shows %q, which no user can have written", prefix, en.Key)
		case en.Created == 0 || en.Modified < en.Created || s.Revision < en.Modified:
			e.Fatalf("Snapshot(%q) at %d: %q was created at %d, modified at %d", prefix, s.Revision, en.Key, en.Created, en.Modified)
		}
	}
}

// tree returns a snapshot's keys and values, for comparisons.
func tree(s dcs.Snapshot) map[string]string {
	m := make(map[string]string, len(s.Entries))
	for _, en := range s.Entries {
		m[en.Key] = string(en.Value)
	}
	return m
}

// lockedBuffer collects what clients log.
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

// pause is the pause of a caller that works at an ordinary rate: virtual time
// stands still for callers that never pause.
func (e *env) pause() {
	if e.h.Virtual {
		e.pass(time.Duration(1+e.intn(3)) * time.Millisecond)
	}
}
