//go:build unix

package guardian

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// childCommand returns the command that starts this program as the child, in a process
// group of its own, so that signals to the parent's do not reach it. The session is the
// parent's: Linux schedules each session as a unit, and may let one with a single small
// process wait for seconds. The command that it runs when it fires is no argument: every user of the
// machine could read it.
func childCommand() (*exec.Cmd, error) {
	if os.Getenv(marker) != "" {
		return nil, fmt.Errorf("the environment variable %s is set", marker)
	}
	program := "/proc/self/exe" // the same program, also if its file was replaced
	if runtime.GOOS != "linux" {
		var err error
		if program, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(program) //nolint:noctx // it outlives every context
	cmd.Args[0] = "holdfast-guardian"
	cmd.Env = append(os.Environ(), marker+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd, nil
}

// groupIsEmpty reports whether the group has no process.
func groupIsEmpty(pid int) bool {
	return pid == 0 || errors.Is(unix.Kill(-pid, 0), unix.ESRCH)
}

// checkGroup returns the identity of the leader of a process group that may be killed.
func checkGroup(pid int) (int64, error) {
	own, _ := unix.Getpgid(0)
	leads, err := unix.Getpgid(pid)
	switch {
	case pid <= 1:
		return 0, errors.New("a process group has a number of more than 1")
	case err != nil:
		return 0, err
	case leads != pid:
		return 0, fmt.Errorf("process %d belongs to the process group %d and leads none: start it with SysProcAttr.Setpgid", pid, leads)
	case leads == own:
		return 0, errors.New("it is the process group of this program")
	}
	if err := unix.Kill(-pid, 0); err != nil {
		return 0, err
	}
	return identity(pid)
}
