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

// IsLocalText is IsLocal for a library that returns only the text of an error.
func IsLocalText(text string) bool {
	return slices.ContainsFunc(localCauses, func(o error) bool { return strings.Contains(text, o.Error()) })
}
