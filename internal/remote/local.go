package remote

import (
	"errors"
	"slices"
	"strings"
	"syscall"

	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// ours are reasons for which a connection is not made that lie on our own side.
var ours = []error{endpoint.ErrDials, syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL}

// IsLocal reports whether a connection was not made for a reason on our own side,
// such as a lack of descriptors: no server is at fault.
func IsLocal(err error) bool {
	return slices.ContainsFunc(ours, func(o error) bool { return errors.Is(err, o) })
}

// IsLocalText is IsLocal for a library that passes on the text of an error only.
func IsLocalText(text string) bool {
	return slices.ContainsFunc(ours, func(o error) bool { return strings.Contains(text, o.Error()) })
}
