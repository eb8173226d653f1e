package guardian

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// identity returns the start time of a process, in clock ticks since the boot of the
// machine. Together with its number it is of no other process.
func identity(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, unix.ESRCH
	}
	// The second field is a name in parentheses, which may contain anything.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	const startTime = 22 - 3 // counted from the third field
	if len(fields) <= startTime {
		return 0, unix.EINVAL
	}
	return strconv.ParseInt(string(fields[startTime]), 10, 64)
}

// group is a process group.
type group struct {
	pid   int // of its leader, which is the group's number
	id    int64
	pidfd int // -1 if the kernel has none
}

// openGroup returns the group of the process pid, which has the given identity. It
// keeps the group distinguishable from a later one with the same number.
func openGroup(pid int, id int64) (*group, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // EPERM: a filter of system calls
		fd, err = -1, nil
	}
	if err != nil {
		return nil, err
	}
	g := &group{pid: pid, id: id, pidfd: fd}
	if now, err := identity(pid); err != nil || now != id {
		g.close()
		return nil, unix.ESRCH
	}
	return g, nil
}

func (g *group) close() {
	if g != nil && g.pidfd >= 0 {
		_ = unix.Close(g.pidfd)
	}
}

// kill kills all processes of the group. It is nil if there is none any more.
func (g *group) kill() error {
	if g == nil {
		return nil
	}
	err := error(unix.ENOSYS)
	if g.pidfd >= 0 {
		err = unix.PidfdSendSignal(g.pidfd, unix.SIGKILL, nil, unix.PIDFD_SIGNAL_PROCESS_GROUP)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EPERM) {
		err = g.killByNumber() // Linux before 6.9
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// killByNumber kills the group by its number. The kernel gives the number to no other
// process while the group has one, so that another process of that number proves that
// the group is gone.
func (g *group) killByNumber() error {
	if now, err := identity(g.pid); err == nil && now != g.id {
		return nil
	}
	return unix.Kill(-g.pid, unix.SIGKILL)
}
