// Package remote has what backends of stores with servers share: what an error
// of one copy of a call means, a copy of the tree that serves every Wait, and
// the options of URLs.
package remote

import (
	"cmp"
	"errors"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// Failure is what one copy of a call brought.
type Failure struct {
	Endpoint string
	Err      error
	// Text is what Error says; empty means Err's own.
	Text string
	// Kind is set when it is the store's own word: the call ends with it,
	// unless Blame, Unreachable or Unconfirmed says that it may be true at this
	// server only.
	Kind error
	// Unconfirmed says that Kind is the word of this server only, until another
	// one gives it too.
	Unconfirmed bool
	// Refused says that the copy wrote nothing and never will. It says nothing
	// of the server.
	Refused bool
	// Local says that the cause is on our side: no server is at fault.
	Local bool
	// Blame says that the server is at fault, and another one may not be.
	Blame bool
	// Unreachable says that the server cannot be used at all: it is ejected at
	// once.
	Unreachable bool
	// Doubt says that the server is at fault only if another one serves.
	Doubt bool
	// Busy is for how long the server asks to be left alone.
	Busy time.Duration
	// Throttled says that the server refuses requests because there are too
	// many.
	Throttled bool
}

func (f *Failure) Error() string {
	if f.Text != "" {
		return f.Text
	}
	return f.Err.Error()
}

// Unwrap exposes the kind and, for what certainly wrote nothing, ErrNotSent.
func (f *Failure) Unwrap() []error {
	out := []error{f.Err}
	if f.Kind != nil {
		out = append(out, &dcs.Error{Kind: f.Kind, Endpoint: f.Endpoint, Err: f.Err})
	}
	if f.Refused {
		out = append(out, attempt.ErrNotSent)
	}
	return out
}

// IsFinal reports whether f is the store's own word, and not that of one server.
func (f *Failure) IsFinal() bool {
	return f.Kind != nil && !f.Blame && !f.Unreachable && !f.Unconfirmed
}

// Judge is the Pool's view of an error: of a Failure what it says, of anything
// else that the server is to blame.
func Judge(err error) endpoint.Verdict {
	var f *Failure
	if !errors.As(err, &f) {
		return endpoint.Verdict{Blame: !errors.Is(err, dcs.ErrClosed), Reason: err.Error()}
	}
	return endpoint.Verdict{
		Final: f.IsFinal(), Unconfirmed: f.Unconfirmed, Refused: f.Refused, Local: f.Local,
		Blame: f.Blame, Unreachable: f.Unreachable, Doubt: f.Doubt, Busy: f.Busy, Throttled: f.Throttled, Reason: f.Error(),
	}
}

// Kinded is the *dcs.Error of a call that failed: with the store's own word,
// or ErrClosed, or else ErrUnavailable.
func Kinded(backend, op, key, at string, err error) *dcs.Error {
	e := &dcs.Error{Backend: backend, Op: op, Key: key, Endpoint: at, Err: err}
	var f *Failure
	var fault *endpoint.Fault
	if errors.As(err, &fault) {
		e.Endpoint, e.Err = fault.Endpoint, fault.Err // which is named once
	}
	switch {
	case errors.As(err, &f) && f.Kind != nil && errors.Is(err, f.Kind):
		e.Kind, e.Err, e.Endpoint = f.Kind, f.Err, cmp.Or(f.Endpoint, e.Endpoint)
	case errors.Is(err, dcs.ErrClosed):
		e.Kind = dcs.ErrClosed
	default:
		e.Kind = dcs.ErrUnavailable
	}
	return e
}

// Found is what a Get returns of the entries that were read of its key.
func Found(backend, key, at string, entries []dcs.Entry, err error) (dcs.Entry, error) {
	switch {
	case err != nil:
		return dcs.Entry{}, Kinded(backend, "Get", key, at, err)
	case len(entries) == 0:
		return dcs.Entry{}, &dcs.Error{Backend: backend, Op: "Get", Key: key, Endpoint: at, Kind: dcs.ErrNotFound}
	}
	return entries[0], nil
}

// Granted is Kinded for a Grant: clear says that no copy granted anything or
// ever will. ErrUnauthorized stays, because it promises nothing about leases and an
// operator is needed first.
func Granted(backend, at string, clear bool, err error) *dcs.Error {
	e := Kinded(backend, "Grant", "", at, err)
	switch e.Kind {
	case dcs.ErrUnavailable, dcs.ErrClosed: //nolint:errorlint // Kinded sets a sentinel
		if !clear {
			e.Kind = dcs.ErrAmbiguous // the gravest counts: a copy may have been done
		}
	}
	return e
}
