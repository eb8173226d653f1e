//go:build unix && !aix

package guardian

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dcs/holdfast/dcs"
)

const soon = 10 * time.Second // for anything that takes milliseconds on an idle machine

// roleVariable makes the test program a helper process.
const roleVariable = "HOLDFAST_GUARDIAN_TEST"

func TestMain(m *testing.M) {
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0") // of the children
	switch os.Getenv(roleVariable) {
	case "":
		os.Exit(m.Run())
	case "parent": // arms a Guardian of the group in its argument, and hangs
		g, err := New(Options{})
		if err == nil {
			var pid int
			_, err = fmt.Sscan(os.Args[1], &pid)
			err = errors.Join(err, g.SetGroup(pid), g.Arm(dcs.Now().Add(time.Hour)))
		}
		fmt.Println(err)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
}

// service starts a process group of two processes. ended is closed when both have ended.
func service(t *testing.T) (pid int, ended <-chan struct{}) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "sleep 1000 & echo ready; wait")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	noError(t, err)
	noError(t, cmd.Start())
	_, err = io.ReadFull(out, make([]byte, len("ready\n")))
	noError(t, err)
	done := make(chan struct{})
	go func() { // ends with the group: its processes have the pipe
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
		close(done)
	}()
	t.Cleanup(func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		<-done
	})
	return cmd.Process.Pid, done
}

func open(t *testing.T, o Options) *Guardian {
	t.Helper()
	g, err := New(o)
	noError(t, err)
	t.Cleanup(func() { noError(t, g.Close()) })
	return g
}

func await(t *testing.T, ended <-chan struct{}) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(soon):
		t.Fatal("the service runs on")
	}
}

func runs(t *testing.T, ended <-chan struct{}) {
	t.Helper()
	select {
	case <-ended:
		t.Fatal("the service was killed")
	default:
	}
}

// childOf returns the child of g, which the test may stop and kill.
func childOf(t *testing.T, g *Guardian) (pid int, dead <-chan struct{}) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.process
	must(t, p != nil, "there is no child")
	t.Cleanup(func() { _ = p.cmd.Process.Kill() }) // it may be stopped
	return p.cmd.Process.Pid, p.dead
}

// stop stops a child. It returns when the child has stopped: until then, the child may read
// a message.
func stop(t *testing.T, pid int) {
	t.Helper()
	noError(t, unix.Kill(pid, unix.SIGSTOP))
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, unix.WUNTRACED, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		noError(t, err)
		must(t, status.Stopped(), "the child has ended")
		return
	}
}

func TestFiresAtTheDeadline(t *testing.T) {
	g := open(t, Options{})
	pid, ended := service(t)
	noError(t, g.SetGroup(pid))
	noError(t, g.Arm(dcs.Now().Add(time.Hour)))
	at := dcs.Now().Add(200 * time.Millisecond)
	noError(t, g.Extend(at))
	runs(t, ended)
	await(t, ended)
	must(t, at.Elapsed() >= 0, "it fired early", at.Elapsed())
	t.Logf("the group ended %v after the instant", at.Elapsed())
}

// Extend moves the instant forward, and Disarm ends the guard: nothing is killed at an
// instant that was moved.
func TestExtendAndDisarm(t *testing.T) {
	g := open(t, Options{})
	pid, ended := service(t)
	noError(t, g.SetGroup(pid))
	noError(t, g.Extend(dcs.Now()))
	first := dcs.Now().Add(300 * time.Millisecond)
	noError(t, g.Arm(first))
	noError(t, g.Extend(first.Add(200*time.Millisecond)))
	time.Sleep(-first.Add(50 * time.Millisecond).Elapsed())
	noError(t, g.Disarm())
	noError(t, g.Extend(dcs.Now()))
	noError(t, g.Disarm())
	time.Sleep(200 * time.Millisecond)
	runs(t, ended)
}

