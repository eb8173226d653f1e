//go:build unix && !linux

package fault

import (
	"os/exec"
	"syscall"
)

func start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	return cmd.Start()
}

// freeze cannot check on these systems whether the process has stopped.
func freeze(pid int) error { return syscall.Kill(-pid, syscall.SIGSTOP) }
