package dcs

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// kind is a sentinel error. Its parent, if any, is a more general sentinel.
type kind struct {
	text   string
	label  string // for metrics
	parent error
}

func (k *kind) Error() string { return k.text }
func (k *kind) Unwrap() error { return k.parent }

// The kinds of error. Each states how the caller must react. Match them with
// [errors.Is]. Only ErrNotFound, ErrConflict and ErrLost are definite answers of a
// store, and only the word of a quorum may produce them.
var (
	// ErrNotFound: the key does not exist.
	ErrNotFound error = &kind{text: "not found", label: "not_found"}
	// ErrConflict: a condition of the Txn failed and nothing was written.
	ErrConflict error = &kind{text: "conflict", label: "conflict"}
	// ErrLost: the lease or hold is definitely gone. A Commit bound to such a
	// lease returns it too, with nothing written. The caller must stop acting as
	// the holder.
	ErrLost error = &kind{text: "lost", label: "lost"}
	// ErrReleased: the owner has released the hold or closed the session.
	ErrReleased error = &kind{text: "released", label: "released"}
	// ErrUnavailable: the outcome is unknown. The caller may try again. A holder
	// goes on until its deadline.
	ErrUnavailable error = &kind{text: "store unavailable", label: "unavailable"}
	// ErrExpired: the local deadline passed without a confirmed renewal. The
	// caller must act as for ErrLost. It matches ErrUnavailable and wraps the last
	// renewal's error.
	ErrExpired error = &kind{text: "expired: the deadline passed without a confirmed renewal", label: "expired", parent: ErrUnavailable}
	// ErrAmbiguous: the write may have been applied, or may still be. It matches
	// ErrUnavailable.
	ErrAmbiguous error = &kind{text: "ambiguous: the write may have happened or may still land", label: "ambiguous", parent: ErrUnavailable}
	// ErrUnauthorized: the store rejects the credentials. An operator must correct
	// them. Nothing is known about leases. It matches ErrUnavailable.
	ErrUnauthorized error = &kind{text: "unauthorized", label: "unauthorized", parent: ErrUnavailable}
	// ErrInvalid: an argument is wrong and nothing was sent.
	ErrInvalid error = &kind{text: "invalid argument", label: "invalid"}
	// ErrClosed: the Store (or Session) was closed.
	ErrClosed error = &kind{text: "closed", label: "closed"}
)

// Error is returned by every failed call. It has the kind, the operation and the
// key, and the cause. An error is wrapped exactly once.
type Error struct {
	// Backend names the backend ("raftstore"). It is empty if none was involved.
	Backend string
	// Op is the method's name ("Commit", "Renew", "Acquire").
	Op string
	// Key is the key or prefix of the operation, if there is one.
	Key string
	// Endpoint is the server that gave the last answer, if known. It carries no
	// credentials.
	Endpoint string
	// Kind is one of the sentinels.
	Kind error
	// ConflictKey is, for ErrConflict, the key of a condition that failed. It is
	// empty if the key is not known. [Session.TryAcquire] and [Session.Acquire] set
	// it.
	ConflictKey string
	// Current is, for ErrConflict, the entry that was read at or after the
	// failure. It is nil if no entry was read or the key is absent.
	Current *Entry
	// Fenced reports, for ErrAmbiguous, that the write cannot be applied any
	// more. It was applied before the call returned, or never will be.
	Fenced bool
	// Attempt is the backend's record of an ambiguous Commit, for its Settler. It
	// is nil if there is nothing to settle. Callers must pass it on unchanged.
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

// outcome returns the Kind in words. An ambiguous Grant leaves a lease and not a
// write.
func (e *Error) outcome() string {
	switch {
	case e.Kind == nil:
		return "unknown error"
	case same(e.Kind, ErrAmbiguous) && (e.Op == opGrant.name || e.Op == opNewSession):
		return "ambiguous: a lease without an owner may exist until its TTL has passed"
	default:
		return e.Kind.Error()
	}
}

// Unwrap returns the kind and the cause for [errors.Is] and [errors.As]. A sentinel
// inside the cause that contradicts the kind does not match. For example, an
// ErrAmbiguous does not match ErrConflict although one copy of its request was
// answered with a conflict, and an ErrLost that was detected after an
// ErrUnavailable does not match ErrUnavailable. The field Err is the unfiltered
// cause.
func (e *Error) Unwrap() []error {
	if e == nil {
		return nil // a nil *Error from a backend must not crash the process
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

// cause returns err without the sentinels that contradict k, for Unwrap.
func cause(k, err error) error {
	var found *kind
	if k == nil || !errors.As(err, &found) {
		return err
	}
	return &filteredError{kind: k, err: err}
}

// filteredError hides the sentinels in err that contradict kind.
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
// target. ErrClosed contradicts no kind. A definite kind is compatible with itself
// only, and an unknown outcome with its own special cases.
func contradicts(k, target error) bool {
	if same(target, ErrClosed) || errors.Is(k, target) {
		return false
	}
	return !errors.Is(k, ErrUnavailable) || !errors.Is(target, ErrUnavailable)
}

// same reports whether a and b are the same sentinel, not wrapped.
func same(a, b error) bool { return any(a) == any(b) }

// isDefiniteFailure reports whether k is a definite failure: nothing was written.
func isDefiniteFailure(k error) bool { return same(k, ErrConflict) || same(k, ErrLost) }

// kindsBySeverity lists the kinds that a backend may return, the most severe first.
// The most severe one counts if an error carries several.
var kindsBySeverity = []error{ErrAmbiguous, ErrUnauthorized, ErrUnavailable, ErrClosed, ErrInvalid, ErrLost, ErrConflict, ErrNotFound}

// recognise returns the sentinel under which err is reported, or nil.
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

// KindOf returns the sentinel that states how to react to err. It is the Kind of
// the *[Error] in err, or the sentinel in err itself. It is nil for a nil error and
// for one that carries neither.
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

// faultList is an error that lists several faults in one line.
type faultList []error

// join returns one error for all faults, which must not be empty.
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
