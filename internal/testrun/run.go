package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/machinelock"
)

// job is one package's tests.
type job struct {
	pkg     pkg
	load    load
	servers []string
	cluster bool
	part    part
	program *job // the job that builds the test program, nil if this one does

	state  state
	binary string
	record *record
	begin  time.Time
	took   time.Duration
	cpu    time.Duration // the test program's and its children's
	pid    int
	// err says why the tests did not run, or how their program ended.
	err error
}

// state is how far a job is.
type state int

const (
	toBuild state = iota
	toRun
	running
	over
)

// first is 1 for a job with a cluster and 0 for the others.
func (j *job) first() int {
	if j.cluster {
		return 1
	}
	return 0
}

// build builds the job's test program with the go command, which command ends with.
func (r *runner) build(ctx context.Context, j *job, command ...string) error {
	j.binary = filepath.Join(r.programs, strings.ReplaceAll(j.pkg.path(), "/", "-")+".test")
	// Stack traces and reports of races need no DWARF, and all programs together
	// take an eighth less processor time to build without it.
	args := append(command, "test", "-c", "-ldflags=-w", "-o", j.binary)
	if r.race {
		args = append(args, "-race")
	}
	args = append(args, j.pkg.arg())
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // G204: go and the caller's packages
	cmd.Dir = r.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build the tests: %w\n%s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// buildServer builds a server with the least priority, because tests run
// meanwhile.
func (r *runner) buildServer(ctx context.Context, name string) error {
	target := "server-" + name
	cmd := exec.CommandContext(ctx, "nice", "-n", "19", r.make, "--no-print-directory", target) //nolint:gosec // G204: the caller names make
	cmd.Dir = r.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("%s %s: %w\n%s", r.make, target, err, strings.Join(lines[max(0, len(lines)-tailLines):], "\n"))
	}
	return nil
}

// name returns the name of the job for the reader of the output.
func (j *job) name() string {
	switch {
	case j.part.run != "":
		return j.pkg.path() + " " + strings.Trim(j.part.run, "^$")
	case j.part.skip != "":
		return j.pkg.path() + " without " + strings.Trim(j.part.skip, "^$")
	}
	return j.pkg.path()
}

// count sets how many tests the job has. A program that cannot list its tests
// fails when it runs.
func (j *job) count(ctx context.Context) {
	cmd := exec.CommandContext(ctx, j.binary, "-test.list", ".") //nolint:gosec // G204: the program was just built
	cmd.Dir = j.pkg.Dir
	out, err := cmd.Output()
	if err != nil {
		return
	}
	for line := range strings.Lines(string(out)) {
		isTest := strings.HasPrefix(line, "Test") || strings.HasPrefix(line, "Example") || strings.HasPrefix(line, "Fuzz")
		if isTest && j.part.selects(strings.TrimSpace(line)) {
			j.record.total++
		}
	}
}

// acquire takes the machine's lock. A process that holds it may be no child of
// this one, so the wait ends with ctx too.
func (r *runner) acquire(ctx context.Context, lock func(path string) (func(), error)) (unlock func(), err error) {
	type result struct {
		unlock func()
		err    error
	}
	got := make(chan result, 1)
	go func() { // ends with the lock, or with this process
		unlock, err := lock(r.lock)
		got <- result{unlock, err}
	}()
	select {
	case res := <-got:
		return res.unlock, res.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// test runs the job's tests, with the machine's lock where their load asks for it.
func (r *runner) test(ctx context.Context, j *job) error {
	unlock, err := func() {}, error(nil)
	switch j.load {
	case waits:
	case computes:
		unlock, err = r.acquire(ctx, machinelock.RLock)
	case measures:
		unlock, err = r.acquire(ctx, machinelock.Lock)
	}
	if err != nil {
		return err
	}
	defer unlock()
	log, err := os.Create(r.logFile(j))
	if err != nil {
		return err
	}
	j.begin = time.Now()
	err = r.execute(ctx, j, environment(r.scratch), log)
	j.took = time.Since(j.begin)
	return errors.Join(err, log.Close())
}

// environment returns the environment of a test program, and of the nodes, servers and
// commands that it starts. The caller's settings win.
func environment(scratch string) []string {
	env := append(os.Environ(), "TMPDIR="+scratch)
	// Without the option each program with the race detector sleeps for a second before it
	// exits.
	env = append(env, strings.TrimSpace("GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE")))
	// Garbage is collected a quarter as often, up to the limit, which takes a sixth
	// of the processor time from all tests together.
	for name, value := range map[string]string{"GOGC": "400", "GOMEMLIMIT": "1GiB"} {
		if _, isSet := os.LookupEnv(name); !isSet {
			env = append(env, name+"="+value)
		}
	}
	return env
}

func (r *runner) logFile(j *job) string {
	name := strings.NewReplacer("/", "-", " ", "-").Replace(j.name())
	if name == "." {
		name = "root"
	}
	return filepath.Join(r.logs, name+".log")
}

// grace is how long a test program may take to end after its own timeout.
const grace = time.Minute

// execute runs the test program and follows its output as go tool test2json converts
// it.
func (r *runner) execute(ctx context.Context, j *job, env []string, log io.Writer) error {
	convert := exec.Command("go", "tool", "test2json", "-t", "-p", j.pkg.ImportPath) //nolint:gosec,noctx // G204: fixed arguments; it ends with its input
	convert.Stderr = log
	input, err := convert.StdinPipe()
	if err != nil {
		return err
	}
	stream, err := convert.StdoutPipe()
	if err != nil {
		return err
	}
	if err := convert.Start(); err != nil {
		return err
	}
	followed := make(chan error, 1)
	go func() { followed <- j.record.follow(stream, log) }() // ends with convert's output
	err = r.program(ctx, j, env, input)
	input.Close()
	return errors.Join(err, <-followed, convert.Wait())
}

// program runs the test program. A program that leaves a child with its output
// open fails.
func (r *runner) program(ctx context.Context, j *job, env []string, output io.Writer) error {
	if r.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.timeout+grace)
		defer cancel()
	}
	args := []string{
		j.binary, "-test.v=test2json", "-test.paniconexit0",
		"-test.timeout=" + r.timeout.String(), "-test.parallel=" + strconv.Itoa(r.parallel),
		"-test.run=" + j.part.run, "-test.skip=" + j.part.skip,
	}
	if r.overlap && j.load == computes {
		args = append([]string{"nice", "-n", "10"}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // G204: the program was just built
	cmd.Dir, cmd.Env, cmd.WaitDelay = j.pkg.Dir, env, 10*time.Second
	// Not the pipe itself, so that Wait gives up on a child that holds it.
	both := struct{ io.Writer }{output}
	cmd.Stdout, cmd.Stderr = both, both
	err := cmd.Run()
	if p := cmd.ProcessState; p != nil {
		j.pid, j.cpu = p.Pid(), p.UserTime()+p.SystemTime()
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		return errors.New("the tests left a process that holds their output open")
	}
	return err
}
