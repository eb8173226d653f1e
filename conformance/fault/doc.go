// Package fault is a kit of real faults: for the conformance suite, and for
// authors of HA managers, which must drill the loss of their store too.
//
//   - [Proxy] stands between clients and one server, and refuses, resets, delays,
//     throttles, swallows answers or everything. It needs no privileges.
//   - [Process] runs a server that can be frozen, thawed and killed, and that
//     ends with its maker however that process ends.
//   - [Network] is a network of its own for a few servers, in which packets are
//     really dropped: between two servers, or between one and its clients. It
//     takes Linux, root and ip(8).
//   - [Resolver] answers for names, and can be made to fail.
//
// Every fault returns a lift function, which ends it and may be called twice.
// Faults stack: each ends on its own. A fault that a system cannot make is
// [ErrUnsupported] with the reason.
package fault

import "errors"

// ErrUnsupported is wrapped by the error of a fault that this system, or this user,
// cannot make.
var ErrUnsupported = errors.New("fault: not possible here")
