package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// exitStatus returns the error of exec for a program that ends with status.
func exitStatus(t *testing.T, status int) error {
	t.Helper()
	return exec.CommandContext(t.Context(), "sh", "-c", fmt.Sprintf("exit %d", status)).Run()
}

// recorded returns the job of a package whose stream was recorded: a test program's
// output as go tool test2json converts it.
func recorded(t *testing.T, name string, err error) *job {
	t.Helper()
	stream, openErr := os.Open(filepath.Join("testdata", name+".json"))
	require.NoError(t, openErr)
	defer stream.Close()
	j := &job{pkg: pkg{ImportPath: "example.test/sample/" + name}, record: newRecord(), state: over, err: err}
	j.pkg.Module.Path = "example.test/sample"
	require.NoError(t, j.record.follow(stream, io.Discard))
	return j
}

// exitError returns the error of a program that ended with a status.
func exitError(t *testing.T, status int) error {
	t.Helper()
	err := exitStatus(t, status)
	require.Error(t, err)
	return err
}

func TestRecordedStreams(t *testing.T) {
	for name, c := range map[string]struct {
		status                  int
		passed, failed, skipped int
		failures                []string
	}{
		"ok": {0, 4, 0, 2, nil},
		"fail": {1, 2, 3, 0, []string{
			"fail TestConformance/Rotate/HalfHealthy", "fail TestNames/it's_a_name_(with_$igns)", "fail TestParentOnly",
		}},
		"panic": {2, 1, 1, 0, []string{"panic TestPanics/inner", "panic"}},
		"hang":  {2, 1, 1, 0, []string{"hang TestHangs/forever (running when the test program ended)", "hang"}},
		"exit":  {3, 1, 1, 0, []string{"exit"}},
	} {
		t.Run(name, func(t *testing.T) {
			j := recorded(t, name, nil)
			if c.status != 0 {
				j.err = exitError(t, c.status)
			}
			passed, failed, skipped := j.counts()
			require.Equal(t, []int{c.passed, c.failed, c.skipped}, []int{passed, failed, skipped})
			var names []string
			for _, f := range (&runner{}).failures(j) {
				names = append(names, f.name)
			}
			require.Equal(t, c.failures, names)
		})
	}
}

// The output of a panic is shown from its begin, not with the end of a dump.
func TestOutputOfFailures(t *testing.T) {
	r := &runner{}
	failures := r.failures(recorded(t, "panic", exitError(t, 2)))
	require.Equal(t, []string{"exit status 2", "panic: assignment to entry in nil map [recovered, repanicked]"}, failures[1].output[:2])
	failures = r.failures(recorded(t, "hang", exitError(t, 2)))
	require.Equal(t, "panic: test timed out after 2s", failures[1].output[1])
	require.Len(t, failures[1].output, 1+tailLines)
	failures = r.failures(recorded(t, "fail", exitError(t, 1)))
	require.Equal(t, []string{"    fail_test.go:8: slowest call 512ms, limit 500ms", "        \tof 300 calls"}, failures[0].output)
	failures = r.failures(recorded(t, "exit", exitError(t, 3)))
	require.Equal(t, []string{"exit status 3", "a process was left behind"}, failures[0].output)
}

// A program that printed the beginning of a panic and went on did not panic.
func TestPrintedPanicIsNoCrash(t *testing.T) {
	r := newRecord()
	for _, e := range []event{
		{Action: "run", Test: "TestA"},
		{Action: "output", Test: "TestA", Output: "panic: only printed\n"},
		{Action: "pass", Test: "TestA"},
		{Action: "run", Test: "TestB"},
		{Action: "output", Test: "TestB", Output: "panic: the real one\n"},
	} {
		r.add(e)
	}
	require.Equal(t, []string{"panic: the real one"}, r.crash)
}

// A program can end without a panic: the race detector prints that it cannot go on and exits.
// The reason is then in the output of the test that ran.
func TestOutputOfAProgramThatEnds(t *testing.T) {
	j := &job{pkg: pkg{ImportPath: "example.test/sample/ends"}, record: newRecord(), state: over, err: exitError(t, 66)}
	j.pkg.Module.Path = "example.test/sample"
	for _, e := range []event{
		{Action: "run", Test: "TestA"},
		{Action: "output", Test: "TestA", Output: "race: limit on 8128 simultaneously alive goroutines is exceeded, dying\n"},
	} {
		j.record.add(e)
	}
	failures := (&runner{}).failures(j)
	require.Len(t, failures, 2)
	require.Equal(t, []string{"race: limit on 8128 simultaneously alive goroutines is exceeded, dying"}, failures[0].output)
	require.Equal(t, []string{"exit status 66"}, failures[1].output)

	// A crash is recognised and shown from its begin.
	for _, begin := range []string{"fatal error: all goroutines are asleep - deadlock!", "SIGSEGV: segmentation violation", `ThreadSanitizer: CHECK failed: tsan_rtl.cpp:992 "((TraceSkipGap(thr))) != (0)" (0x0, 0x0) (tid=1)`} {
		j.record = newRecord()
		j.record.add(event{Action: "run", Test: "TestA"})
		j.record.add(event{Action: "output", Test: "TestA", Output: begin + "\n"})
		for range 2 * tailLines {
			j.record.add(event{Action: "output", Test: "TestA", Output: "r15 0x0\n"})
		}
		failures = (&runner{}).failures(j)
		require.Len(t, failures, 2)
		require.Empty(t, failures[0].output)
		require.Equal(t, []string{"exit status 66", begin, "r15 0x0"}, failures[1].output[:3])
	}
}

