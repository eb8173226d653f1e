//go:build unix

package guardian

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// marker is the environment variable that makes a program the child.
const marker = "HOLDFAST_GUARDIAN_CHILD"

// The child begins before the program's own code: the packages that this one imports
// are initialised, and main and the packages that import this one are not.
func init() {
	if os.Getenv(marker) != "" {
		os.Exit(childMain())
	}
}

const (
	childMemory = 16 << 20 // the child's limit for the garbage collector
	in, out     = 0, 1     // the pipes
	// wakeInterval is how often the child reads its clock where no timer counts the
	// time that the machine is suspended.
	wakeInterval = 100 * time.Millisecond
)

// childMain runs the child and returns its exit status.
func childMain() int {
	runtime.GOMAXPROCS(1)
	debug.SetMemoryLimit(childMemory)
	// Signals that are caught, and not ignored, are not ignored by the command either.
	// SIGPIPE comes from writing to a parent that is gone.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE, unix.SIGUSR1, unix.SIGUSR2)
	protectChild()
	for _, fd := range []int{in, out} {
		if err := unix.SetNonblock(fd, true); err != nil {
			return 1
		}
	}
	command, err := receiveCommand()
	if err != nil {
		return 1
	}
	c := &child{clock: clock{dcs.Now()}, timer: newTimer(), command: command}
	reading, boottime := c.clock.now()
	ready := message{op: opReady, value: reading}
	if boottime {
		ready.id = 1
	}
	c.send(ready)
	c.serve()
	return 0
}

// receiveCommand reads the command, which is the first message.
func receiveCommand() ([]string, error) {
	b, err := readFull(messageSize)
	if err != nil {
		return nil, err
	}
	m := decode(b)
	if m.op != opCommand || m.value < 0 || m.value > maxCommand {
		return nil, unix.EBADMSG
	}
	b, err = readFull(int(m.value))
	return decodeCommand(b), err
}

// readFull reads n bytes.
func readFull(n int) ([]byte, error) {
	b := make([]byte, 0, n)
	for len(b) < n {
		got, err := unix.Read(in, b[len(b):n])
		switch {
		case errors.Is(err, unix.EAGAIN):
			_, _ = unix.Poll([]unix.PollFd{{Fd: in, Events: unix.POLLIN}}, -1)
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, err
		case got == 0:
			return nil, io.EOF
		default:
			b = b[:len(b)+got]
		}
	}
	return b, nil
}

// child is the state of the child process.
type child struct {
	clock   clock
	timer   int // a file that is readable when the instant has come, or -1
	command []string

	armed bool
	at    int64 // on clock
	group *group
	last  uint64 // number of the last message
	rest  []byte // of a message that is not complete
}

// serve ends when the parent has, or when the child has fired.
func (c *child) serve() {
	for {
		c.wait()
		// Every message that has arrived counts before the clock does: a child that was
		// stopped itself finds later instants in the pipe.
		ended := c.receive()
		now, _ := c.clock.now()
		if c.armed && (ended || now >= c.at) {
			c.fire(ended)
			return
		}
		if ended {
			return
		}
	}
}

// wait returns when there may be a message, or when the instant has come.
func (c *child) wait() {
	limit := -1
	if c.armed && !setTimer(c.timer, c.at) {
		now, _ := c.clock.now()
		left := min(max(time.Duration(c.at-now), 0), wakeInterval)
		limit = int((left + time.Millisecond - 1) / time.Millisecond)
	}
	files := []unix.PollFd{{Fd: in, Events: unix.POLLIN}}
	if c.timer >= 0 && c.armed {
		files = append(files, unix.PollFd{Fd: int32(c.timer), Events: unix.POLLIN})
	}
	_, _ = unix.Poll(files, limit) // an error is a signal
}

// receive reads the messages that have arrived. It reports whether the parent has
// ended.
func (c *child) receive() (ended bool) {
	var b [64 * messageSize]byte
	for {
		n, err := unix.Read(in, b[:])
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return false
		case err != nil || n == 0:
			return true
		default:
			c.rest = append(c.rest, b[:n]...)
			for len(c.rest) >= messageSize {
				c.handle(decode(c.rest))
				c.rest = c.rest[messageSize:]
			}
			c.rest = slices.Clone(c.rest) // it does not grow
		}
	}
}

func (c *child) handle(m message) {
	c.last = m.number
	answer := message{op: opDone, number: m.number}
	switch m.op {
	case opGroup:
		c.group.close()
		c.group = nil
		if m.value != 0 {
			g, err := openGroup(int(m.value), m.id)
			c.group, answer.value = g, errorNumber(err)
		}
	case opArm:
		c.armed, c.at = true, m.value
	case opExtend:
		if c.armed {
			c.at = m.value
		}
	case opDisarm:
		c.armed = false
	}
	c.send(answer)
}

// send sends m, unless the parent does not read.
func (c *child) send(m message) { _, _ = unix.Write(out, m.encode()) }

// fire stops the service. Nothing that can block comes before that.
func (c *child) fire(ended bool) {
	err := c.group.kill()
	c.send(message{op: opFired, number: c.last, value: errorNumber(err)}) // the command may take long
	c.runCommand()
	why := "the deadline has passed"
	if ended {
		why = "the parent process has ended"
	}
	if err != nil {
		why += fmt.Sprintf("; process group could not be killed: %v", err)
	}
	fmt.Fprintf(os.Stderr, "guardian: service stopped: %s\n", why)
}

// runCommand runs the command, again if it could not be started.
func (c *child) runCommand() {
	if len(c.command) == 0 {
		return
	}
	usualPriority() // of this thread, to which the runtime binds init
	for range 10 {
		cmd := exec.Command(c.command[0], c.command[1:]...) //nolint:gosec,noctx // G204: the program's own command; nothing ends it
		cmd.Dir = "/"
		cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, marker+"=") })
		if err := cmd.Run(); err == nil || errors.As(err, new(*exec.ExitError)) {
			return
		}
		time.Sleep(wakeInterval)
	}
}

// errorNumber returns the system's number of err, 0 for nil.
func errorNumber(err error) int64 {
	var number syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &number):
		return int64(number)
	default:
		return int64(unix.EINVAL)
	}
}
