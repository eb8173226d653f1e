package fault

import (
	"fmt"
	"os"
	"os/exec"
)

type signal int

const (
	thawed signal = iota
	killed
	terminated
)

func start(cmd *exec.Cmd) error { return cmd.Start() }

func send(p *os.Process, s signal) {
	if s != thawed {
		_ = p.Kill() // an error means that the process has ended already
	}
}

func freeze(int) error {
	return fmt.Errorf("%w: Windows cannot stop a process and continue it", ErrUnsupported)
}
