package listener

import "syscall"

// end makes a socket refuse connections, through all of its copies. The port may then be
// listened on by sockets with SO_REUSEADDR, which Go's and Java's have.
func end(fd uintptr) {
	_ = syscall.Shutdown(int(fd), syscall.SHUT_RD) // fails if the socket does not listen
}
