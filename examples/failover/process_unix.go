//go:build unix && !linux

package main

import (
	"os/exec"
	"syscall"
)

const canFreeze = true

// endWithParent puts the member into a process group of its own, so that a
// Ctrl-C reaches the parent alone, which then cleans up. Its standard input
// ends with the parent, and with that the member.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}

func freeze(p *process) error { return p.cmd.Process.Signal(syscall.SIGSTOP) }
func thaw(p *process) error   { return p.cmd.Process.Signal(syscall.SIGCONT) }