// A child that was stopped itself reads every message before it looks at its clock.
func TestLateMessagesCount(t *testing.T) {
	g := open(t, Options{})
	pid, ended := service(t)
	noError(t, g.SetGroup(pid))
	at := dcs.Now().Add(200 * time.Millisecond)
	noError(t, g.Arm(at))
	guard, _ := childOf(t, g)
	stop(t, guard)
	noError(t, g.Extend(dcs.Now().Add(time.Hour)))
	time.Sleep(-at.Add(50 * time.Millisecond).Elapsed())
	noError(t, unix.Kill(guard, unix.SIGCONT))
	noError(t, g.SetGroup(pid))
	still, _ := childOf(t, g)
	must(t, still == guard, "the child has fired")
	runs(t, ended)
	noError(t, g.Disarm())
}

// A child that dies while it is armed is replaced, and so is one that hangs. The
// successor has the group and the instant.
func TestReplaced(t *testing.T) {
	for name, disturb := range map[string]func(t *testing.T, g *Guardian, pid int){
		"killed": func(t *testing.T, _ *Guardian, pid int) { noError(t, unix.Kill(pid, unix.SIGKILL)) },
		"hangs": func(t *testing.T, g *Guardian, pid int) {
			stop(t, pid)
			noError(t, g.Extend(dcs.Now().Add(time.Hour)))
			time.Sleep(answerTimeout + 100*time.Millisecond)
			noError(t, g.Extend(dcs.Now().Add(time.Hour)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := open(t, Options{})
			pid, ended := service(t)
			noError(t, g.SetGroup(pid))
			noError(t, g.Arm(dcs.Now().Add(time.Hour)))
			guard, dead := childOf(t, g)
			disturb(t, g, guard)
			await(t, dead)
			eventually(t, func() bool {
				g.mu.Lock()
				defer g.mu.Unlock()
				return g.process != nil && g.process.cmd.Process.Pid != guard
			})
			runs(t, ended)
			noError(t, g.Extend(dcs.Now()))
			await(t, ended)
		})
	}
}

// A child that hangs cannot keep Disarm from ending the guard.
func TestDisarmsAHungChild(t *testing.T) {
	g := open(t, Options{})
	pid, ended := service(t)
	noError(t, g.SetGroup(pid))
	noError(t, g.Arm(dcs.Now().Add(300*time.Millisecond)))
	guard, dead := childOf(t, g)
	stop(t, guard)
	noError(t, g.Disarm())
	await(t, dead)
	runs(t, ended)
	noError(t, g.Arm(dcs.Now().Add(time.Hour)))
	noError(t, g.Disarm())
}

// The end of the parent fires at once, and a signal to the parent's process group
// does not reach the child.
func TestParentDies(t *testing.T) {
	for name, signal := range map[string]func(pid int) error{
		"kill -9":                func(pid int) error { return unix.Kill(pid, unix.SIGKILL) },
		"kill -9 of the group":   func(pid int) error { return unix.Kill(-pid, unix.SIGKILL) },
		"SIGINT to the group":    func(pid int) error { return unix.Kill(-pid, unix.SIGINT) },
		"SIGTERM while it hangs": func(pid int) error { return errors.Join(unix.Kill(-pid, unix.SIGSTOP), unix.Kill(-pid, unix.SIGKILL)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pid, ended := service(t)
			parent := exec.CommandContext(t.Context(), os.Args[0], fmt.Sprint(pid)) //nolint:gosec // G702: this program
			parent.Env = append(os.Environ(), roleVariable+"=parent")
			parent.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			_, err := parent.StdinPipe()
			noError(t, err)
			out, err := parent.StdoutPipe()
			noError(t, err)
			noError(t, parent.Start())
			line := make([]byte, len("<nil>\n"))
			_, err = io.ReadFull(out, line)
			noError(t, err)
			must(t, string(line) == "<nil>\n", "the parent could not arm a Guardian", string(line))
			runs(t, ended)
			noError(t, signal(parent.Process.Pid))
			await(t, ended)
			_ = parent.Wait()
		})
	}
}

func TestCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "fired")
	g := open(t, Options{Command: []string{"sh", "-c", "env >$0.new; mv $0.new $0", file}})
	noError(t, g.Arm(dcs.Now()))
	eventually(t, func() bool { _, err := os.Stat(file); return err == nil })
	env, err := os.ReadFile(file)
	noError(t, err)
	must(t, !strings.Contains(string(env), marker+"="), "the command would become a child itself", string(env))
	_, err = New(Options{Command: []string{"holdfast-no-such-command"}})
	errorIs(t, err, dcs.ErrInvalid)
}

