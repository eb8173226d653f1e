package dcs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// SessionOptions configure a Session.
type SessionOptions struct {
	// Timing is the timing of this session. Zero means the Store's.
	Timing Timing
	// Logger defaults to the Store's. See [Detached].
	Logger *slog.Logger
	// Gate, if set, is called before each renewal. While it returns an error the
	// session sends no renewal, and it ends at its deadline with that error as the
	// cause. A program sets a Gate so that it loses its locks when the part of it
	// that acts on them hangs. Gate is called by the goroutine that renews. It must
	// return at once and must not call methods of the Session or its Holds.
	Gate func() error
}

// The states of a Session, and the events that change them:
//
//	 NewSession
//	     |
//	     v       a renewal fails, or the Gate refuses it
//	+---------+ ------------------------------------------> +---------+
//	|  Held   |                                             | Unknown |
//	+---------+ <------------------------------------------ +---------+
//	     |        a renewal is confirmed, or the keys            |
//	     |        have moved to a fresh lease (migration)        |
//	     |                                                       |
//	     +---------------------------+---------------------------+
//	                                 | the deadline passes (P3, P4), the lease is gone,
//	                                 | an Acquire cannot be settled (P17), Close, Abandon,
//	                                 v or the Store is closed
//	                            +---------+
//	                            |  Lost   |  for good: until is nil, done is closed,
//	                            +---------+  every Hold has ended
//
// The parts of a Session, all under its mu:
//
//   - the leases and the deadline (session_life.go), renewed by one goroutine
//     (session_renew.go)
//   - Hold, one for each lock (session_acquire.go, hold.go)
//   - publisher, the published member keys (P19)
//   - migration, the move of all keys to a fresh lease (P20)
//   - claim, the right to write one key, and removal, the pending deletion of a lock
//     (P16, P17). A write is made in four steps: claim the key, commit, settle the
//     attempt if it is ambiguous, and end the claim. No write of the same key and no
//     migration begins before that.

// Session owns a lease and renews it. No other code renews that lease. One goroutine
// renews it every min(LoopWait, TTL/3) and reads in the same request, linearizably,
// the keys that the session holds and has published. The session is Held while
// renewals are confirmed, and Unknown while they fail and the deadline counts down.
// It is Lost, for good, at the deadline or when the store reports that the lease is
// gone.
//
// All methods are safe for concurrent use.
type Session struct {
	store  *Store
	timing Timing
	log    *slog.Logger
	gate   func() error // SessionOptions.Gate

	// until is the deadline, and nil once the session has ended. A goroutine that
	// finds the deadline passed swaps in nil, and nothing moves it after that (P4).
	// All other changes are made under mu.
	until atomic.Pointer[Instant]
	done  chan struct{}
	timer *deadlineTimer
	wake  chan struct{}      // requests a renewal now
	life  context.Context    //nolint:containedctx // the session's own life: it bounds work that outlives the call which started it
	kill  context.CancelFunc // cancels life
	work  sync.WaitGroup     // every goroutine of the session
	close chan struct{}      // closed by the first Close or by Abandon

	mu        sync.Mutex
	err       error // the reason for the end, nil before
	state     State
	last      Instant           // the deadline as it was last set
	failed    error             // the last renewal's error, nil after a success
	failures  int               // renewals that failed in a row
	lease     *leaseState       // the lease in use
	ownLeases map[LeaseID]bool  // every lease that this session has had
	leases    map[LeaseID]Lease // those that are not revoked yet
	holds     map[string]*Hold
	publisher publisher          // of the member keys
	migration migration          // to a fresh lease
	claims    map[string]*claim  // keys with an attempt that is not settled (P17)
	removals  map[string]removal // released locks that are not deleted yet (P17)
	confirms  []chan error
	closing   *shutdown // the latest shutdown

	abandoned bool
	changed   chan struct{} // closed at the next change of Status, nil until asked for
	earlyEnds map[*earlyEnd]struct{}
	timerAt   Instant // the time to which the timer is set
}

// removal is the pending deletion of a released lock.
type removal struct {
	done  chan struct{} // closed when the lock is deleted: Hold.removed
	since Instant       // when the lock was released
}

// leaseState is a lease with its last confirmed renewal and its deadline.
type leaseState struct {
	Lease
	granted Renewal // the last confirmed one
	until   Instant
}

// NewSession grants a lease and starts to renew it. The session lives until
// [Session.Close], until it is lost, or until the Store is closed. ctx bounds this
// call only. NewSession returns ErrInvalid if the Timing breaks its rule, or would
// break it with the TTL that the store grants. If NewSession fails after the grant,
// it revokes the lease in the background, within one budget.
func (s *Store) NewSession(ctx context.Context, o SessionOptions) (*Session, error) {
	timing := s.Timing()
	if o.Timing != (Timing{}) {
		timing = o.Timing.WithDefaults()
		if err := timing.Validate(s.Caps()); err != nil {
			return nil, withOp(opNewSession, "", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, timing.RetryTimeout)
	defer cancel()
	lease, granted, err := s.Grant(ctx, timing.TTL)
	if err != nil {
		return nil, withOp(opNewSession, "", err)
	}
	err = timing.CheckGrant(granted.TTL)
	if err == nil {
		var n *Session
		if n, err = s.startSession(lease, granted, timing, o); err == nil {
			return n, nil
		}
	}
	// The caller's context may have ended, and the call must not take a second
	// budget.
	s.spawn(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timing.RetryTimeout)
		defer cancel()
		_ = lease.Revoke(ctx) // otherwise the lease expires by itself
	})
	return nil, withOp(opNewSession, "", err)
}

