// Package listener closes listeners so that their ports are free at once.
package listener

import (
	"net"
	"syscall"
)

// Close closes l. A process that this one is starting has a copy of each socket until it
// executes its program. After l.Close alone, connections to the copy of a listener are accepted,
// and to listen on its port again fails with EADDRINUSE. On Linux Close also ends the copies; on
// other systems it is l.Close. An Accept that is under way may fail with another error than
// net.ErrClosed.
func Close(l net.Listener) error {
	if c, ok := l.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			_ = raw.Control(end) // fails if l is closed already
		}
	}
	return l.Close()
}
