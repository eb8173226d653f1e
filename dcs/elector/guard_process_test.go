//go:build linux

package elector

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/elector/guardian"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// roleVariable makes the test program one of the processes of TestGuardianProcess, in
// the directory that is its argument.
const roleVariable = "HOLDFAST_ELECTOR_TEST"

func TestMain(m *testing.M) {
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0") // of the children
	switch os.Getenv(roleVariable) {
	case "":
		os.Exit(m.Run())
	case "manager":
		fmt.Fprintln(os.Stderr, runManager(os.Args[1]))
	case "service":
		runService(os.Args[1], "service")
	case "worker":
		runService(os.Args[1], "worker")
	}
	os.Exit(1)
}

// processTiming leaves the Guardian 400 ms before the deadline, so that a busy machine
// does not fail the test.
var processTiming = Timing{
	Timing:      dcs.Timing{TTL: 3 * time.Second, LoopWait: 500 * time.Millisecond, RetryTimeout: 750 * time.Millisecond},
	StopTimeout: 1200 * time.Millisecond, FenceTimeout: 800 * time.Millisecond,
}

const (
	primaryFile  = "primary"  // it exists while the service is primary
	deadlineFile = "deadline" // the last deadline that the manager knew
)

func boottime() int64 {
	ns, _ := dcs.Now().Boottime()
	return ns
}

// writeNumber writes a number that a reader never sees half written.
func writeNumber(f *os.File, n int64) error {
	_, err := f.WriteAt(binary.BigEndian.AppendUint64(nil, uint64(n)), 0)
	return err
}

func readNumber(dir, name string) int64 {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil || len(b) < 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(b))
}

// runService stamps the time into the file called name while the service is primary, as
// a database that answers does. A service starts a worker in its process group.
func runService(dir, name string) {
	if name == "service" {
		worker := exec.CommandContext(context.Background(), os.Args[0], dir) //nolint:gosec // G702: this program
		worker.Env = append(os.Environ(), roleVariable+"=worker")
		if worker.Start() != nil {
			return
		}
	}
	f, err := os.Create(filepath.Join(dir, name)) //nolint:gosec // G703: the directory of this test
	for err == nil {
		if _, missing := os.Stat(filepath.Join(dir, primaryFile)); missing == nil { //nolint:gosec // G703: the directory of this test
			err = writeNumber(f, boottime())
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// processService is a Service that is a process group.
type processService struct {
	dir   string
	g     *guardian.Guardian
	hangs atomic.Bool
}

func (s *processService) Promote(context.Context, *Leadership) error {
	cmd := exec.CommandContext(context.Background(), os.Args[0], s.dir) //nolint:gosec // G702: this program
	cmd.Env = append(os.Environ(), roleVariable+"=service")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := s.g.SetGroup(cmd.Process.Pid); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir, primaryFile), nil, 0o600)
}

func (s *processService) Demote(context.Context, Reason) error {
	if s.hangs.Load() {
		select {}
	}
	return nil // at the start it is not primary
}

func (s *processService) Fence(Reason) error { select {} }

// recordingGuardian writes each deadline down before the child gets it.
type recordingGuardian struct {
	*guardian.Guardian
	f *os.File
}

func (g recordingGuardian) Arm(at dcs.Instant) error {
	return errors.Join(g.record(at), g.Guardian.Arm(at))
}

func (g recordingGuardian) Extend(at dcs.Instant) error {
	return errors.Join(g.record(at), g.Guardian.Extend(at))
}

func (g recordingGuardian) record(at dcs.Instant) error {
	ns, _ := at.Add(processTiming.FenceTimeout / 2).Boottime()
	return writeNumber(g.f, ns)
}

// runManager runs an elector. After SIGUSR1 its loop hangs, and so does everything that
// could stop the service.
func runManager(dir string) error {
	g, err := guardian.New(guardian.Options{})
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, deadlineFile)) //nolint:gosec // G703: the directory of this test
	if err != nil {
		return err
	}
	s := &processService{dir: dir, g: g}
	usr1 := make(chan os.Signal, 1)
	signal.Notify(usr1, unix.SIGUSR1)
	go func() {
		<-usr1
		s.hangs.Store(true)
	}()
	rows = append([]row{{"hangs", Leading, func(facts) bool {
		if s.hangs.Load() {
			select {}
		}
		return false
	}, doNothing, Leading}}, rows...)
	store, err := dcs.New(memstore.NewServer(memstore.Options{}).Open(memstore.ClientOptions{}), dcs.Options{Timing: processTiming.Timing})
	if err != nil {
		return err
	}
	return Run(context.Background(), Config{
		Store: store, Scope: scope, Name: "a", Service: s, Timing: processTiming,
		Guardian: recordingGuardian{g, f}, Exit: func(Reason) { select {} },
	})
}

