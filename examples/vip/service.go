//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
)

// service runs the commands of the operator. Each has a process group of its own,
// which is killed when the command's time is over.
type service struct {
	options
	timing  elector.Timing
	log     *slog.Logger
	token   atomic.Uint64 // of the last leadership
	primary atomic.Bool   // the last command that succeeded was -promote

	mu      sync.Mutex
	running map[int]chan struct{} // by process group; closed when the command has ended
}

// reset makes this member a replica before it contacts the store: an earlier process
// may have left it primary, and the store may be down.
func (s *service) reset(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.timing.TTL)
	defer cancel()
	if err := s.Demote(ctx, elector.Reason{Cause: elector.CauseStart}); err != nil {
		return fmt.Errorf("member %q cannot begin as a replica: %w", s.name, err)
	}
	return nil
}

// Promote implements [elector.Service].
func (s *service) Promote(ctx context.Context, l *elector.Leadership) error {
	ctx, cancel := context.WithTimeout(ctx, s.timing.PromoteTimeout)
	defer cancel()
	s.token.Store(uint64(l.Token()))
	if err := s.command(ctx, "promote", s.promote, ""); err != nil {
		return err
	}
	s.primary.Store(true)
	return nil
}

// Demote implements [elector.Service].
func (s *service) Demote(ctx context.Context, r elector.Reason) error {
	if err := s.command(ctx, "demote", s.demote, r.String()); err != nil {
		return err
	}
	s.primary.Store(false)
	return nil
}

// Fence implements [elector.Fencer]. It kills the commands that run, and no other
// -promote can begin, because the context of Promote has ended.
func (s *service) Fence(r elector.Reason) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.timing.FenceTimeout/2)
	defer cancel()
	if err := s.kill(ctx); err != nil {
		return err
	}
	if err := s.command(ctx, "fence", s.fence, r.String()); err != nil {
		return err
	}
	s.primary.Store(false)
	return nil
}

// Report implements [elector.Reporter].
func (s *service) Report(ctx context.Context) (cluster.Member, error) {
	primary := s.primary.Load()
	if s.check != "" {
		err := s.command(ctx, "check", s.check, "")
		var exit *exec.ExitError
		if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
			return cluster.Member{}, err
		}
		primary = err == nil
	}
	if primary {
		return cluster.Member{Role: cluster.RolePrimary}, nil
	}
	return cluster.Member{Role: cluster.RoleReplica}, nil
}

// command runs a command of the operator and waits until it has ended. When ctx ends
// it kills the process group of the command.
func (s *service) command(ctx context.Context, name, command, reason string) error {
	deadline, ok := ctx.Deadline()
	if !ok {
		return fmt.Errorf("-%s: no deadline", name)
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command) //nolint:gosec // G204: the operator's own command
	cmd.Env = append(os.Environ(),
		"HOLDFAST_SCOPE="+s.scope, "HOLDFAST_NAME="+s.name, fmt.Sprint("HOLDFAST_TOKEN=", s.token.Load()), "HOLDFAST_REASON="+reason,
		fmt.Sprintf("HOLDFAST_DEADLINE_SECONDS=%.3f", max(time.Until(deadline).Seconds(), 0)))
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr // files, so that Wait does not wait for children of the command
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	began, ended := time.Now(), make(chan struct{})
	s.mu.Lock()
	err := cmd.Start() // under mu: after Fence has looked at running, it fails, because ctx has ended
	if err == nil {
		s.running[cmd.Process.Pid] = ended
	}
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("-%s: %w", name, err)
	}
	err = cmd.Wait()
	s.mu.Lock()
	delete(s.running, cmd.Process.Pid)
	s.mu.Unlock()
	close(ended)
	took := time.Since(began).Round(time.Millisecond)
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("-%s had not ended after %v and was killed", name, took)
	case err != nil:
		return fmt.Errorf("-%s: %w", name, err)
	case name != "check":
		s.log.Info("command has ended", "command", name, "took", took)
	}
	return nil
}

// kill kills the commands that run and waits until they have ended.
func (s *service) kill(ctx context.Context) error {
	var ends []chan struct{}
	s.mu.Lock()
	for group, ended := range s.running {
		_ = syscall.Kill(-group, syscall.SIGKILL)
		ends = append(ends, ended)
	}
	s.mu.Unlock()
	for _, ended := range ends {
		select {
		case <-ended:
		case <-ctx.Done():
			return errors.New("a command that was killed has not ended")
		}
	}
	return nil
}
