package conformance

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance/fault"
	"github.com/holdfast-dcs/holdfast/dcs"
)

// The environment variables with which the suite starts its child process.
const (
	childURL  = "HOLDFAST_CONFORMANCE_CHILD_URL"
	childLock = "HOLDFAST_CONFORMANCE_CHILD_LOCK"
)

// Process must be called first by the TestMain of a harness that has [Store.URL]. In the
// test binary itself it returns at once. In the child process that the suite starts from
// the same binary it runs a client of the store, and does not return.
func Process() {
	if os.Getenv(childURL) == "" {
		return
	}
	if err := holdInChild(os.Stdin, os.Stdout, os.Getenv(childURL), os.Getenv(childLock)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// childReport is a report of the child process.
type childReport struct {
	Token uint64
	// Late reports whether Valid() was true although the deadline had passed before the
	// call.
	Late bool
	// Valid is the state of the Hold. Confirm and Write are the errors of Confirm and of
	// a write under its Guard, or empty.
	Valid          bool
	Confirm, Write string
	Fault          string
}

// holdInChild takes a lock and writes a report, and another one for each line that it
// reads.
func holdInChild(in io.Reader, out io.Writer, url, lock string) error {
	ctx := context.Background()
	store, err := dcs.Open(ctx, url, dcs.Options{})
	if err != nil {
		return err
	}
	s, err := store.NewSession(ctx, dcs.SessionOptions{})
	if err != nil {
		return err
	}
	h, err := s.Acquire(ctx, lock, []byte("outside"))
	if err != nil {
		return err
	}
	if err := h.Confirm(ctx); err != nil {
		return err
	}
	reports := json.NewEncoder(out)
	if err := reports.Encode(childReport{Token: uint64(h.Token())}); err != nil {
		return err
	}
	late := make(chan bool, 1)
	go func() { late <- validTooLate(s, h) }()
	for lines := bufio.NewScanner(in); lines.Scan(); {
		r := childReport{Token: uint64(h.Token()), Valid: h.Valid()}
		r.Confirm = kindName(h.Confirm(ctx))
		_, err := store.Commit(ctx, dcs.Txn{If: []dcs.Cond{h.Guard()}, Then: []dcs.Write{dcs.Put(lock+"-guarded", []byte("late"))}})
		r.Write = kindName(err)
		_ = h.Release(ctx) // it may have ended already
		r.Late = <-late
		if err := reports.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// validTooLate checks the Hold without a pause until it ends, and reports whether Valid()
// was ever true although the deadline had passed before.
func validTooLate(s *dcs.Session, h *dcs.Hold) bool {
	for {
		deadline, before := s.Deadline(), dcs.Now()
		valid := h.Valid()
		// A renewal that was confirmed in between moves the deadline.
		if valid && !before.Before(deadline) && s.Deadline() == deadline {
			return true
		}
		if h.Err() != nil {
			return false
		}
	}
}

func kindName(err error) string {
	for _, k := range []struct {
		kind error
		name string
	}{
		{nil, ""}, {dcs.ErrExpired, "expired"}, {dcs.ErrLost, "lost"}, {dcs.ErrReleased, "released"}, {dcs.ErrConflict, "conflict"},
	} {
		if errors.Is(err, k.kind) || err == nil && k.kind == nil {
			return k.name
		}
	}
	return err.Error()
}

// childProcess is the child process of a case.
type childProcess struct {
	*fault.Process
	in  io.Writer
	out *bufio.Scanner
}

func (e *env) childProcess(lock string) *childProcess {
	e.needs(e.s.URL != nil, "URL")
	binary, err := os.Executable()
	require.NoError(e, err)
	cmd := exec.CommandContext(context.WithoutCancel(e.ctx), binary, "-test.run=^$") //nolint:gosec // G204: this test binary
	cmd.Env = append(os.Environ(), childURL+"="+e.s.URL(e), childLock+"="+lock)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(e, err)
	out, err := cmd.StdoutPipe()
	require.NoError(e, err)
	p, err := fault.StartProcess(cmd)
	require.NoError(e, err)
	e.Cleanup(p.Kill)
	return &childProcess{p, in, bufio.NewScanner(out)}
}

// report returns the next report of the child process.
func (o *childProcess) report(e *env) childReport {
	var r childReport
	got := e.start(func() {
		if !o.out.Scan() {
			r.Fault = fmt.Sprintf("the child process ended: %v", o.out.Err())
			return
		}
		if err := json.Unmarshal(o.out.Bytes(), &r); err != nil {
			r.Fault = fmt.Sprintf("the child process reported %q", o.out.Text())
		}
	})
	e.within(30*time.Second, got, "the child process reports")
	require.Empty(e, r.Fault)
	return r
}

func pausedPastTTL(e *env) {
	if e.s.Cluster != nil {
		e.cluster() // no server gets a fault, but each must serve
	}
	lock := e.key("lock")
	o := e.childProcess(lock)
	first := o.report(e)
	b := e.openLike()
	require.EqualValues(e, first.Token, b.get(lock).Created)
	thaw, err := o.Freeze()
	require.NoError(e, err)
	defer thaw()
	ctx, cancel := context.WithTimeout(e.ctx, 4*e.timing.TTL)
	defer cancel()
	h, err := b.session().Acquire(ctx, lock, []byte("new"))
	require.NoError(e, err, "the lock of a holder that is stopped")
	thaw()
	_, err = fmt.Fprintln(o.in, "check")
	require.NoError(e, err)
	r := o.report(e)
	e.Logf("after the pause: %+v", r)
	if r.Late || r.Valid {
		e.Errorf("the old holder's Hold was Valid() after its deadline: %+v", r)
	}
	require.Contains(e, []string{"expired", "lost"}, r.Confirm, "Confirm after the pause")
	require.NotEmpty(e, r.Write, "a write guarded by the old token was executed")
	b.absent(lock+"-guarded", "a write guarded by the old token was executed")
	e.stillHeld(b, h, "after the old holder continued")
	require.Equal(e, "new", string(b.get(lock).Value))
}
