package remote

import (
	"context"
	"errors"
)

// isFinal reports whether err is the store's own word.
func isFinal(err error) bool {
	var f *Failure
	return errors.As(err, &f) && f.IsFinal()
}

// isRefusal reports whether err is the word of a server that another one may
// contradict.
func isRefusal(err error) bool {
	var f *Failure
	return errors.As(err, &f) && f.Unconfirmed
}

// confirm asks all servers, after the watch's has refused, and reports whether
// they refuse, too. If they do not, that server is at fault.
func (r *Replica) confirm(ctx context.Context, refusal error) (err error, final bool) {
	if r.Read == nil {
		return refusal, false
	}
	one, cancel := context.WithTimeout(ctx, r.Budget)
	defer cancel()
	_, err = r.Read(one)
	if isRefusal(err) || isFinal(err) {
		return err, true
	}
	var f *Failure
	if errors.As(refusal, &f) && err == nil && r.Blame != nil {
		r.Blame(f.Endpoint, f.Error())
	}
	return refusal, false
}
