// Package backend has the code that the backends of stores with servers share. It
// classifies the errors of one copy of a call, sends the copies of Commits, verifies that
// every server belongs to the same store, and parses the options of URLs. The copy of the
// tree that serves every Wait is in internal/watchcache.
package backend

import (
	"cmp"
	"errors"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// Failure is the classified error of one copy of a call.
type Failure struct {
	Endpoint string
	Err      error
	// Text is the text of the error. Empty means that of Err.
	Text string
	// Kind is set if the error is the store's definite answer. The call ends with it,
	// unless Blame, Unreachable or Unconfirmed reports that it may apply to this server
	// only.
	Kind error
	// Unconfirmed reports that Kind is the answer of this server only, until another
	// server gives it too.
	Unconfirmed bool
	// Refused reports that the copy wrote nothing and never will. It does not concern
	// the health of the server.
	Refused bool
	// Local reports that the cause is in this process and no server is at fault. See
	// [OwnCause] for a cause that is no sign of an outage either.
	Local bool
	// Blame reports that the server is at fault, and another one may not be.
	Blame bool
	// Unreachable reports that the server cannot be used at all. It is ejected at once.
	Unreachable bool
	// Doubt reports that the server is at fault only if another one serves.
	Doubt bool
	// Busy is how long the server asks not to be called.
	Busy time.Duration
	// Throttled reports that the server refuses requests because there are too many.
	Throttled bool
}

func (f *Failure) Error() string {
	if f.Text != "" {
		return f.Text
	}
	return f.Err.Error()
}

// Unwrap returns the kind and, if the copy certainly wrote nothing, ErrNotSent.
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

// IsFinal reports whether f is the answer of the store, and not of one server only.
func (f *Failure) IsFinal() bool {
	return f.Kind != nil && !f.Blame && !f.Unreachable && !f.Unconfirmed
}

// Judge returns the Pool's verdict on an error. For a Failure it is that of its fields. For
// any other error the server is at fault.
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

// WrapError returns the *dcs.Error of a failed call. Its kind is that of the store's
// definite answer, or ErrClosed, or else ErrUnavailable.
func WrapError(backend, op, key, at string, err error) *dcs.Error {
	e := &dcs.Error{Backend: backend, Op: op, Key: key, Endpoint: at, Err: err}
	var f *Failure
	var fault *endpoint.Fault
	if errors.As(err, &fault) {
		e.Endpoint, e.Err = fault.Endpoint, fault.Err // the endpoint is named once
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

// FirstEntry returns the result of a Get from the entries that were read of its key.
func FirstEntry(backend, key, at string, entries []dcs.Entry, err error) (dcs.Entry, error) {
	switch {
	case err != nil:
		return dcs.Entry{}, WrapError(backend, "Get", key, at, err)
	case len(entries) == 0:
		return dcs.Entry{}, &dcs.Error{Backend: backend, Op: "Get", Key: key, Endpoint: at, Kind: dcs.ErrNotFound}
	}
	return entries[0], nil
}

// WrapGrantError is WrapError for a Grant. nothingGranted reports that no copy granted
// anything or ever will. ErrUnauthorized stays, because it proves nothing about leases and
// an operator must correct the credentials first.
func WrapGrantError(backend, at string, nothingGranted bool, err error) *dcs.Error {
	e := WrapError(backend, "Grant", "", at, err)
	switch e.Kind {
	case dcs.ErrUnavailable, dcs.ErrClosed: //nolint:errorlint // WrapError sets a sentinel
		if !nothingGranted {
			e.Kind = dcs.ErrAmbiguous // the most severe kind: a copy may have been applied
		}
	}
	return e
}
