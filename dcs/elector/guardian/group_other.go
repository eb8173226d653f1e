//go:build unix && !linux

package guardian

import (
	"errors"

	"golang.org/x/sys/unix"
)

// identity returns 0: the system has no portable way to distinguish two processes that
// had one number.
func identity(int) (int64, error) { return 0, nil }

// group is a process group.
type group struct{ pid int }

func openGroup(pid int, _ int64) (*group, error) {
	if err := unix.Kill(-pid, 0); err != nil {
		return nil, err
	}
	return &group{pid}, nil
}

func (g *group) close() {}

// kill kills all processes of the group. It is nil if there is none any more.
func (g *group) kill() error {
	if g == nil {
		return nil
	}
	if err := unix.Kill(-g.pid, unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}
