// Package fault injects real faults. It is for the conformance suite, and for authors of HA
// managers, which must be tested with the loss of their store too.
//
//   - [Proxy] stands between clients and one server. It refuses, resets, delays or
//     throttles connections, or drops answers or all data. It needs no privileges.
//   - [Process] runs a server that can be frozen, thawed and killed, and that ends
//     with the process that started it.
//   - [Network] is a separate network for a few servers, in which packets are really
//     dropped, between two servers, or between one and its clients. It requires Linux,
//     root and ip(8).
//   - [Resolver] resolves names, and can be made to fail.
//
// Every fault returns a lift function, which ends it and may be called twice. Several faults
// may be in force at once, and each ends separately. If a system cannot make a fault, the
// error wraps [ErrUnsupported] and has the reason.
package fault

import "errors"

// ErrUnsupported is wrapped by the error of a fault that this system, or this user,
// cannot make.
var ErrUnsupported = errors.New("fault: not supported by this system or user")
