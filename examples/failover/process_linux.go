package main

import (
	"os/exec"
	"syscall"
)

const canFreeze = true

// endWithParent puts the member into a process group of its own, so that a
// Ctrl-C reaches the parent alone, which then cleans up; and has the kernel
// kill it when the parent dies, a frozen member too.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

func freeze(p *process) error { return p.cmd.Process.Signal(syscall.SIGSTOP) }
func thaw(p *process) error   { return p.cmd.Process.Signal(syscall.SIGCONT) }
