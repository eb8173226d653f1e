package raftstore

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// slowProfile reports whether the tests may take long.
func slowProfile() bool { return os.Getenv("HOLDFAST_PROFILE") == "slow" }

// flood makes count connections to addr, and each one again for that many
// rounds, or until the test ends. use has a connection until it returns.
func flood(t *testing.T, addr string, count, rounds int, use func(net.Conn)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range count {
		wg.Go(func() {
			pause(ctx, time.Duration(i)*time.Millisecond)
			for round := 0; round < rounds && ctx.Err() == nil; round++ {
				conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
				if err == nil {
					lift := context.AfterFunc(ctx, func() { conn.Close() })
					use(conn)
					conn.Close()
					lift()
				}
				pause(ctx, 500*time.Millisecond)
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// endless is more rounds than a test has time for.
const endless = 1 << 20

// stayQuiet waits until the other side closes the connection.
func stayQuiet(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)) }

// uncertified makes a TLS handshake without a certificate.
func uncertified(conn net.Conn) {
	client := tls.Client(conn, &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, //nolint:gosec // it is the attacker
		NextProtos: []string{alpn(kindCall, wireVersion)},
	})
	_, _ = client.Read(make([]byte, 1))
}

// openFiles counts the descriptors of another process.
func openFiles(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	return len(list)
}

// Two nodes that may open 128 files each, and 200 silent connections to each:
// the cluster keeps its leader and commits, and the disk's descriptors stay
// free.
func TestSilentConnectionsLeaveDescriptorsToTheDisk(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the descriptors of another process are counted in /proc")
	}
	const files = 128
	ca := newTestCA(t)
	p := startProcesses(t, files, ca.secure(t))
	a := p.tc.node[0]
	before := a.Status()
	for _, peer := range p.configs[0].Peers[1:] {
		flood(t, peer.Addr, 200, endless, stayQuiet)
	}
	most := 0
	value := make([]byte, 1<<10)
	if slowProfile() {
		value = make([]byte, state.MaxValue) // enough of them to begin new files of the log
	}
	for i := range 100 {
		_, err := a.Commit(testCtx(t), dcs.Txn{Then: []dcs.Write{dcs.Put(fmt.Sprint("k", i%4), value)}})
		require.NoError(t, err)
		for _, n := range p.nodes {
			most = max(most, openFiles(t, n.proc.Pid()))
		}
		time.Sleep(20 * time.Millisecond) // the flood has time of its own
	}
	t.Logf("%d of %d descriptors", most, files)
	require.Less(t, most, files*3/4, "no descriptors are left to the disk")
	after := a.Status()
	require.Equal(t, before.Term, after.Term, "there was an election")
	require.Equal(t, before.LeaderID, after.LeaderID)
}

// Connections that are silent, and handshakes without a certificate, cost no
// election.
func TestFloodCostsNoElection(t *testing.T) {
	quiet, handshakes, lasts := 200, 60, 2*time.Second
	if slowProfile() {
		quiet, handshakes, lasts = 1000, 534, 20*time.Second // 3,000 and 1,600 in all
	}
	ca := newTestCA(t)
	tc := newTestCluster(t, 3, func(_ int, c *Config, _ *wiring) {
		ca.secure(t)(c)
		c.HeartbeatTimeout = time.Second // the default, which leaves a loaded machine some room
	})
	leader := tc.node[tc.leader()]
	term := leader.Status().Term
	commit := func(b *Backend) {
		_, err := b.Commit(testCtx(t), dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
		require.NoError(t, err)
	}
	for _, b := range tc.node {
		commit(b) // the nodes are connected
		flood(t, b.node.net.addr(), quiet, endless, stayQuiet)
		flood(t, b.node.net.addr(), handshakes, 1, uncertified)
	}
	most := 0
	for start := dcs.Now(); start.Elapsed() < lasts; {
		for _, b := range tc.node {
			commit(b)
			most = max(most, b.node.net.unproven())
		}
		time.Sleep(10 * time.Millisecond)
	}
	require.Equal(t, term, leader.Status().Term, "there was an election")
	t.Logf("at most %d connections waited", most)
	require.LessOrEqual(t, most, leader.node.net.admit.perHost)
}

// unproven counts the accepted connections that are not established yet.
func (n *network) unproven() int {
	n.admit.mu.Lock()
	defer n.admit.mu.Unlock()
	return len(n.admit.places)
}
