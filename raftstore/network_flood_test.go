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
	"github.com/holdfast-dcs/holdfast/internal/backoff"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// slowProfile reports whether the tests may take long.
func slowProfile() bool { return os.Getenv("HOLDFAST_PROFILE") == "slow" }

// flood makes count connections to addr, and repeats each of them for that many rounds,
// or until the test ends. A connection is closed when use returns.
func flood(t *testing.T, addr string, count, rounds int, use func(net.Conn)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range count {
		wg.Go(func() {
			backoff.Sleep(ctx, time.Duration(i)*time.Millisecond)
			for round := 0; round < rounds && ctx.Err() == nil; round++ {
				conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
				if err == nil {
					lift := context.AfterFunc(ctx, func() { conn.Close() })
					use(conn)
					conn.Close()
					lift()
				}
				backoff.Sleep(ctx, 500*time.Millisecond)
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
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, //nolint:gosec // G402: it is the attacker
		NextProtos: []string{"holdfast-call/2"},
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

// stalls measures, as a control, for how long this process got no processor. A machine
// that stands still for half a heartbeat timeout causes elections by itself.
type stalls struct {
	mu    sync.Mutex
	late  []time.Duration // of the latest ticks
	worst time.Duration   // most within a second
}

func measureStalls(t *testing.T) *stalls {
	t.Helper()
	const tick = 10 * time.Millisecond
	s := &stalls{late: make([]time.Duration, time.Second/tick)}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			start := dcs.Now()
			backoff.Sleep(ctx, tick)
			s.mu.Lock()
			s.late[i%len(s.late)] = start.Elapsed() - tick
			var sum time.Duration
			for _, d := range s.late {
				sum += d
			}
			s.worst = max(s.worst, sum)
			s.mu.Unlock()
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return s
}

// check fails the test if fault is not nil, unless the machine stood still for
// half of that time within a second.
func (s *stalls) check(t *testing.T, fault error, heartbeat time.Duration) {
	t.Helper()
	s.mu.Lock()
	worst := s.worst
	s.mu.Unlock()
	if fault != nil && worst > heartbeat/2 {
		t.Logf("the machine stood still for %v within a second, which excuses: %v", worst, fault)
		return
	}
	require.NoError(t, fault)
}

// noElection returns an error if b's term is not term any more.
func noElection(b *Backend, term uint64) error {
	if now := b.Status().Term; now != term {
		return fmt.Errorf("there was an election: the term is %d, it was %d", now, term)
	}
	return nil
}

// Two nodes may open 128 files each, and each gets 200 silent connections. The cluster
// keeps its leader and commits, and the descriptors for the disk stay free.
func TestSilentConnectionsLeaveDescriptorsToTheDisk(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the descriptors of another process are counted in /proc")
	}
	const files = 128
	const heartbeat = time.Second // the default, which leaves a loaded machine some room
	ca := newTestCA(t)
	p := startProcesses(t, files, func(c *Config) {
		ca.secure(t)(c)
		c.HeartbeatTimeout = heartbeat
	})
	control := measureStalls(t)
	a := p.tc.node[0]
	term := a.Status().Term
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
		control.check(t, err, heartbeat)
		for _, n := range p.nodes {
			most = max(most, openFiles(t, n.proc.Pid()))
		}
		time.Sleep(20 * time.Millisecond) // the flood has time of its own
	}
	t.Logf("%d of %d descriptors", most, files)
	require.Less(t, most, files*3/4, "no descriptors are left to the disk")
	control.check(t, noElection(a, term), heartbeat)
}

// Silent connections, and handshakes without a certificate, cause no election.
func TestFloodCostsNoElection(t *testing.T) {
	quiet, handshakes, lasts := 200, 60, 2*time.Second
	if slowProfile() {
		quiet, handshakes, lasts = 1000, 534, 20*time.Second // 3,000 and 1,600 in all
	}
	const heartbeat = time.Second // the default
	ca := newTestCA(t)
	tc := newTestCluster(t, 3, func(_ int, c *Config, _ *hooks) {
		ca.secure(t)(c)
		c.HeartbeatTimeout = heartbeat
	})
	commit := func(b *Backend) error {
		_, err := b.Commit(testCtx(t), dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
		return err
	}
	leader := tc.node[tc.leader()]
	control := measureStalls(t)
	for _, b := range tc.node {
		control.check(t, commit(b), heartbeat) // the nodes are connected
	}
	term := leader.Status().Term
	for _, b := range tc.node {
		flood(t, b.node.net.Addr(), quiet, endless, stayQuiet)
		flood(t, b.node.net.Addr(), handshakes, 1, uncertified)
	}
	for start := dcs.Now(); start.Elapsed() < lasts; {
		for _, b := range tc.node {
			control.check(t, commit(b), heartbeat)
		}
		time.Sleep(10 * time.Millisecond)
	}
	control.check(t, noElection(leader, term), heartbeat)
}
