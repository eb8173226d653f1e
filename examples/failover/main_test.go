package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dcs/holdfast/examples/internal/event"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// TestMain lets the test binary play the program: the members are started by
// re-executing it.
func TestMain(m *testing.M) {
	if os.Getenv(memberEnv) != "" || os.Getenv("HOLDFAST_FAILOVER_PLAY") != "" {
		os.Exit(run(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// program returns a command that runs the demonstration with its data below a
// directory of the test's.
func program(t *testing.T, args ...string) (*exec.Cmd, string) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env = append(os.Environ(), "HOLDFAST_FAILOVER_PLAY=1", "TMPDIR="+dir)
	return cmd, dir
}

// requireNothingLeft fails when data or processes of a run are still there.
func requireNothingLeft(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left, "data was left behind")
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, p := range processes {
		line, err := os.ReadFile(p)
		if err == nil && bytes.Contains(line, []byte(dir)) {
			t.Errorf("a process was left behind: %s: %s", p, bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		}
	}
}

// TestFailover is the main job: every act, as a user runs it.
func TestFailover(t *testing.T) {
	cmd, dir := program(t, "-json")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	err := cmd.Run()
	require.NoError(t, err, "stderr: %s\nstdout: %s", stderr.String(), stdout.String())
	require.Less(t, time.Since(began), 70*time.Second)
	requireNothingLeft(t, dir)

	leading := map[uint64]int{}
	deadline := map[uint64]int64{}
	retaken := map[string]int{} // by act
	var acts []string
	ends := map[string][]string{} // by act
	var verdict event.Event
	lines := bufio.NewScanner(&stdout)
	for lines.Scan() {
		var e event.Event
		d := json.NewDecoder(strings.NewReader(lines.Text()))
		d.DisallowUnknownFields()
		require.NoError(t, d.Decode(&e), "%s", lines.Text())
		require.NotZero(t, e.Mono)
		_, err := time.Parse(time.RFC3339Nano, e.T)
		require.NoError(t, err)
		switch e.Event {
		case event.Leading:
			leading[e.Token]++
			deadline[e.Token] = e.DeadlineMono
			require.Greater(t, e.DeadlineMono, e.Mono)
			require.LessOrEqual(t, e.DeadlineMono-e.Mono, int64(3*time.Second))
		case event.Renewed:
			require.Contains(t, leading, e.Token)
			require.GreaterOrEqual(t, e.DeadlineMono, deadline[e.Token], "a deadline only moves forward")
			deadline[e.Token] = e.DeadlineMono
		case event.Retaken:
			retaken[e.Act]++
			require.Contains(t, leading, e.Token)
			require.Greater(t, e.NewToken, e.Token)
			require.NotContains(t, leading, e.NewToken)
		case event.Released, event.Lost, event.Fenced:
			ends[e.Act] = append(ends[e.Act], e.Event)
		case event.Act:
			if e.Member == "" {
				acts = append(acts, e.Act)
			}
		case event.Summary:
			require.Zero(t, e.Figures["lost_writes"])
			require.Zero(t, e.Figures["two_primaries"])
			if e.Act == "" {
				verdict = e
			} else {
				require.Positive(t, e.Figures["acknowledged"], e.Act)
			}
		}
	}
	require.Equal(t, actNames, acts)
	for act, end := range map[string]string{"switchover": event.Released, "hang": event.Fenced, "freeze": event.Lost, "outage": event.Lost} {
		require.Contains(t, ends[act], end, act)
	}
	require.Positive(t, retaken["failsafe"])
	require.GreaterOrEqual(t, len(leading), 4)
	for token, n := range leading {
		require.Equal(t, 1, n, "token %d has exactly one leading event", token)
	}
	require.Equal(t, "every guarantee held", verdict.Reason)
}

// TestFailoverOnEtcd plays on a store that is there already, and leaves nothing
// in it.
func TestFailoverOnEtcd(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{Kind: testcluster.Etcd})
	url := "etcd3://" + strings.Join(c.Endpoints(), ",") + "/demo"
	cmd, dir := program(t, "-json", "-ttl", "3s", "-store", url)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	requireNothingLeft(t, dir)
	require.Contains(t, string(out), "every guarantee held")
	for _, act := range ownActs {
		require.NotContains(t, string(out), `"act":"`+act+`"`)
	}
	admin, err := c.Admin(t.Context())
	require.NoError(t, err)
	defer admin.Close()
	left, err := admin.Get(t.Context(), "/demo/", clientv3.WithPrefix())
	require.NoError(t, err)
	for _, kv := range left.Kvs {
		require.NotZero(t, kv.Lease, "%s was left behind, and no lease ends it", kv.Key)
	}
}

// needSlow skips a test that plays on one more store. TestFailoverOnEtcd shows the same.
func needSlow(t *testing.T) {
	t.Helper()
	if os.Getenv("HOLDFAST_PROFILE") != "slow" {
		t.Skip("one more store: set HOLDFAST_PROFILE=slow")
	}
}

// TestFailoverOnConsul is the same on Consul.
func TestFailoverOnConsul(t *testing.T) {
	needSlow(t)
	c := testcluster.New(t, testcluster.Options{Kind: testcluster.Consul})
	url := "consul://" + strings.Join(c.Endpoints(), ",") + "/demo"
	cmd, dir := program(t, "-json", "-ttl", "3s", "-store", url)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	requireNothingLeft(t, dir)
	require.Contains(t, string(out), "every guarantee held")
	admin, err := c.ConsulAdmin(0)
	require.NoError(t, err)
	left, _, err := admin.KV().List("demo/", nil)
	require.NoError(t, err)
	for _, kv := range left {
		if strings.HasSuffix(kv.Key, "/.store") {
			continue // the identity of the store, which outlives its clients
		}
		require.NotEmpty(t, kv.Session, "%s was left behind, and no session ends it", kv.Key)
	}
}

// TestFailoverOnZooKeeper is the same on ZooKeeper.
func TestFailoverOnZooKeeper(t *testing.T) {
	needSlow(t)
	c := testcluster.New(t, testcluster.Options{Kind: testcluster.ZooKeeper})
	url := fmt.Sprintf("zookeeper://%s/demo?tick=%v", strings.Join(c.Endpoints(), ","), testcluster.ZooKeeperTick)
	cmd, dir := program(t, "-json", "-ttl", "3s", "-store", url)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	requireNothingLeft(t, dir)
	require.Contains(t, string(out), "every guarantee held")
	admin, err := c.ZooKeeperAdmin(0)
	require.NoError(t, err)
	defer admin.Close()
	names, _, err := admin.Children("/demo")
	require.NoError(t, err)
	for _, n := range names {
		_, stat, err := admin.Get("/demo/" + n)
		require.NoError(t, err)
		if stat.NumChildren == 0 && stat.Cversion == 0 {
			require.NotZero(t, stat.EphemeralOwner, "%s was left behind, and no session ends it", n)
		}
	}
}

// TestInterrupted: Ctrl-C, a closed terminal and a reader that goes away each
// end every process and remove their data.
func TestInterrupted(t *testing.T) {
	for name, end := range map[string]func(p *os.Process, stdout io.Closer) error{
		"Ctrl-C":          func(p *os.Process, _ io.Closer) error { return p.Signal(syscall.SIGINT) },
		"closed terminal": func(p *os.Process, _ io.Closer) error { return p.Signal(syscall.SIGHUP) },
		"reader gone":     func(_ *os.Process, stdout io.Closer) error { return stdout.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			// A child inherits an ignored signal, and the tests may run under
			// nohup; one that is caught here has its default in the child.
			signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
			defer signal.Reset(syscall.SIGHUP)
			r := start(t)
			r.await(t, `"event":"leading"`)
			require.NoError(t, end(r.cmd.Process, r.stdout))
			r.requireInterrupted(t)
		})
	}
}

// TestNohup: under nohup a closed terminal ends nothing.
func TestNohup(t *testing.T) {
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	r := start(t)
	r.await(t, `"event":"leading"`)
	require.NoError(t, r.cmd.Process.Signal(syscall.SIGHUP))
	r.await(t, `"act":"switchover"`)
	require.NoError(t, r.cmd.Process.Signal(syscall.SIGINT))
	r.requireInterrupted(t)
}

// running is the demonstration under way.
type running struct {
	cmd    *exec.Cmd
	dir    string
	stdout io.ReadCloser
	lines  *bufio.Scanner
}

func start(t *testing.T) *running {
	t.Helper()
	cmd, dir := program(t, "-json", "-ttl", "2s")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	return &running{cmd, dir, stdout, bufio.NewScanner(stdout)}
}

// await reads the output up to a line that contains text.
func (r *running) await(t *testing.T, text string) {
	t.Helper()
	for r.lines.Scan() {
		if strings.Contains(r.lines.Text(), text) {
			return
		}
	}
	t.Fatalf("the output ended without %s: %v", text, r.lines.Err())
}

// requireInterrupted fails unless the program ends as one that was interrupted
// and leaves nothing behind.
func (r *running) requireInterrupted(t *testing.T) {
	t.Helper()
	_, _ = io.Copy(io.Discard, r.stdout) // the reader may be gone
	var exit *exec.ExitError
	require.ErrorAs(t, r.cmd.Wait(), &exit)
	require.Equal(t, 130, exit.ExitCode())
	requireNothingLeft(t, r.dir)
}

// TestBrokenGuaranteesAreReported: each broken guarantee makes the run fail
// and is named.
func TestBrokenGuaranteesAreReported(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(*show)
		want string
	}{
		"nothing": {func(*show) {}, "never were two members primary at once"},
		"overlap": {func(s *show) { s.h.add(leading("b", 9, 150, 300)) }, "two members were primary at once"},
		"falling": {func(s *show) { s.h.add(leading("b", 3, 250, 300)) }, "tokens did not rise"},
		"late": {func(s *show) {
			s.h.add(event.Event{Event: event.Fenced, Token: 5, Mono: 201})
		}, "1 primaries had not stopped by the end of their lock"},
		"lost write":   {func(s *show) { s.missing = 1 }, "1 acknowledged writes were lost"},
		"stale write":  {func(s *show) { s.results[0].staleAccepted = 1 }, "old token were accepted"},
		"store leader": {func(s *show) { s.results[0].act, s.results[0].without = "store-leader", 1 }, "fell with the Raft leader"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			s := &show{h: newHistory(), w: newWriter(nil), out: &timeline{w: &out, stop: make(chan struct{})}, results: []*result{{act: "election"}}}
			s.h.add(leading("a", 5, 100, 200))
			c.harm(s)
			require.Equal(t, name != "nothing", s.report())
			require.Contains(t, out.String(), c.want)
		})
	}
}
