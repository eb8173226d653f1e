//go:build !unix

package guardian

import (
	"errors"
	"os/exec"
	"runtime"
)

var errUnsupported = errors.New("a child process cannot guard on " + runtime.GOOS + ", which has no process groups: use elector.ExitProcess, and a service that ends with this process")

func childCommand() (*exec.Cmd, error) { return nil, errUnsupported }

func groupIsEmpty(int) bool { return true }

func checkGroup(int) (int64, error) { return 0, errUnsupported }
