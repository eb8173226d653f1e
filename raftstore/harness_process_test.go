package raftstore

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/conformance/fault"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// nodeURL is the environment in which the test binary is a node of its own.
const nodeURL = "HOLDFAST_RAFTSTORE_NODE"

// TestMain lets the test binary be a node, and the suite's other process.
func TestMain(m *testing.M) {
	raftNode.Main()
	conformance.Process()
	if url := os.Getenv(nodeURL); url != "" {
		store, err := dcs.Open(context.Background(), url, dcs.Options{})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin) // until the process that started it has ended
			stop()
		}()
		<-ctx.Done()
		_ = store.Close()
		os.Exit(0)
	}
	code := m.Run()
	sharedNodes.Close()
	securedNodes.Close()
	os.Exit(code)
}

// processes is a cluster for the fault cases. Node a is in this process, and the cases
// use its clients. Nodes b and c are processes that can be killed and frozen. Faults are
// injected only into these, because a client is a node, and the clients of a frozen or
// killed node would stop with it.
type processes struct {
	*suite
	configs []Config // a, b, c
	nodes   []*child // b, c
}

// child is one node that is a process.
type child struct {
	url   string
	files int // its limit of open files, 0 for this process's own
	proc  *fault.Process
}

// newProcesses starts the cluster.
func newProcesses(t testing.TB) *processes {
	t.Helper()
	return startProcesses(t, 0, func(*Config) {})
}

// startProcesses starts the cluster with settings that edit changes. Nodes b and c may
// open that many files each.
func startProcesses(t testing.TB, files int, edit func(*Config)) *processes {
	t.Helper()
	p := &processes{suite: &suite{}, configs: clusterConfigs(t, 3)}
	for i := range p.configs {
		suiteConfig(&p.configs[i], suiteTiming)
		// A Commit's budget must have room for a split vote, too.
		p.configs[i].HeartbeatTimeout = 200 * time.Millisecond
		edit(&p.configs[i])
	}
	for _, c := range p.configs[1:] {
		n := &child{url: urlOf(c), files: files}
		p.nodes = append(p.nodes, n)
		n.start(t)
		t.Cleanup(func() { n.proc.Kill() })
	}
	b, err := newBackend(p.configs[0], testHooks())
	require.NoError(t, err)
	p.tc = &testCluster{t: t, config: p.configs[:1], hooks: []hooks{testHooks()}, node: []*Backend{b}}
	t.Cleanup(p.tc.stopAll)
	p.healthy(t)
	return p
}

// urlOf returns a node's URL.
func urlOf(c Config) string {
	var peers []string
	for _, p := range c.Peers {
		peers = append(peers, p.ID+"="+p.Addr)
	}
	url := fmt.Sprintf("raft://%s?id=%s&root=%s&peers=%s&heartbeat_timeout=%v&min_ttl=%v&ttl=%v&loop_wait=%v&retry_timeout=%v",
		c.Dir, c.ID, c.Root, strings.Join(peers, ","), c.HeartbeatTimeout, c.MinTTL, c.Timing.TTL, c.Timing.LoopWait, c.Timing.RetryTimeout)
	if c.TLS != nil {
		url += fmt.Sprintf("&tls_cert=%s&tls_key=%s&tls_ca=%s", c.TLS.CertFile, c.TLS.KeyFile, c.TLS.CAFile)
	}
	return url
}

func (n *child) start(tb testing.TB) {
	exe, err := os.Executable()
	require.NoError(tb, err)
	cmd := exec.CommandContext(context.Background(), exe, "-test.run=^$")
	if n.files > 0 {
		script := fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, n.files)
		cmd = exec.CommandContext(context.Background(), "sh", "-c", script, exe, "-test.run=^$")
	}
	cmd.Env = append(os.Environ(), nodeURL+"="+n.url)
	cmd.Stderr = os.Stderr
	_, err = cmd.StdinPipe() // open for as long as this process lives
	require.NoError(tb, err)
	n.proc, err = fault.StartProcess(cmd)
	require.NoError(tb, err)
}

func (n *child) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	n.proc.Terminate(ctx)
}

// faults returns the servers for the suite.
func (p *processes) faults() *conformance.Cluster {
	return &conformance.Cluster{
		Endpoints: []string{p.configs[1].Peers[1].Addr, p.configs[1].Peers[2].Addr},
		// A follower waits for up to two heartbeat timeouts, and a split vote costs
		// up to two election timeouts more.
		Election:    4 * p.configs[0].HeartbeatTimeout,
		Leader:      p.leader,
		Healthy:     p.healthy,
		InjectFault: p.injectFault,
		RestartAll: func(tb testing.TB) {
			// All that can be killed. They are two of three, and so a quorum.
			for _, n := range p.nodes {
				n.proc.Kill()
			}
			for _, n := range p.nodes {
				n.start(tb)
			}
		},
		EndLease: func(tb testing.TB, id dcs.LeaseID) {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			require.NoError(tb, (&leaseHandle{b: &p.tc.node[0].frontend, id: id}).Revoke(ctx))
		},
	}
}

// healthy returns when every node follows one leader and answers.
func (p *processes) healthy(tb testing.TB) {
	a := p.tc.node[0]
	require.Eventually(tb, func() bool {
		s := a.Status() // a knows no leader before it is a member
		if s.LeaderID == "" || len(s.Conns) == 0 {
			return false
		}
		for _, c := range p.configs[1:] {
			if !answers(a, c.ID) {
				return false
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), suiteTiming.RetryTimeout)
		defer cancel()
		_, err := a.Snapshot(ctx, "")
		return err == nil
	}, 20*time.Second, 20*time.Millisecond)
}

// answers reports whether a node answers a question of another node.
func answers(a *Backend, id string) bool {
	for _, v := range a.node.member().currentVoters() {
		if transport.NodeOf(v.id) != id {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		_, err := a.node.askTerm(ctx, v.addr)
		return err == nil
	}
	return false
}

// leader returns the child that leads. If a leads, it transfers the leadership to one.
func (p *processes) leader(tb testing.TB) int {
	a := p.tc.node[0]
	for range 50 {
		switch a.Status().LeaderID {
		case p.configs[1].ID:
			return 0
		case p.configs[2].ID:
			return 1
		case p.configs[0].ID:
			_ = a.node.member().raft.LeadershipTransfer().Error() // asked again if refused
			p.healthy(tb)
		default:
			p.healthy(tb)
		}
	}
	tb.Fatal("neither b nor c takes the lead")
	return -1
}

func (p *processes) injectFault(tb testing.TB, i int, t conformance.ServerFault) (restore func()) {
	n := p.nodes[i]
	switch t.Do {
	case conformance.Killed:
		n.proc.Kill()
		return func() { n.start(tb) }
	case conformance.Stopped:
		n.stop()
		return func() { n.start(tb) }
	case conformance.Frozen:
		thaw, err := n.proc.Freeze()
		require.NoError(tb, err)
		return thaw
	}
	tb.Fatalf("%v: no such fault", t.Do)
	return nil
}

// url stops node c and returns its URL. A store that opens the URL, in this process or
// in another one, is node c for as long as the case lasts.
func (p *processes) url(tb testing.TB) string {
	c := p.nodes[1]
	c.stop()
	tb.Cleanup(func() { c.start(tb); p.healthy(tb) })
	return c.url
}
