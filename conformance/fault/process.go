package fault

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"time"
)

// A Process is a running program that can be frozen and killed. On Linux it ends with the
// process that started it, even if that is killed. On other systems it ends only when Kill
// or Terminate is called.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error

	mu sync.Mutex
}

// StartProcess starts cmd in a process group of its own.
func StartProcess(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, done: make(chan struct{})}
	if err := start(cmd); err != nil {
		return nil, err
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Pid returns the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done returns a channel that is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err returns the error of [exec.Cmd.Wait] after the process has ended.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Freeze stops the process as SIGSTOP does. The process keeps its connections and does not
// answer. Freeze returns when all its threads are stopped.
func (p *Process) Freeze() (thaw func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.running(); err != nil {
		return nil, err
	}
	if err := freeze(p.Pid()); err != nil {
		return nil, err
	}
	return func() { p.signal(thawed) }, nil
}

func (p *Process) running() error {
	select {
	case <-p.done:
		return fmt.Errorf("fault: process %d has ended: %w", p.Pid(), errors.Join(p.err))
	default:
		return nil
	}
}

func (p *Process) signal(s signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running() == nil {
		send(p.cmd.Process, s)
	}
}

// Kill ends the process and its children as kill -9 does, and waits for it.
func (p *Process) Kill() {
	p.signal(killed)
	<-p.done
}

// Terminate asks the process to end, waits for it, and kills it when ctx ends.
func (p *Process) Terminate(ctx context.Context) {
	p.signal(thawed) // a frozen process cannot handle the signal
	p.signal(terminated)
	select {
	case <-p.done:
	case <-ctx.Done():
		p.Kill()
	}
}

const freezeLimit = 5 * time.Second