// A Guardian that has fired starts another child when it is armed again.
func TestArmedAgain(t *testing.T) {
	g := open(t, Options{})
	for range 2 {
		pid, ended := service(t)
		noError(t, g.Arm(dcs.Now().Add(time.Hour)))
		noError(t, g.SetGroup(pid))
		_, dead := childOf(t, g)
		noError(t, g.Extend(dcs.Now()))
		await(t, ended)
		await(t, dead)
	}
	noError(t, g.Arm(dcs.Now().Add(time.Hour)))
	noError(t, g.Disarm())
}

func TestGroupIsRefused(t *testing.T) {
	g := open(t, Options{})
	pid, _ := service(t)
	noError(t, g.SetGroup(pid))
	noError(t, g.SetGroup(0))
	member := exec.CommandContext(t.Context(), "sleep", "1000")
	noError(t, member.Start())
	defer func() { _ = member.Process.Kill(); _ = member.Wait() }()
	own, err := unix.Getpgid(0)
	noError(t, err)
	for _, pid := range []int{own, member.Process.Pid, 1, 1 << 30, -pid} {
		errorIs(t, g.SetGroup(pid), dcs.ErrInvalid)
	}
}

// The child has a process group of its own, and belongs to the session of its parent.
func TestChildHasAGroup(t *testing.T) {
	pid, _ := childOf(t, open(t, Options{}))
	group, err := unix.Getpgid(pid)
	noError(t, err)
	must(t, group == pid, "the child belongs to the process group", group)
	session, err := unix.Getsid(pid)
	noError(t, err)
	own, err := unix.Getsid(0)
	noError(t, err)
	must(t, session == own, "the child has another session", session)
}

// A child needs little memory, and no more after many messages.
func TestChildIsSmall(t *testing.T) {
	g := open(t, Options{})
	noError(t, g.Arm(dcs.Now().Add(time.Hour)))
	for range 20_000 {
		noError(t, g.Extend(dcs.Now().Add(time.Hour)))
	}
	noError(t, g.SetGroup(0))
	pid, _ := childOf(t, g)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skip("no /proc")
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	var kib int
	_, err = fmt.Sscan(rest, &kib)
	noError(t, err)
	t.Logf("resident memory %d KiB", kib)
	must(t, kib < 128<<10, "the child needs too much memory, in KiB", kib)
	noError(t, g.Disarm())
}

func TestMessages(t *testing.T) {
	for _, m := range []message{{}, {opArm, 1, -1, 1 << 62}, {opFired, 1<<64 - 1, 1<<63 - 1, -1 << 63}} {
		b := m.encode()
		must(t, len(b) == messageSize, "wrong length", b)
		must(t, m == decode(b), "wrong message", m, decode(b))
	}
}

// The reading of a remote clock is never later than the instant, also where the two
// processes share no clock.
func TestRemoteClock(t *testing.T) {
	own := clock{began: dcs.Now()}
	for _, boottime := range []bool{false, true} {
		reading := int64(dcs.Now().Sub(own.began))
		c := remoteClock{boottime: boottime, reading: reading, received: dcs.Now()}
		i := dcs.Now().Add(time.Minute)
		truth := int64(i.Sub(own.began))
		if ns, ok := i.Boottime(); boottime {
			if !ok {
				continue
			}
			truth = ns
		}
		must(t, c.at(i) <= truth, "the reading is later than the instant", c.at(i), truth)
		must(t, c.at(i) > truth-int64(time.Second), "the reading is far too early", c.at(i), truth)
		must(t, c.at(dcs.Instant{}) < reading, "an instant in the past has a later reading", c.at(dcs.Instant{}), reading)
	}
}
