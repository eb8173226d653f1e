package guardian

import (
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Options configure a [Guardian].
type Options struct {
	// Command is a program and its arguments that the child runs when it fires, after
	// the process group was killed. Its output is discarded. It must not need the
	// network, and should take less than half of FenceTimeout.
	//
	// The child gets the command over its pipe, and its own command line does not show it.
	// The arguments are visible as those of every process WHILE THE COMMAND RUNS: a secret
	// belongs into a file or the environment, which the command inherits.
	Command []string
	// Logger receives faults of the child. Nil means silent.
	Logger *slog.Logger
}

// ErrFired reports that the child has stopped the service.
var ErrFired = errors.New("the guardian has stopped the service")

// Guardian is a child process that stops a service. It implements elector.Guardian.
// All methods are safe for concurrent use.
type Guardian struct {
	command []string
	log     *slog.Logger

	mu      sync.Mutex
	process *process // nil before the first one, and after one has ended
	group   message  // of SetGroup
	armed   bool
	fired   bool // since Arm
	at      dcs.Instant
	closed  bool
}

// New starts the child process. ErrInvalid reports that the system has no process
// groups, that the command does not exist, or that the child did not start.
//
// The child is this program, started again. It runs before the program's main function
// and never reaches it.
func New(o Options) (*Guardian, error) {
	g := &Guardian{}
	g.log, _ = dcs.Detached(o.Logger, dcs.Observer{})
	if len(o.Command) > 0 {
		path, err := exec.LookPath(o.Command[0])
		if err == nil {
			path, err = filepath.Abs(path)
		}
		if err != nil {
			return nil, failure("New", dcs.ErrInvalid, err)
		}
		g.command = append([]string{path}, o.Command[1:]...)
		if err := checkCommand(g.command); err != nil {
			return nil, failure("New", dcs.ErrInvalid, err)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.start(); err != nil {
		return nil, failure("New", dcs.ErrInvalid, err)
	}
	return g, nil
}

func failure(op string, kind, err error) error {
	return &dcs.Error{Backend: "guardian", Op: op, Kind: kind, Err: err}
}

// start starts a child and gives it the state of g. A group with no process left is
// forgotten. Called under mu.
func (g *Guardian) start() error {
	if g.closed {
		return errors.New("the Guardian is closed")
	}
	p, err := startProcess(g.command, g.ended)
	if err != nil {
		return err
	}
	if groupIsEmpty(int(g.group.value)) {
		g.group = message{op: opGroup}
	}
	if g.group.value != 0 {
		if err := p.call(g.group); err != nil {
			p.kill()
			return fmt.Errorf("process group %d cannot be guarded: %w", g.group.value, err)
		}
	}
	if g.armed {
		if err := p.sendAt(opArm, g.at, p.call); err != nil {
			p.kill()
			return err
		}
	}
	g.process = p
	return nil
}

// ended is called when a child has ended. One that has not fired is replaced.
func (g *Guardian) ended(p *process) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.process != p {
		return
	}
	g.process = nil
	p.in.Close()
	switch {
	case p.hasFired():
		g.noteFired()
	case g.armed && !g.closed:
		if err := g.start(); err != nil {
			g.log.Error("guardian's process has ended and cannot be replaced: the service is not guarded", "error", err)
			return
		}
		g.log.Warn("guardian's process has ended and was replaced")
	}
}

// noteFired notes that a child has stopped the service. Called under mu.
func (g *Guardian) noteFired() {
	g.log.Error("guardian has stopped the service")
	g.armed, g.fired, g.group = false, true, message{}
}

// drop ends the present child, which has fired or is killed. Called under mu.
func (g *Guardian) drop() {
	p := g.process
	if p == nil {
		return
	}
	g.process = nil
	if p.hasFired() {
		p.awaitEnd(answerTimeout) // its command runs
	}
	p.kill()
	if p.hasFired() {
		g.noteFired()
	}
}

// dropFired ends a child that has fired. Called under mu.
func (g *Guardian) dropFired() {
	if p := g.process; p != nil && p.hasFired() {
		g.drop()
	}
}

// Fired reports whether the child has stopped the service since the last Arm, and Disarm
// was not called after that.
func (g *Guardian) Fired() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.hasFired()
}

// hasFired is [Guardian.Fired]. Called under mu.
func (g *Guardian) hasFired() bool { return g.fired || g.process != nil && g.process.hasFired() }

// SetGroup sets the process group that the child kills, by the process that leads the
// group: one that was started with SysProcAttr.Setpgid and was not waited for yet. 0 is
// none. A Service should call it for each new process, before that becomes primary.
//
// ErrInvalid reports that there is no such group, that it is the program's own, or that
// the program may not kill it.
func (g *Guardian) SetGroup(pid int) error {
	const op = "SetGroup"
	m := message{op: opGroup}
	if pid != 0 {
		id, err := checkGroup(pid)
		if err != nil {
			return failure(op, dcs.ErrInvalid, fmt.Errorf("process group %d cannot be guarded: %w", pid, err))
		}
		m.value, m.id = int64(pid), id
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dropFired()
	before := g.group
	g.group = m
	if g.process == nil {
		return nil // the next child gets it
	}
	if err := g.process.call(m); err != nil {
		g.group = before
		return failure(op, dcs.ErrUnavailable, fmt.Errorf("process group %d cannot be guarded: %w", pid, err))
	}
	return nil
}

// Arm implements elector.Guardian. It returns nil when the child has answered.
func (g *Guardian) Arm(at dcs.Instant) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dropFired()
	g.fired = false
	if g.process != nil {
		if err := g.process.sendAt(opArm, at, g.process.call); err == nil {
			g.armed, g.at = true, at
			return nil
		}
		g.drop() // it must not be armed later
	}
	g.armed, g.fired, g.at = true, false, at
	if err := g.start(); err != nil {
		g.armed = false
		return failure("Arm", dcs.ErrUnavailable, err)
	}
	return nil
}

// Extend implements elector.Guardian. It does not wait for the child. A child that has
// not answered for a second is replaced. [ErrFired] reports that the child has stopped the
// service. A call at that moment may return nil, and the next one then returns the error.
func (g *Guardian) Extend(at dcs.Instant) error {
	const op = "Extend"
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.hasFired():
		return fmt.Errorf("guardian: %s: %w", op, ErrFired)
	case !g.armed:
		return nil
	}
	g.at = at
	if p := g.process; p != nil {
		hangs := !p.answered() && p.sent.Elapsed() > answerTimeout
		if !hangs && p.sendAt(opExtend, at, p.send) == nil {
			return nil
		}
		if g.drop(); g.fired {
			return fmt.Errorf("guardian: %s: %w", op, ErrFired)
		}
	}
	if err := g.start(); err != nil {
		return failure(op, dcs.ErrUnavailable, err)
	}
	return nil
}

// Disarm implements elector.Guardian. A child that does not answer is killed. The end of
// the command of one that has fired is awaited for a second.
func (g *Guardian) Disarm() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	defer func() { g.armed, g.fired = false, false }()
	g.dropFired()
	if p := g.process; p != nil && p.call(message{op: opDisarm}) != nil {
		g.drop()
	}
	if g.fired && g.process == nil {
		go g.standBy() // it ends when the child has started
	}
	return nil
}

// standBy starts a child after another one has fired, so that the next leadership does not
// wait for its start.
func (g *Guardian) standBy() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.process != nil || g.closed {
		return
	}
	if err := g.start(); err != nil {
		g.log.Warn("guardian's process cannot be started: Arm tries again", "error", err)
	}
}

// Close ends the child. If the Guardian is armed, the child fires, as it does when the
// program ends. A child that hangs is killed. Close is for tests and for programs that go on without an elector.
func (g *Guardian) Close() error {
	g.mu.Lock()
	p := g.process
	g.closed = true
	g.mu.Unlock()
	if p == nil {
		return nil
	}
	p.in.Close()
	if !p.awaitEnd(startTimeout) {
		p.kill()
	}
	return nil
}