// opNewSession is the name of NewSession in errors.
const opNewSession = "NewSession"

// startSession starts the Session of a lease that was just granted.
func (s *Store) startSession(lease Lease, granted Renewal, timing Timing, o SessionOptions) (*Session, error) {
	log := o.Logger
	if log == nil {
		log = s.log
	}
	log = detachedLogger(log)
	until := Deadline(granted.From, granted.TTL) // P3
	n := &Session{
		store: s, timing: timing, log: log, gate: o.Gate,
		done: make(chan struct{}), wake: make(chan struct{}, 1), close: make(chan struct{}),
		last:      until,
		lease:     &leaseState{Lease: lease, granted: granted, until: until},
		ownLeases: map[LeaseID]bool{lease.ID(): true}, leases: map[LeaseID]Lease{lease.ID(): lease},
		holds: map[string]*Hold{}, claims: map[string]*claim{}, removals: map[string]removal{},
		earlyEnds: map[*earlyEnd]struct{}{},
	}
	n.migration.s = n
	n.publisher = publisher{
		store: s, mu: &n.mu, pubs: map[string]*publication{}, onDisplaced: n.reportDisplaced,
		owns: func(id LeaseID) bool { return n.ownLeases[id] },
	}
	n.until.Store(&until)
	n.life, n.kill = context.WithCancel(context.Background())
	if !n.live() {
		n.kill()
		return nil, &Error{Kind: ErrExpired, Err: errors.New("the store answered the grant after the lease's deadline")}
	}
	n.timer = newDeadlineTimer(n.onDeadlineTimer, n.work.Go)
	n.queueEvent(StateEvent{From: Lost, To: Held})
	log.Info("session started", "lease", lease.ID(), "ttl", granted.TTL)
	if err := s.register(n); err != nil {
		n.timer.stop()
		n.kill()
		return nil, err
	}
	n.mu.Lock()
	n.resetTimer()
	n.mu.Unlock()
	n.work.Go(n.renew)
	return n, nil
}

// Lease returns the id of the lease that the session renews now. It changes when the
// session moves to a fresh lease (P20). Keys that the program bound to the lease by
// other means than Acquire and Publish are not moved.
func (s *Session) Lease() LeaseID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lease.ID()
}

// Granted returns the last confirmed Renewal, without its entries.
func (s *Session) Granted() Renewal {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.lease.granted
	r.Entries = nil
	return r
}

// Deadline returns the instant at which the session ends unless a renewal is
// confirmed before. If the session has ended, it returns the last deadline.
func (s *Session) Deadline() Instant {
	if at := s.until.Load(); at != nil {
		return *at
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// State returns the present state of the session.
func (s *Session) State() State {
	if s.Err() != nil {
		return Lost
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Done returns a channel that is closed when the session ends: at its deadline, when
// the store reports that the lease is gone, or by Close, whichever is first.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err returns the reason why the session ended, or nil while it has not. ErrLost
// reports that the store has confirmed that the lease is gone. ErrExpired reports
// that the deadline passed without a confirmed renewal, or that an ambiguous Acquire
// could not be settled because the store has no [Settler]. ErrReleased reports
// Close. ErrClosed reports that the Store was closed.
func (s *Session) Err() error {
	if !s.live() {
		s.expire()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// call bounds ctx by the budget of a call and by the session's life.
func (s *Session) call(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, s.timing.RetryTimeout)
	stop := context.AfterFunc(s.life, cancel)
	return ctx, func() { stop(); cancel() }
}

// failure returns the error of a call of op on key. The end of the session comes
// before an error that it caused.
func (s *Session) failure(op, key string, err error) error {
	if over := s.Err(); over != nil {
		return withOp(op, key, over)
	}
	return withOp(op, key, err)
}

// writeFailure is failure for a call that wrote to a key of the session. over is
// the end of the session or the Hold. An ambiguous write stays ErrAmbiguous
// although the session or the Hold has ended, because other clients may have read
// the value.
func writeFailure(op, key string, err, over error) error {
	switch {
	case over == nil:
	case errors.Is(err, ErrAmbiguous):
		err = &Error{Kind: ErrAmbiguous, Err: fmt.Errorf("%w; then %w", err, over)}
	default:
		err = over
	}
	return withOp(op, key, err)
}

// withOp returns err as an *Error of op on key.
func withOp(op, key string, err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return &Error{Op: op, Key: key, Kind: ErrUnavailable, Err: err}
	}
	c := *e
	c.Op, c.Key, c.Attempt = op, key, nil // only the session settles the attempt
	return &c
}

// pause waits for a back-off with full jitter before try n+1, or until ctx ends.
func pause(ctx context.Context, n int) error {
	t := time.NewTimer(sessionBackoff.delay(n))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