func TestProgressCountsAnnouncedCases(t *testing.T) {
	r := newRecord()
	r.total = 3
	requireProgress := func(done, total int, current string) {
		t.Helper()
		d, n, running := r.progress()
		name := ""
		if running != nil {
			name = running.name
		}
		require.Equal(t, fmt.Sprint(done, total, current), fmt.Sprint(d, n, name))
	}
	requireProgress(0, 3, "")
	r.add(event{Action: "run", Test: "TestPlain"})
	requireProgress(0, 3, "TestPlain")
	r.add(event{Action: "pass", Test: "TestPlain"})
	requireProgress(1, 3, "")
	r.add(event{Action: "run", Test: "TestConformance"})
	r.add(event{Action: "output", Test: "TestConformance", Output: "    run.go:20: conformance: 99 cases\n"})
	requireProgress(1, 101, "TestConformance")
	r.add(event{Action: "run", Test: "TestConformance/KV/Put"})
	r.add(event{Action: "pause", Test: "TestConformance/KV/Put"})
	r.add(event{Action: "run", Test: "TestConformance/KV/Get"})
	requireProgress(1, 101, "TestConformance/KV/Get")
	r.add(event{Action: "fail", Test: "TestConformance/KV/Get"})
	requireProgress(2, 101, "")
	r.add(event{Action: "cont", Test: "TestConformance/KV/Put"})
	requireProgress(2, 101, "TestConformance/KV/Put")
	r.add(event{Action: "pass", Test: "TestConformance/KV/Put"})
	r.add(event{Action: "fail", Test: "TestConformance"})
	requireProgress(3, 4, "") // a filter left only two cases
}

func TestStreamThatIsNoJSON(t *testing.T) {
	require.ErrorContains(t, newRecord().follow(strings.NewReader("{]"), io.Discard), "go tool test2json: ")
}

func TestSummary(t *testing.T) {
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "HOLDFAST_") {
			t.Setenv(name, "") // restores it afterwards
			os.Unsetenv(name)
		}
	}
	t.Setenv("HOLDFAST_REQUIRE_SERVERS", "1")
	broken := &job{pkg: pkg{ImportPath: "example.test/sample/broken"}, record: newRecord(), state: over, err: errors.New("cannot build the tests: exit status 1\nbroken_test.go:5:33: undefined: undefined")}
	broken.pkg.Module.Path = "example.test/sample"
	var out bytes.Buffer
	r := &runner{
		race: true, parallel: 6, timeout: 25 * time.Minute, logs: "/tmp/logs", begin: time.Now(), out: &printer{w: &out},
		jobs:    []*job{recorded(t, "ok", nil), recorded(t, "fail", exitError(t, 1)), broken},
		servers: map[string]error{"etcd": nil, "consul": errors.New("make server-consul: exit status 2\nno space left on device")},
	}
	require.False(t, r.summarise(false))
	_, last, found := strings.Cut(out.String(), "\nfailed: ")
	require.True(t, found)
	require.Equal(t, `fail TestConformance/Rotate/HalfHealthy
  HOLDFAST_REQUIRE_SERVERS=1 go test -race -count=1 -run '^TestConformance$/^Rotate$/^HalfHealthy$' ./fail
failed: fail TestNames/it's_a_name_(with_$igns)
  HOLDFAST_REQUIRE_SERVERS=1 go test -race -count=1 -run '^TestNames$/^it'\''s_a_name_\(with_\$igns\)$' ./fail
failed: fail TestParentOnly
  HOLDFAST_REQUIRE_SERVERS=1 go test -race -count=1 -run '^TestParentOnly$' ./fail
failed: broken
  HOLDFAST_REQUIRE_SERVERS=1 go test -race -count=1 -parallel=6 -timeout=25m0s ./broken
failed: server consul
  make server-consul
jobs: 3, time: 0:00, whole output: /tmp/logs
6 passed, 5 failed, 2 skipped
`, last)
	require.Contains(t, out.String(), "=== broken\ncannot build the tests: exit status 1\nbroken_test.go:5:33: undefined: undefined\n")
	require.Contains(t, out.String(), "no space left on device")

	out.Reset()
	r.jobs, r.servers = r.jobs[:1], nil
	require.True(t, r.summarise(false))
	require.True(t, strings.HasSuffix(out.String(), "\n4 passed, 0 failed, 2 skipped\n"), out.String())
	require.False(t, r.summarise(true), "an interrupted run did not pass")
}
