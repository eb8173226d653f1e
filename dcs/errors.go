package dcs

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// kind is a sentinel that may be a special case of another one.
type kind struct {
	text   string
	label  string // for metrics
	parent error
}

func (k *kind) Error() string { return k.text }
func (k *kind) Unwrap() error { return k.parent }

// The kinds of error. Each names what the caller must do; match them with
// [errors.Is]. Only ErrNotFound, ErrConflict and ErrLost are a store's no, and
// only a quorum's word may produce them.
var (
	// ErrNotFound: the key does not exist.
	ErrNotFound error = &kind{text: "not found", label: "not_found"}
	// ErrConflict: a condition of the Txn failed and nothing was written.
	ErrConflict error = &kind{text: "conflict", label: "conflict"}
	// ErrLost: this lease or hold is definitely gone; also a Commit bound to
	// such a lease, and nothing was written. Stop acting as the holder.
	ErrLost error = &kind{text: "lost", label: "lost"}
	// ErrReleased: the session or hold was given up by its owner.
	ErrReleased error = &kind{text: "released", label: "released"}
	// ErrUnavailable: cannot tell. Try again within the budget; a holder goes
	// on until its deadline.
	ErrUnavailable error = &kind{text: "store unavailable", label: "unavailable"}
	// ErrExpired: the local deadline passed without proof; act as if lost.
	// It matches ErrUnavailable and wraps the last renewal's error.
	ErrExpired error = &kind{text: "expired: the deadline passed without a confirmed renewal", label: "expired", parent: ErrUnavailable}
	// ErrAmbiguous: the write may have happened, or may still. It matches
	// ErrUnavailable.
	ErrAmbiguous error = &kind{text: "ambiguous: the write may have happened or may still land", label: "ambiguous", parent: ErrUnavailable}
	// ErrUnauthorized: the store refuses our credentials; an operator is
	// needed, and nothing can be told about leases. It matches ErrUnavailable.
	ErrUnauthorized error = &kind{text: "unauthorized", label: "unauthorized", parent: ErrUnavailable}
	// ErrInvalid: an argument is wrong; nothing was sent.
	ErrInvalid error = &kind{text: "invalid argument", label: "invalid"}
	// ErrClosed: the Store (or Session) was closed.
	ErrClosed error = &kind{text: "closed", label: "closed"}
)

// Error is what every failed call returns: the kind, what was done to what,
// and the cause. It wraps exactly once.
type Error struct {
	// Backend names the backend ("raftstore"), empty where none was involved.
	Backend string
	// Op is the method's name ("Commit", "Renew", "Acquire").
	Op string
	// Key is the key or prefix concerned, if there is one.
	Key string
	// Endpoint is the server that gave the last answer, if known. It never
	// carries credentials.
	Endpoint string
	// Kind is one of the sentinels.
	Kind error
	// ConflictKey is, for ErrConflict, the key of a condition that failed; empty
	// where it is not known. [Session.TryAcquire] and [Session.Acquire] set it.
	ConflictKey string
	// Current is, for ErrConflict, the entry that was read at or after the
	// failure; nil when it was not read, or when the key is absent.
	Current *Entry
	// Fenced says, for ErrAmbiguous, that the write can not land any more:
	// it either had landed before the call returned, or never will.
	Fenced bool
	// Attempt is the backend's handle on an unclear Commit, for its Settler.
	// Nil where there is nothing to settle. Callers pass it on untouched.
	Attempt any
	// Err is the cause, or nil.
	Err error
}

