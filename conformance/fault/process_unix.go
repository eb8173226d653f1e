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

// send sends the signal to the whole process group.
func send(p *os.Process, s signal) { _ = syscall.Kill(-p.Pid, s) }
