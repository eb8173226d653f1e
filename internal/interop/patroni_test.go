package interop

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance/fault"
	_ "github.com/holdfast-dcs/holdfast/consul"
	"github.com/holdfast-dcs/holdfast/dcs"
	_ "github.com/holdfast-dcs/holdfast/etcd3"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	_ "github.com/holdfast-dcs/holdfast/zookeeper"
)

// namespace is the part of a store's tree that both use: the root of a Store, and
// Patroni's namespace.
const namespace = "holdfast/interop"

// The account that may change the cluster over the members' APIs.
const (
	apiUser     = "operator"
	apiPassword = "hunter2-do-not-log"
)

// limit bounds each wait of a test.
const limit = 30 * time.Second

// kinds are the stores that both support, with the URL and Patroni's section of
// configuration for an address.
var kinds = []struct {
	shared       *testcluster.Shared
	url, section string
}{
	{one(testcluster.Etcd), "etcd3://%s/" + namespace, "etcd3: {host: '%s'}"},
	{one(testcluster.Consul), "consul://%s/" + namespace, "consul: {host: '%s'}"},
	{one(testcluster.ZooKeeper), "zookeeper://%s/" + namespace, "zookeeper: {hosts: ['%s']}"},
}

// one returns a server of a kind that all tests share.
func one(kind testcluster.Kind) *testcluster.Shared {
	return &testcluster.Shared{Options: testcluster.Options{Kind: kind, Nodes: 1, Loopback: true}}
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, k := range kinds {
		k.shared.Close()
	}
	os.Exit(code)
}

// server is a running store.
type server struct {
	url, section string
}

// onEachStore runs f on a server of each kind, at the same time.
func onEachStore(t *testing.T, f func(t *testing.T, s *server)) {
	for _, k := range kinds {
		t.Run(string(k.shared.Options.Kind), func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath("patronictl"); err != nil {
				testcluster.Need(t, fmt.Errorf("%w: %w (install the distribution's package patroni)", testcluster.ErrMissing, err))
			}
			addr := k.shared.Get(t).Endpoints()[0]
			f(t, &server{fmt.Sprintf(k.url, addr), fmt.Sprintf(k.section, addr)})
		})
	}
}

// open opens a Store. It lasts until the end of the test.
func (s *server) open(t *testing.T) *dcs.Store {
	t.Helper()
	store, err := dcs.Open(t.Context(), s.url+"?wait=true&ttl=15s&loop_wait=1s&retry_timeout=6s", dcs.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// patroni is Patroni's configuration of a member, or of patronictl.
type patroni struct {
	file, scope string
}

func (s *server) patroni(t *testing.T, scope, name string) *patroni {
	t.Helper()
	p := &patroni{filepath.Join(t.TempDir(), "patroni.yml"), scope}
	text := fmt.Sprintf("namespace: /%s\nscope: %s\nname: %s\n%s\nrestapi: {authentication: {username: %s, password: %s}}\n",
		namespace, scope, name, s.section, apiUser, apiPassword)
	require.NoError(t, os.WriteFile(p.file, []byte(text), 0o600))
	return p
}

// ctl runs patronictl, which must report no error, and returns its output.
func (p *patroni) ctl(t *testing.T, args ...string) string {
	t.Helper()
	output, errors := p.run(t, args...)
	require.Empty(t, errors, "patronictl %v: %s", args, output)
	return output
}

// run runs patronictl and returns its output and its errors.
func (p *patroni) run(t *testing.T, args ...string) (output, errors string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "patronictl", append([]string{"-c", p.file}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	require.NoError(t, err, "patronictl %v: %s%s", args, stdout.String(), stderr.String())
	return stdout.String(), stderr.String()
}

// member is a member of Patroni's classes. It is a process, because its leases last as
// long as that.
type member struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Scanner
}

// member starts a member with the interpreter for which the distribution installs Patroni.
func (p *patroni) member(t *testing.T) *member {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "/usr/bin/python3", "testdata/member.py", p.file)
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	require.NoError(t, err)
	cmd.Stderr = stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	process, err := fault.StartProcess(cmd)
	require.NoError(t, err)
	t.Cleanup(func() {
		process.Kill()
		stderr.Close()
		if text, err := os.ReadFile(stderr.Name()); t.Failed() {
			t.Logf("errors of Patroni: %s, %v", text, err)
		}
	})
	m := &member{t, in, bufio.NewScanner(out)}
	m.out.Buffer(nil, 1<<20)
	return m
}

// call calls a method of the member and decodes its result.
func (m *member) call(result any, method string, args ...any) {
	m.t.Helper()
	require.NoError(m.t, json.NewEncoder(m.in).Encode(append([]any{method}, args...)))
	require.True(m.t, m.out.Scan(), "%s: the member has ended", method)
	require.NoError(m.t, json.Unmarshal(m.out.Bytes(), result), "%s: %s", method, m.out.Text())
}

// do calls a method of the member and returns whether it has succeeded.
func (m *member) do(method string, args ...any) bool {
	m.t.Helper()
	var result any
	m.call(&result, method, args...)
	return result != nil && result != false
}

// patroniCluster is the cluster as Patroni's classes see it.
type patroniCluster struct {
	Initialize  string                     `json:"initialize"`
	Config      json.RawMessage            `json:"config"`
	ConfigIndex json.RawMessage            `json:"config_index"`
	Leader      string                     `json:"leader"`
	LastLSN     int64                      `json:"last_lsn"`
	Slots       map[string]int64           `json:"slots"`
	Members     map[string]json.RawMessage `json:"members"`
	Failover    []string                   `json:"failover"`
	Sync        json.RawMessage            `json:"sync"`
	History     json.RawMessage            `json:"history"`
	Failsafe    map[string]string          `json:"failsafe"`
	List        json.RawMessage            `json:"list"`
}

func (m *member) cluster() patroniCluster {
	m.t.Helper()
	var c patroniCluster
	m.call(&c, "cluster")
	return c
}

// until reads the cluster until ok accepts it. Patroni's class for etcd answers from a
// cache.
func (m *member) until(ok func(c patroniCluster) bool) patroniCluster {
	m.t.Helper()
	var c patroniCluster
	require.Eventually(m.t, func() bool { c = m.cluster(); return ok(c) }, limit, 20*time.Millisecond, "%+v", &c)
	return c
}

// leads is a condition for until.
func leads(name string) func(patroniCluster) bool {
	return func(c patroniCluster) bool { return c.Leader == name }
}

// lag is a condition for until: the configuration has this maximum_lag_on_failover.
func lag(want int64) func(patroniCluster) bool {
	return func(c patroniCluster) bool {
		var config struct {
			Lag int64 `json:"maximum_lag_on_failover"`
		}
		return json.Unmarshal(c.Config, &config) == nil && config.Lag == want
	}
}