// A service never acts as primary after the deadline, also if its manager cannot stop it.
func TestGuardianProcess(t *testing.T) {
	t.Parallel()
	rounds := 2
	if os.Getenv("HOLDFAST_PROFILE") == "slow" {
		rounds = 20
	}
	for name, sig := range map[string]unix.Signal{"SIGSTOP": unix.SIGSTOP, "kill -9": unix.SIGKILL, "loop hangs": unix.SIGUSR1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range rounds {
				guardRound(t, sig)
			}
		})
	}
}

func guardRound(t *testing.T, sig unix.Signal) {
	t.Helper()
	dir := t.TempDir()
	manager := exec.CommandContext(context.Background(), os.Args[0], dir) //nolint:gosec // G702: this program
	manager.Env = append(os.Environ(), roleVariable+"=manager")
	log, err := os.Create(filepath.Join(dir, "log"))
	noError(t, err)
	defer log.Close()
	manager.Stderr = log
	noError(t, manager.Start())
	defer func() {
		_ = manager.Process.Kill()
		_ = manager.Wait()
	}()
	last := func() int64 { return max(readNumber(dir, "service"), readNumber(dir, "worker")) }
	eventually(t, func() bool {
		return readNumber(dir, "service") > 0 && readNumber(dir, "worker") > 0
	})
	time.Sleep(time.Duration(boottime()%1000) * time.Millisecond) // any moment between two renewals
	before := boottime()
	noError(t, manager.Process.Signal(sig))
	deadline := func() int64 { return readNumber(dir, deadlineFile) }
	eventually(t, func() bool { return boottime() > deadline()+int64(300*time.Millisecond) })
	stamp := last()
	t.Logf("last act %v before the deadline, %v after the signal", time.Duration(deadline()-stamp), time.Duration(stamp-before))
	text, _ := os.ReadFile(log.Name())
	must(t, stamp < deadline(), "the service acted as primary after the deadline:", string(text))
	if sig == unix.SIGSTOP {
		must(t, stamp > before, "the service stopped at once: the round shows nothing")
	}
	must(t, len(processesIn(dir)) == 0, "processes of the service are left", processesIn(dir))
}

// processesIn returns the service's processes that run.
func processesIn(dir string) (found []string) {
	list, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range list {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		env, _ := io.ReadAll(f)
		_ = f.Close()
		args, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		vars := strings.Split(string(env), "\x00")
		if (slices.Contains(vars, roleVariable+"=service") || slices.Contains(vars, roleVariable+"=worker")) && strings.Contains(string(args), dir+"\x00") {
			found = append(found, path)
		}
	}
	return found
}

// must ends the test unless ok.
func must(t *testing.T, ok bool, text string, values ...any) {
	t.Helper()
	if !ok {
		t.Fatal(append([]any{text}, values...)...)
	}
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until cond holds.
func eventually(t *testing.T, cond func() bool) {
	t.Helper()
	for begin := time.Now(); !cond(); time.Sleep(time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatal("not within a minute")
		}
	}
}
