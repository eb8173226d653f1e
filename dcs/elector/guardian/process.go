package guardian

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

const (
	startTimeout  = 5 * time.Second // for a child to start
	answerTimeout = time.Second     // for its answer to a message
)

// process is a running child, as its parent sees it.
type process struct {
	cmd    *exec.Cmd
	in     *os.File // messages to the child; its death closes the pipe
	number uint64   // of the last message
	sent   dcs.Instant
	dead   chan struct{} // closed when the child has ended

	mu      sync.Mutex
	last    message // the last answer
	fired   bool
	changed chan struct{} // closed at the next answer
	clock   remoteClock
}

// startProcess starts a child and waits until it is ready. onEnd is called when the
// child has ended.
func startProcess(command []string, onEnd func(*process)) (*process, error) {
	toChild, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer toChild.Close()
	out, fromChild, err := os.Pipe()
	if err != nil {
		in.Close()
		return nil, err
	}
	defer fromChild.Close()
	cmd, err := childCommand()
	if err == nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = toChild, fromChild, os.Stderr
		err = cmd.Start()
	}
	if err != nil {
		in.Close()
		out.Close()
		return nil, fmt.Errorf("child process cannot be started: %w", err)
	}
	p := &process{cmd: cmd, in: in, dead: make(chan struct{}), changed: make(chan struct{})}
	go func() { // ends with the child
		p.read(out)
		out.Close()
		_ = cmd.Wait()
		close(p.dead)
		onEnd(p)
	}()
	if err := p.sendCommand(command); err != nil {
		p.kill()
		return nil, fmt.Errorf("child process does not read its command: %w", err)
	}
	if _, err := p.await(startTimeout, func(m message) bool { return m.op != 0 }); err != nil {
		p.kill()
		return nil, fmt.Errorf("child process is not ready: %w", err)
	}
	return p, nil
}

// read receives the messages of the child until its end.
func (p *process) read(from io.Reader) {
	b := make([]byte, messageSize)
	for {
		if _, err := io.ReadFull(from, b); err != nil {
			return
		}
		m := decode(b)
		p.mu.Lock()
		switch m.op {
		case opReady:
			p.clock = remoteClock{boottime: m.id == 1, reading: m.value, received: dcs.Now()}
		case opFired:
			p.fired = true
		}
		p.last = m
		close(p.changed)
		p.changed = make(chan struct{})
		p.mu.Unlock()
	}
}

// await returns the last message once it is one that is wanted.
func (p *process) await(limit time.Duration, wanted func(message) bool) (message, error) {
	t := time.NewTimer(limit)
	defer t.Stop()
	for {
		p.mu.Lock()
		m, changed := p.last, p.changed
		p.mu.Unlock()
		if wanted(m) {
			return m, nil
		}
		select {
		case <-changed:
		case <-p.dead:
			return message{}, errors.New("the child process has ended")
		case <-t.C:
			return message{}, fmt.Errorf("the child process has not answered within %v", limit)
		}
	}
}

// answered reports whether the child has answered every message.
func (p *process) answered() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.number == 0 || p.last.number >= p.number
}

func (p *process) hasFired() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fired
}

// send sends a message, and does not wait for its answer.
func (p *process) send(m message) error {
	p.number++
	m.number, p.sent = p.number, dcs.Now()
	if err := p.in.SetWriteDeadline(monotonic().Add(answerTimeout)); err != nil {
		return err
	}
	_, err := p.in.Write(m.encode())
	return err
}

// sendCommand sends the command, which is the first message and has no answer.
func (p *process) sendCommand(command []string) error {
	text := encodeCommand(command)
	if err := p.in.SetWriteDeadline(monotonic().Add(startTimeout)); err != nil {
		return err
	}
	_, err := p.in.Write(append(message{op: opCommand, value: int64(len(text))}.encode(), text...))
	return err
}

// call sends a message and waits for its answer.
func (p *process) call(m message) error {
	if err := p.send(m); err != nil {
		return err
	}
	number := p.number
	m, err := p.await(answerTimeout, func(m message) bool { return m.number >= number || m.op == opFired })
	switch {
	case err != nil:
		return err
	case m.number < number:
		return ErrFired // before the message
	case m.op != opFired && m.value != 0:
		return syscall.Errno(m.value)
	}
	return nil
}

// sendAt sends a message with an instant.
func (p *process) sendAt(o op, at dcs.Instant, send func(message) error) error {
	p.mu.Lock()
	c := p.clock
	p.mu.Unlock()
	return send(message{op: o, value: c.at(at)})
}

// kill ends the child without firing it. One that the system cannot end now is not
// waited for.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	p.awaitEnd(answerTimeout)
	p.in.Close()
}

// awaitEnd reports whether the child has ended within limit.
func (p *process) awaitEnd(limit time.Duration) bool {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-p.dead:
		return true
	case <-t.C:
		return false
	}
}

// monotonic returns a time for a deadline of a file.
func monotonic() time.Time {
	return time.Now() //nolint:forbidigo // only its monotonic part is used
}
