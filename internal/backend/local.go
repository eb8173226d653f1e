package backend

import (
	"errors"
	"slices"
	"strings"
	"syscall"

	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// localCauses are the errors of a dial whose cause is in this process or machine.
var localCauses = []error{endpoint.ErrDials, syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL}

// IsLocal reports whether a dial failed for a local cause, such as a lack of descriptors, so
// that no server is at fault.
func IsLocal(err error) bool {
	return slices.ContainsFunc(localCauses, func(o error) bool { return errors.Is(err, o) })
}

// OwnCause returns the Failure of a request that was not sent for a cause in this process or
// machine, such as a limit. It is no sign of an outage, and the Store does not log it as one.
// A Failure that is only Local may be one.
func OwnCause(at string, err error) *Failure {
	return &Failure{Endpoint: at, Err: ownCause{err}, Refused: true, Local: true}
}

// ownCause marks an error for the Store.
type ownCause struct{ error }

func (c ownCause) Unwrap() error { return c.error }

// Local implements the mark of package dcs for an error that is no sign of an outage.
func (ownCause) Local() bool { return true }

// IsLocalText is IsLocal for a library that returns only the text of an error.
func IsLocalText(text string) bool {
	return slices.ContainsFunc(localCauses, func(o error) bool { return strings.Contains(text, o.Error()) })
}
