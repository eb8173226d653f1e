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

// op describes one method to the Store.
type op struct {
	name string
	// unclassified is the kind under which an unclassified error is reported. It is the
	// outcome that the caller must assume.
	unclassified error
	// definite are the definite kinds that the method can return, in addition to
	// commonKinds. Any other kind is reported as unclassified.
	definite []error
	// unbounded means that the call has no budget and takes as long as its context.
	unbounded bool
}

// The kinds of all methods.
var (
	opGet      = &op{name: "Get", unclassified: ErrUnavailable, definite: []error{ErrNotFound}}
	opSnapshot = &op{name: "Snapshot", unclassified: ErrUnavailable}
	opWait     = &op{name: "Wait", unclassified: ErrUnavailable, unbounded: true}
	opCommit   = &op{name: "Commit", unclassified: ErrAmbiguous, definite: []error{ErrConflict, ErrLost}}
	opSettle   = &op{name: "Settle", unclassified: ErrAmbiguous, definite: []error{ErrConflict, ErrLost}}
	opGrant    = &op{name: "Grant", unclassified: ErrAmbiguous}
	opRenew    = &op{name: "Renew", unclassified: ErrUnavailable, definite: []error{ErrLost}}
	opRevoke   = &op{name: "Revoke", unclassified: ErrUnavailable, definite: []error{ErrLost}}
	opClose    = &op{name: "Close", unclassified: ErrUnavailable}
	opOpen     = &op{name: "Open", unclassified: ErrUnavailable}
)

// kind returns the kind under which the Store reports the error err of the method.
func (o *op) kind(err error) error {
	k := recognise(err)
	switch {
	case same(k, ErrAmbiguous):
		return o.unclassified // a read that "may have happened" is unavailable
	case same(k, ErrClosed) && same(o.unclassified, ErrAmbiguous):
		return o.unclassified // the call may have been sent before the backend was closed
	}
	for _, said := range commonKinds {
		if same(k, said) {
			return k
		}
	}
	for _, said := range o.definite {
		if same(k, said) {
			return k
		}
	}
	return o.unclassified
}

// commonKinds are the kinds that every method may return.
var commonKinds = []error{ErrUnavailable, ErrUnauthorized, ErrInvalid, ErrClosed}

// call is one call under way.
type call struct {
	s      *Store
	op     *op
	key    string
	cancel context.CancelFunc
	start  time.Time // zero without an Observer.Call
	answer *answer   // nil without an Observer.Call
}

// answer holds the name of the server that answered a call.
type answer struct{ endpoint atomic.Pointer[string] }

type answerKey struct{}

// AnsweredBy records for [CallEvent] which server answered the call that ctx
// belongs to. The last recorded server counts. Backends call it with the context
// that they were given. It costs nothing when no Observer is set.
func AnsweredBy(ctx context.Context, endpoint string) {
	if a, ok := ctx.Value(answerKey{}).(*answer); ok {
		a.endpoint.Store(&endpoint)
	}
}

// begin gives a call its budget, or returns an error with nothing sent.
func (s *Store) begin(ctx context.Context, o *op, key string) (context.Context, call, error) {
	c := call{s: s, op: o, key: key}
	if s.closed.Load() {
		return ctx, c, s.fail(o, key, ErrClosed, nil)
	}
	if err := ctx.Err(); err != nil {
		if o.unbounded {
			return ctx, c, err
		}
		return ctx, c, s.fail(o, key, ErrUnavailable, fmt.Errorf("nothing was sent: %w", err))
	}
	if s.o.Observer.Call != nil {
		c.start, c.answer = monotonic(), &answer{}
		ctx = context.WithValue(ctx, answerKey{}, c.answer)
	}
	if o.unbounded {
		return ctx, c, nil
	}
	// A context that ends sooner needs no second timer.
	if d, ok := ctx.Deadline(); !ok || time.Until(d) > s.o.Timing.RetryTimeout {
		ctx, c.cancel = context.WithTimeout(ctx, s.o.Timing.RetryTimeout)
	}
	return ctx, c, nil
}

// finish ends a call. It gives err its kind, records whether the store answers, and
// notifies the observer.
func (c *call) finish(ctx context.Context, err error) error {
	cut := ctx.Err()
	if c.cancel != nil {
		c.cancel()
	}
	if err != nil {
		if c.op.unbounded && cut != nil && isBare(err, cut) {
			err = cut
		} else {
			e := c.s.wrap(c.op, c.key, err, cut)
			if e.Current != nil {
				c.s.noteRevision(e.Current.Modified)
			}
			err = e
		}
	}
	c.s.health.record(c.s.log, c.s.o.Timing.LoopWait, c.op, c.key, err)
	if c.answer != nil {
		c.observe(err)
	}
	return err
}

