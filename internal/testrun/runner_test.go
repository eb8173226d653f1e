//go:build linux

package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/internal/machinelock"
)

// tryLock is the source of a test that reports whether the machine's lock can be
// taken at once.
const tryLock = `
func tryLock(t *testing.T, how int) error {
	f, err := os.Open(os.Getenv("SAMPLE_LOCK"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
}
`

// sample is a module whose packages have the paths of some of this module's, so
// that the settings apply to them.
var sample = map[string]string{
	"go.mod":                          "module example.test/sample\n\ngo 1.26.0\n",
	"none/none.go":                    "package none\n",
	"internal/testcluster/cluster.go": "package testcluster\n",
	"good/good_test.go": `package good
import ("os"; "strings"; "testing")
func TestGood(t *testing.T) {
	if !strings.Contains(os.TempDir(), "holdfast-scratch-") {
		t.Error("temporary files are in", os.TempDir())
	}
	if os.Getenv("GORACE") != "atexit_sleep_ms=0 halt_on_error=0" {
		t.Error("the race detector has", os.Getenv("GORACE"))
	}
	if os.Getenv("GOGC") != "400" || os.Getenv("GOMEMLIMIT") != "2GiB" {
		t.Error("the collector has", os.Getenv("GOGC"), os.Getenv("GOMEMLIMIT"))
	}
}
func TestSkipped(t *testing.T) { t.Skip() }`,
	"broken/broken_test.go": `package broken
import "testing"
func TestBroken(t *testing.T) { undefined() }`,
	"bad/bad_test.go": `package bad
import ("fmt"; "testing")
func TestBad(t *testing.T) { fmt.Println("seen in the log"); t.Error("wrong") }`,
	// The runner has built the server before.
	"etcd3/etcd_test.go": `package etcd3
import ("os"; "testing"; _ "example.test/sample/internal/testcluster")
func TestServerIsBuilt(t *testing.T) {
	if _, err := os.Stat("../server-etcd"); err != nil { t.Error(err) }
}`,
	"consul/consul_test.go": `package consul
import ("testing"; _ "example.test/sample/internal/testcluster")
func TestConsul(t *testing.T) {}`,
	"memstore/memstore_test.go": `package memstore
import ("os"; "syscall"; "testing")
func TestLockIsShared(t *testing.T) {
	if tryLock(t, syscall.LOCK_SH) != nil { t.Error("not shared") }
	if tryLock(t, syscall.LOCK_EX) == nil { t.Error("not locked") }
}` + tryLock,
	"keepalive/keepalive_test.go": `package keepalive
import ("os"; "syscall"; "testing")
func TestLockIsExclusive(t *testing.T) {
	if tryLock(t, syscall.LOCK_SH) == nil { t.Error("not exclusive") }
}` + tryLock,
	"hang/hang_test.go": `package hang
import ("os"; "testing")
func TestHang(t *testing.T) {
	f, err := os.OpenFile("../hangs", os.O_WRONLY, 0)
	if err != nil { t.Fatal(err) }
	f.Close()
	<-make(chan int)
}`,
	// A make that builds etcd and cannot build Consul.
	"make": `#!/bin/sh
case "$2" in
server-etcd) echo built > server-etcd ;;
*) echo "no space left on device"; exit 2 ;;
esac`,
}

// sampleRunner returns a runner of packages of the sample module, and its output.
func sampleRunner(t *testing.T, patterns ...string) (*runner, *bytes.Buffer) {
	t.Helper()
	tmp := t.TempDir()
	dir, lock := filepath.Join(tmp, "module"), filepath.Join(tmp, "lock")
	t.Setenv("TMPDIR", tmp)
	t.Setenv("SAMPLE_LOCK", lock)
	t.Setenv("GORACE", "halt_on_error=0")
	t.Setenv("GOMEMLIMIT", "2GiB")
	t.Setenv("GOGC", "") // restores it afterwards
	require.NoError(t, os.Unsetenv("GOGC"))
	for name, text := range sample {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o700))
	}
	var out bytes.Buffer
	return &runner{
		dir: dir, make: "./make", parallel: 2, timeout: time.Minute, lanes: 2, clusters: 2, patterns: patterns,
		lock: lock, out: &printer{w: &out, interval: time.Hour},
	}, &out
}

func TestRun(t *testing.T) {
	r, out := sampleRunner(t, "./good", "./bad", "./broken", "./etcd3", "./consul", "./memstore", "./keepalive", "./none")
	passed, err := r.run(t.Context())
	require.NoError(t, err)
	require.False(t, passed, out)
	text := out.String()
	for _, path := range []string{"good", "etcd3", "memstore", "keepalive"} {
		require.Regexp(t, regexp.MustCompile(`(?m)^ok +`+path+` .* 1 passed, 0 failed`), text)
	}
	require.Contains(t, text, "\nfailed: bad TestBad\n  ")
	require.Contains(t, text, "=== bad TestBad\nseen in the log\n    bad_test.go:3: wrong\n")
	require.Contains(t, text, "\nfailed: broken\n  ")
	require.Contains(t, text, "broken_test.go:3:33: undefined: undefined\n")
	require.Contains(t, text, "=== consul TestConformance\nnot run, because the server consul could not be built\n")
	require.Contains(t, text, "=== server consul\n./make server-consul: exit status 2\nno space left on device\n")
	require.Contains(t, text, "\nfailed: server consul\n  make server-consul\njobs: 8, ")
	require.True(t, strings.HasSuffix(text, "\n4 passed, 5 failed, 1 skipped\n"), text)
	log, err := os.ReadFile(filepath.Join(r.logs, "bad.log"))
	require.NoError(t, err)
	require.Contains(t, string(log), "seen in the log\n")
}

func TestRunOfPassingPackages(t *testing.T) {
	r, out := sampleRunner(t, "./good", "./none")
	var program os.FileInfo
	for range 2 {
		passed, err := r.run(t.Context())
		require.NoError(t, err)
		require.True(t, passed, out)
		before := program
		program, err = os.Stat(filepath.Join(r.dir, "bin", "tests", "good.test"))
		require.NoError(t, err)
		require.True(t, before == nil || os.SameFile(before, program), "a program that has not changed must not be linked again")
	}
}

func TestRunWithoutTests(t *testing.T) {
	r, _ := sampleRunner(t, "./none")
	_, err := r.run(t.Context())
	require.ErrorContains(t, err, "no package that matches ./none has tests")
}

func TestInterruptedRunEnds(t *testing.T) {
	r, out := sampleRunner(t, "./hang")
	pipe := filepath.Join(r.dir, "hangs")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // ends once the test has opened the pipe too
		defer cancel()
		if f, err := os.Open(pipe); err != nil {
			t.Error(err)
		} else {
			f.Close()
		}
	}()
	passed, err := r.run(ctx)
	require.NoError(t, err)
	require.False(t, passed)
	require.Regexp(t, `\ninterrupted\njobs: 1, .*\n0 passed, 1 failed, 0 skipped\n$`, out.String())
	require.ErrorIs(t, syscall.Kill(r.jobs[0].pid, 0), syscall.ESRCH, "the test program still runs")
}

func TestAcquireEndsWithItsContext(t *testing.T) {
	r := &runner{lock: filepath.Join(t.TempDir(), "lock")}
	unlock, err := r.acquire(t.Context(), machinelock.Lock)
	require.NoError(t, err)
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = r.acquire(ctx, machinelock.RLock)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}
