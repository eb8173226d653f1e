//go:build linux

package failover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
	"github.com/holdfast-dcs/holdfast/dcs/elector/guardian"
)

const (
	// memberGuarded makes the service of a member a process with a guardian.
	memberGuarded = "HOLDFAST_FAILOVER_GUARDED"
	// serviceToken runs this test binary as that process, with the token of the leadership.
	serviceToken = "HOLDFAST_FAILOVER_TOKEN"
)

// runService acts from the first byte of its input on until it is killed. It does not ask
// whether the leadership is valid, and it outlives the process that started it.
func runService() error {
	token, err := strconv.ParseUint(os.Getenv(serviceToken), 10, 64)
	if err != nil {
		return err
	}
	file, err := openRecord()
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(os.Stdin, make([]byte, 1)); err != nil {
		return err
	}
	r := recorder{file: file}
	for began := clock(); clock()-began < int64(2*limit); time.Sleep(actEvery) {
		r.add(event{Event: acted, Token: token, At: clock()})
	}
	return errors.New("the service was not ended")
}

// guardedService is a service in a process group of its own.
type guardedService struct {
	recorder

	guardian *guardian.Guardian
	process  *exec.Cmd // nil unless the service is primary
	token    uint64
}

// Promote implements [elector.Service].
func (s *guardedService) Promote(_ context.Context, l *elector.Leadership) error {
	called := clock()
	s.mu.Lock()
	defer s.mu.Unlock()
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	s.token = uint64(l.Token())
	cmd := exec.CommandContext(context.Background(), exe, "-test.run=^$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", serviceToken, s.token))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.process = cmd
	if err := s.guardian.SetGroup(cmd.Process.Pid); err != nil {
		return err
	}
	s.add(event{Event: promoted, Token: s.token, At: clock(), Called: called, Service: cmd.Process.Pid})
	_, err = in.Write([]byte{1})
	return err
}

// Demote implements [elector.Service].
func (s *guardedService) Demote(_ context.Context, r elector.Reason) error { return s.stop(r) }

// Fence implements [elector.Fencer].
func (s *guardedService) Fence(r elector.Reason) error { return s.stop(r) }

func (s *guardedService) stop(r elector.Reason) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return nil
	}
	_ = syscall.Kill(-s.process.Process.Pid, syscall.SIGKILL) // the guardian may have killed it
	_ = s.process.Wait()                                      // it was killed
	s.process = nil
	s.add(event{Event: demoted, Token: s.token, At: clock(), Cause: r.String()})
	return nil
}

// Report implements [elector.Reporter].
func (s *guardedService) Report(context.Context) (cluster.Member, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return record(s.process != nil), nil
}

func (s *guardedService) led() bool { return s.token != 0 }
