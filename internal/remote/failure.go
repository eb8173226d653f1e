// Package remote has what backends of stores with servers share: what an error
// of one copy of a call means, a copy of the tree that serves every Wait, and
// the options of URLs.
package remote

import (
	"errors"

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
	// unless Blame says that it may be true at this server only.
	Kind error
	// Refused says that the copy wrote nothing and never will.
	Refused bool
	// Blame says that the server is at fault, and another one may not be.
	Blame bool
	// Doubt says that the server is at fault only if another one serves.
	Doubt bool
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

// Judge is the Pool's view of an error: of a Failure what it says, of anything
// else that the server is to blame.
func Judge(err error) endpoint.Verdict {
	var f *Failure
	if !errors.As(err, &f) {
		return endpoint.Verdict{Blame: !errors.Is(err, dcs.ErrClosed), Reason: err.Error()}
	}
	return endpoint.Verdict{Final: f.Kind != nil && !f.Blame, Refused: f.Refused, Blame: f.Blame, Doubt: f.Doubt, Reason: f.Error()}
}

// Kinded is the *dcs.Error of a call that failed: with the store's own word,
// or ErrClosed, or else ErrUnavailable.
func Kinded(backend, op, key, at string, err error) *dcs.Error {
	e := &dcs.Error{Backend: backend, Op: op, Key: key, Endpoint: at, Err: err}
	var f *Failure
	switch {
	case errors.As(err, &f) && f.Kind != nil:
		e.Kind, e.Err, e.Endpoint = f.Kind, f.Err, f.Endpoint
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
// ever will.
func Granted(backend, at string, clear bool, err error) *dcs.Error {
	e := Kinded(backend, "Grant", "", at, err)
	if !clear && (e.Kind == dcs.ErrUnavailable || e.Kind == dcs.ErrClosed) { //nolint:errorlint // Kinded sets a sentinel
		e.Kind = dcs.ErrAmbiguous
	}
	return e
}
