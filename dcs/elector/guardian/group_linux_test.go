package guardian

import (
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A process that has got the number of an earlier one is not killed for it, and the
// members of a group whose leader has ended are.
func TestGroupIsTheOneThatWasGiven(t *testing.T) {
	pid, ended := service(t)
	id, err := identity(pid)
	noError(t, err)
	_, err = openGroup(pid, id+1)
	errorIs(t, err, unix.ESRCH)
	another := &group{pid: pid, id: id + 1, pidfd: -1}
	noError(t, another.kill())
	select {
	case <-ended:
		t.Fatal("another group was killed")
	case <-time.After(200 * time.Millisecond):
	}

	for _, byNumber := range []bool{false, true} {
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "sleep 1000 & echo $!; read -r _")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		in, err := cmd.StdinPipe()
		noError(t, err)
		out, err := cmd.StdoutPipe()
		noError(t, err)
		noError(t, cmd.Start())
		b := make([]byte, 1)
		_, err = out.Read(b)
		noError(t, err)
		pid := cmd.Process.Pid
		id, err := identity(pid)
		noError(t, err)
		g, err := openGroup(pid, id)
		noError(t, err)
		noError(t, in.Close())
		_, err = cmd.Process.Wait() // the leader has ended, and its child goes on
		noError(t, err)
		must(t, !groupIsEmpty(pid), "the group counts as empty")
		if byNumber {
			g.close()
			g.pidfd = -1
		}
		noError(t, g.kill())
		_, err = out.Read(make([]byte, 100))
		for err == nil {
			_, err = out.Read(make([]byte, 100)) // ends with the last process of the group
		}
		noError(t, g.kill())
	}
}