// Error returns one line: "dcs: raftstore: Commit "leader": conflict: …".
func (e *Error) Error() string {
	if e == nil {
		return "dcs: nil error"
	}
	var b strings.Builder
	b.WriteString("dcs: ")
	if e.Backend != "" {
		b.WriteString(e.Backend + ": ")
	}
	if e.Op != "" {
		b.WriteString(e.Op)
		if e.Key != "" {
			fmt.Fprintf(&b, " %q", clip(e.Key))
		}
		b.WriteString(": ")
	}
	b.WriteString(e.outcome())
	switch {
	case e.Current != nil:
		fmt.Fprintf(&b, " (%q is at revision %d, created at %d)", clip(e.Current.Key), e.Current.Modified, e.Current.Created)
	case e.ConflictKey != "" && e.ConflictKey != e.Key:
		fmt.Fprintf(&b, " (%q does not exist)", clip(e.ConflictKey))
	}
	if e.Endpoint != "" {
		fmt.Fprintf(&b, " [%s]", e.Endpoint)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

// outcome returns the Kind in words. An unclear Grant leaves a lease, not a
// write.
func (e *Error) outcome() string {
	switch {
	case e.Kind == nil:
		return "unknown error"
	case same(e.Kind, ErrAmbiguous) && (e.Op == opGrant.name || e.Op == opNewSession):
		return "ambiguous: a lease that nobody holds may exist until its TTL has passed"
	default:
		return e.Kind.Error()
	}
}

// Unwrap exposes the kind and the cause to [errors.Is] and [errors.As]. A
// sentinel inside the cause that contradicts the kind is not matched: an
// ErrAmbiguous because one copy of a request was answered "conflict" is no
// ErrConflict, and an ErrLost that was found out after an ErrUnavailable is no
// ErrUnavailable. The cause itself is in the field Err.
func (e *Error) Unwrap() []error {
	if e == nil {
		return nil // a backend's slip must not take the process down
	}
	out := make([]error, 0, 2)
	if e.Kind != nil {
		out = append(out, e.Kind)
	}
	if e.Err != nil {
		out = append(out, cause(e.Kind, e.Err))
	}
	return out
}

// cause returns err for Unwrap, without the sentinels that contradict k.
func cause(k, err error) error {
	var found *kind
	if k == nil || !errors.As(err, &found) {
		return err
	}
	return &filteredError{kind: k, err: err}
}

// quiet hides the sentinels in err that contradict kind.
type filteredError struct{ kind, err error }

func (q *filteredError) Error() string { return q.err.Error() }

func (q *filteredError) Is(target error) bool {
	if k, ok := any(target).(*kind); ok && contradicts(q.kind, k) {
		return false
	}
	return errors.Is(q.err, target)
}

func (q *filteredError) As(target any) bool { return errors.As(q.err, target) }

// contradicts reports whether an error of kind k must not match the sentinel
// target. Being closed goes with every kind; otherwise a definite answer goes
// with itself only, and "cannot tell" with its own special cases.
func contradicts(k, target error) bool {
	if same(target, ErrClosed) || errors.Is(k, target) {
		return false
	}
	return !errors.Is(k, ErrUnavailable) || !errors.Is(target, ErrUnavailable)
}

// same reports whether a and b are one sentinel, wrapped in nothing.
func same(a, b error) bool { return any(a) == any(b) }

// isNo reports whether k is a definite answer that nothing was written.
func isNo(k error) bool { return same(k, ErrConflict) || same(k, ErrLost) }

// gravest lists the kinds that a backend may return, the gravest first: what
// counts when an error carries several.
var kindsBySeverity = []error{ErrAmbiguous, ErrUnauthorized, ErrUnavailable, ErrClosed, ErrInvalid, ErrLost, ErrConflict, ErrNotFound}

// recognise returns the sentinel that err is reported under, or nil.
func recognise(err error) error {
	if e, ok := any(err).(*Error); ok && e != nil {
		for _, k := range kindsBySeverity {
			if same(e.Kind, k) {
				return k
			}
		}
	}
	for _, k := range kindsBySeverity {
		if errors.Is(err, k) {
			return k
		}
	}
	return nil
}

// KindOf returns the sentinel that says what to do about err: the Kind of the
// *[Error] in it, or the sentinel itself; nil for a nil error or one that
// carries neither.
func KindOf(err error) error {
	var e *Error
	if errors.As(err, &e) && e != nil {
		return e.Kind
	}
	var k *kind
	if errors.As(err, &k) {
		return k
	}
	return nil
}

// KindLabel returns a short name for the outcome of a call, for use as the value
// of a metric's label. It is "ok" for a nil error, one of "not_found",
// "conflict", "lost", "released", "unavailable", "expired", "ambiguous",
// "unauthorized", "invalid" and "closed" for an error that [KindOf] recognises,
// "canceled" or "deadline_exceeded" for a context's error, and "unknown" for any
// other error. The labels do not change.
func KindLabel(err error) string {
	if err == nil {
		return "ok"
	}
	k, _ := any(KindOf(err)).(*kind)
	switch {
	case k != nil:
		return k.label
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline_exceeded"
	}
	return "unknown"
}

// faultList is several faults in one line.
type faultList []error

// join returns one error for all of faults, which must not be empty.
func join(faults []error) error {
	if len(faults) == 1 {
		return faults[0]
	}
	return faultList(faults)
}

func (f faultList) Error() string {
	texts := make([]string, len(f))
	for i, err := range f {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (f faultList) Unwrap() []error { return f }