func (c *call) observe(err error) {
	ev := CallEvent{Backend: c.s.name, Op: c.op.name, Key: c.key, Duration: monotonic().Sub(c.start), Err: err}
	var e *Error
	if p := c.answer.endpoint.Load(); p != nil {
		ev.Endpoint = *p
	} else if errors.As(err, &e) {
		ev.Endpoint = e.Endpoint
	}
	c.s.o.Observer.Call(ev)
}

// isBare reports whether err says only that the context ended.
func isBare(err, cut error) bool { return errors.Is(err, cut) && recognise(err) == nil }

// invalid returns an ErrInvalid for a wrong argument.
func (s *Store) invalid(o *op, key string, err error) error {
	return s.fail(o, key, ErrInvalid, err)
}

func (s *Store) fail(o *op, key string, kind, err error) *Error {
	return &Error{Backend: s.name, Op: o.name, Key: key, Kind: kind, Err: err}
}

// wrap makes the *Error of a failed call from the backend's error and from cut, the
// error of the call's context if that has ended.
func (s *Store) wrap(o *op, key string, err, cut error) *Error {
	e := adopt(err)
	e.Kind = o.kind(err)
	if e.Backend == "" {
		e.Backend = s.name
	}
	if e.Op == "" {
		e.Op = o.name
	}
	if e.Key == "" {
		e.Key = key
	}
	if !errors.Is(e, ErrUnavailable) {
		return e
	}
	// An unknown outcome names its cause: Close or the end of the context.
	if closed := errors.Is(err, ErrClosed) || o != opClose && s.closed.Load(); closed && !errors.Is(e, ErrClosed) {
		if same(o.unclassified, ErrAmbiguous) {
			e.Err = withCause(e.Err, ErrClosed)
		} else {
			e.Kind = ErrClosed
		}
	}
	if cut != nil && !errors.Is(e, cut) {
		e.Err = withCause(e.Err, cut)
	}
	return e
}

// adopt returns a copy of err if it is an *Error, so that no error is wrapped twice
// and the backend's value stays unchanged. Otherwise it returns a new *Error around
// err.
func adopt(err error) *Error {
	switch top := any(err).(type) {
	case *Error:
		if top == nil {
			return &Error{Err: errors.New("the backend returned a nil *dcs.Error")}
		}
		e := *top
		return &e
	case *kind:
		return &Error{}
	}
	e := &Error{Err: err}
	var in *Error
	if errors.As(err, &in) && in != nil {
		e.Endpoint, e.Current, e.Fenced, e.Attempt = in.Endpoint, in.Current, in.Fenced, in.Attempt
	}
	return e
}

func withCause(a, b error) error {
	if a == nil {
		return b
	}
	return fmt.Errorf("%w (%w)", a, b)
}

// health records whether the last calls were answered, so that an outage is logged
// with two lines and not with one for each call.
type health struct {
	down atomic.Bool

	mu     sync.Mutex
	since  time.Time // of the present outage
	logged bool      // whether the present outage was logged
	last   time.Time // when an outage was last logged
	failed int       // calls that failed in the present outage
}

// isLocal reports whether err is about a limit of this Store. Nothing was sent
// then, and the error is no sign of an outage. A backend marks such an error with a
// method Local() bool.
func isLocal(err error) bool {
	var l interface{ Local() bool }
	return errors.As(err, &l) && l.Local()
}

// record takes the outcome of one call. An outage that begins within quiet after
// the last logged one is not logged.
func (h *health) record(log *slog.Logger, quiet time.Duration, o *op, key string, err error) {
	var unanswered bool
	switch {
	case err == nil:
	case errors.Is(err, context.Canceled), errors.Is(err, ErrClosed), isLocal(err):
		return // no sign of the store's health
	default:
		unanswered = errors.Is(err, ErrUnavailable)
	}
	if !unanswered && !h.down.Load() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := monotonic()
	if !unanswered {
		if h.logged {
			log.Info("the store answers again", "after", now.Sub(h.since), "failed_calls", h.failed)
		}
		h.down.Store(false)
		h.failed, h.logged = 0, false
		return
	}
	h.failed++
	log.Debug("call failed", "op", o.name, "key", key, "error", err)
	if !h.down.Load() {
		h.down.Store(true)
		h.since = now
	}
	if h.logged || (!h.last.IsZero() && now.Sub(h.last) < quiet) {
		return
	}
	h.logged, h.last = true, now
	level, text := slog.LevelWarn, "the store does not answer"
	if errors.Is(err, ErrUnauthorized) {
		level, text = slog.LevelError, "the store rejects the credentials"
	}
	log.Log(context.Background(), level, text, "op", o.name, "key", key, "error", err)
}
