//go:build unix && !aix

package guardian

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// A manager that extends too late gets an error, until it arms or disarms the Guardian.
func TestExtendAfterFiring(t *testing.T) {
	g := open(t, Options{})
	for _, next := range []func() error{g.Disarm, func() error { return g.Arm(dcs.Now().Add(time.Hour)) }} {
		pid, ended := service(t)
		noError(t, g.SetGroup(pid))
		noError(t, g.Arm(dcs.Now().Add(time.Hour)))
		must(t, !g.Fired(), "it has not fired")
		_, dead := childOf(t, g)
		noError(t, g.Extend(dcs.Now()))
		await(t, ended)
		eventually(t, g.Fired)
		errorIs(t, g.Extend(dcs.Now().Add(time.Hour)), ErrFired)
		await(t, dead)
		for range 2 {
			errorIs(t, g.Extend(dcs.Now().Add(time.Hour)), ErrFired)
			must(t, g.Fired(), "it has fired")
		}
		noError(t, next())
		must(t, !g.Fired(), "it has fired in an earlier leadership")
		noError(t, g.Extend(dcs.Now().Add(time.Hour)))
	}
	noError(t, g.Disarm())
}

// After a child has fired another one is started before the next leadership, which would
// wait for it.
func TestNextChildStandsBy(t *testing.T) {
	g := open(t, Options{Command: []string{"true"}})
	_, dead := childOf(t, g)
	noError(t, g.Arm(dcs.Now()))
	await(t, dead)
	must(t, g.Fired(), "it has fired")
	noError(t, g.Disarm())
	eventually(t, func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.process != nil
	})
	next, _ := childOf(t, g)
	noError(t, g.Arm(dcs.Now().Add(time.Hour)))
	armed, _ := childOf(t, g)
	must(t, armed == next, "another child was started")
	noError(t, g.Disarm())
}

// The manager gets the error while the command runs, and the next leadership begins after
// the end of the command, or after a second.
func TestExtendWhileTheCommandRuns(t *testing.T) {
	dir := t.TempDir()
	g := open(t, Options{Command: []string{"/bin/sh", "-c", "echo >$0/begun; read -r _ <$0/go; echo >$0/done", dir}})
	noError(t, unix.Mkfifo(filepath.Join(dir, "go"), 0o600))
	exists := func(name string) bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }
	noError(t, g.Arm(dcs.Now()))
	eventually(t, g.Fired)
	eventually(t, func() bool { return exists("begun") })
	errorIs(t, g.Extend(dcs.Now().Add(time.Hour)), ErrFired)
	must(t, g.Fired() && !exists("done"), "the command has ended early")
	go func() { _ = os.WriteFile(filepath.Join(dir, "go"), []byte("\n"), 0o600) }() // ends with the command
	began := time.Now()
	noError(t, g.Arm(dcs.Now().Add(time.Hour)))
	must(t, exists("done") || time.Since(began) > answerTimeout, "the Guardian was armed while the command ran")
	noError(t, g.Disarm())
}

// The command, which may contain a secret, is not in the command line of the child.
func TestCommandIsNotShown(t *testing.T) {
	const secret = "hunter2-do-not-log"
	g := open(t, Options{Command: []string{"true", "", secret}})
	pid, _ := childOf(t, g)
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		line, err = exec.CommandContext(t.Context(), "ps", "-ww", "-o", "args=", "-p", fmt.Sprint(pid)).Output()
	}
	noError(t, err)
	must(t, strings.HasPrefix(string(line), "holdfast-guardian"), "not the child", string(line))
	must(t, !strings.Contains(string(line), secret), "the command is shown", string(line))
}

// The child gets its command as it is, and one that the system would not run is refused.
func TestCommandArguments(t *testing.T) {
	file := filepath.Join(t.TempDir(), "fired")
	long := strings.Repeat("x", maxCommand/2)
	g := open(t, Options{Command: []string{"sh", "-c", `printf "%s|" "$@" >"$0.new"; mv "$0.new" "$0"`, file, "", " a\nb", long, ""}})
	noError(t, g.Arm(dcs.Now()))
	eventually(t, func() bool { _, err := os.Stat(file); return err == nil })
	got, err := os.ReadFile(file)
	noError(t, err)
	must(t, string(got) == "| a\nb|"+long+"||", "wrong arguments", len(got))
	_, err = New(Options{Command: []string{"sh", strings.Repeat("x", maxCommand)}})
	errorIs(t, err, dcs.ErrInvalid)
	errorContains(t, err, "at most 32768 are allowed")
	_, err = New(Options{Command: []string{"sh", "a\x00b"}})
	errorIs(t, err, dcs.ErrInvalid)
}

// A child that was killed and does not end, as one in an uninterruptible wait, is waited
// for within bounds only. Here nobody reaps it.
func TestChildCannotBeReaped(t *testing.T) {
	for name, test := range map[string]struct {
		call func(g *Guardian) error
		want time.Duration
	}{
		"Close":  {(*Guardian).Close, startTimeout + answerTimeout},
		"Disarm": {(*Guardian).Disarm, 2 * answerTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				cmd := exec.CommandContext(t.Context(), "sleep", "1000")
				noError(t, cmd.Start())
				defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
				from, in, err := os.Pipe()
				noError(t, err)
				defer from.Close()
				g := &Guardian{armed: true, process: &process{cmd: cmd, in: in, dead: make(chan struct{}), changed: make(chan struct{})}}
				begin := time.Now()
				noError(t, test.call(g))
				must(t, time.Since(begin) == test.want, "wrong bound", time.Since(begin))
				noError(t, unix.Kill(cmd.Process.Pid, 0)) // it is not reaped
			})
		})
	}
}

// An instant that has passed fires the child at once, and Arm returns its answer.
func TestArmAtAPastInstant(t *testing.T) {
	g := open(t, Options{})
	for range 20 {
		pid, ended := service(t)
		noError(t, g.SetGroup(pid))
		noError(t, g.Arm(dcs.Now()))
		await(t, ended)
		eventually(t, g.Fired)
	}
}
