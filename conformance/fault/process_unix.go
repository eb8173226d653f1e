//go:build unix

package fault

import (
	"os"
	"syscall"
)

type signal = syscall.Signal

const (
	thawed     = syscall.SIGCONT
	killed     = syscall.SIGKILL
	terminated = syscall.SIGTERM
)

// send signals the whole group.
func send(p *os.Process, s signal) { _ = syscall.Kill(-p.Pid, s) }
