package raftstore

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// A node moves to another address, and no other node is restarted.
func TestMove(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	moved := tc.follower()
	holder := 3 - moved - tc.leader()
	lock := tc.hold(t, holder)
	id := tc.config[moved].ID
	tc.stop(moved)
	peers := append([]Peer{}, tc.config[moved].Peers...)
	to := reserveAddr(t)
	peers[moved].Addr = to
	tc.config[moved].Peers = peers
	tc.start(moved)
	revs := tc.commits(holder, 3, "k")
	// The node knows the others, and they cannot reach it yet.
	require.NoError(t, tc.node[moved].Membership().Move(testCtx(t), id, to))
	tc.holds(revs)
	for _, b := range tc.node {
		tc.eventually(func() bool {
			for _, m := range b.Status().Members {
				if m.ID == id {
					return m.Addr == to
				}
			}
			return false
		}, "a node does not know the new address")
	}
	tc.eventually(func() bool { return len(tc.node[holder].Status().PeersDiffer) == 1 }, "the difference is not reported")
	want := PeerDifference{ID: id, Listed: tc.config[holder].Peers[moved].Addr, Member: to}
	require.Equal(t, want, tc.node[holder].Status().PeersDiffer[0])
	tc.eventually(func() bool { return len(tc.node[moved].Status().PeersDiffer) == 0 }, "the node's own list is wrong")
	tc.leadBy(moved) // and it can lead
	tc.commits(holder, 1, "later")
	lock.end()
}

// A node with an empty directory at another address takes the place of one that has
// ended, and not of one that runs.
func TestMoveToAnotherMachine(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	old := tc.follower()
	id := tc.config[old].ID
	revs := tc.commits(old, 3, "k")
	fresh := tc.extra(id, tc.leader())
	at := tc.node[tc.leader()].Membership()
	err := at.Move(testCtx(t), id, tc.addrOf(fresh))
	require.ErrorIs(t, err, dcs.ErrConflict)
	require.ErrorContains(t, err, "still runs at "+tc.addrOf(old))
	tc.stop(old)
	require.NoError(t, at.Move(testCtx(t), id, tc.addrOf(fresh)))
	tc.becomesVoter(fresh)
	tc.holds(revs)
	require.Len(t, tc.node[tc.leader()].Status().Members, 3)
	err = at.Move(testCtx(t), "z", tc.addrOf(fresh))
	require.ErrorIs(t, err, dcs.ErrNotFound)
}

// All nodes are started at other addresses at once, and find each other by their new
// Peers.
func TestAllNodesMoveAtOnce(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	revs := tc.commits(0, 3, "k")
	tc.settled()
	tc.stopAll()
	var peers []Peer
	for _, p := range tc.config[0].Peers {
		peers = append(peers, Peer{ID: p.ID, Addr: reserveAddr(t)})
	}
	for i := range tc.config {
		tc.config[i].Peers = peers
		tc.start(i)
	}
	tc.holds(revs)
	require.Len(t, tc.node[0].Status().PeersDiffer, 3)
	for i, c := range tc.config {
		require.NoError(t, tc.node[0].Membership().Move(testCtx(t), c.ID, peers[i].Addr))
	}
	tc.eventually(func() bool { return len(tc.node[0].Status().PeersDiffer) == 0 }, "the new addresses are not known")
}

// A cluster of one node grows, and its address is the one at which it runs.
func TestOneNodeGrows(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 1, func(_ int, c *Config, _ *hooks) { c.Peers, c.Listen = nil, "127.0.0.1:0" })
	revs := tc.commits(0, 3, "k")
	tc.stop(0)
	tc.start(0) // on another port
	own := tc.node[0].Status().Addr
	tc.eventually(func() bool {
		m := tc.node[0].Status().Members
		return len(m) == 1 && m[0].Addr == own
	}, "its address is an old one")
	tc.config[0].Peers, tc.config[0].Listen = []Peer{{ID: "a", Addr: own}}, own
	for _, id := range []string{"b", "c"} {
		i := tc.extra(id, 0)
		require.NoError(t, tc.node[0].Membership().AddVoter(testCtx(t), id, tc.addrOf(i)))
	}
	tc.knows("abc", 0, 1, 2)
	tc.holds(revs)
	tc.kill(0)
	tc.commits(1, 1, "without the first one")
	tc.start(0)
	tc.holds(revs)
}

// hostTLS gives a node a certificate for the host of its address only.
func hostTLS(t *testing.T, ca *testCA, c *Config) {
	host, _, err := net.SplitHostPort(c.peerAddr(c.ID))
	require.NoError(t, err)
	c.TLS = ca.issue(t, c.ID+"-"+host, func(x *x509.Certificate) { x.IPAddresses = []net.IP{net.ParseIP(host)} })
}

// With TLS a node that joins, or has moved, must prove that it is at the address in the
// call. Before the call, all nodes refuse it.
func TestMembersWithTLS(t *testing.T) {
	parallel(t)
	if runtime.GOOS != "linux" {
		t.Skip("only 127.0.0.1 is loopback for certain")
	}
	ca := newTestCA(t)
	at := func(c *Config, id, host string) {
		for i := range c.Peers {
			if c.Peers[i].ID == id {
				_, port, err := net.SplitHostPort(c.Peers[i].Addr)
				require.NoError(t, err)
				c.Peers[i].Addr = net.JoinHostPort(host, port)
			}
		}
	}
	tc := newTestCluster(t, 3, func(_ int, c *Config, _ *hooks) {
		c.Peers = slices.Clone(c.Peers)
		for i, p := range c.Peers {
			at(c, p.ID, fmt.Sprintf("127.0.0.%d", i+1))
		}
		hostTLS(t, ca, c)
	})
	revs := tc.commits(0, 2, "k")
	d := tc.extraWith("d", func(c *Config) {
		at(c, "d", "127.0.0.4")
		hostTLS(t, ca, c)
	}, tc.follower())
	tc.eventually(func() bool { return tc.state(d) == Joining }, "it does not find the cluster")
	tc.eventually(func() bool { // the node may cancel the handshake that its own question began
		_, err := tc.node[d].node.calls.Call(testCtx(t), tc.addrOf(0)+"#"+tc.node[0].Status().Life, opQuestion, nil)
		require.Error(t, err, "the node is no member")
		return errors.Is(err, transport.ErrPeerRefused)
	}, "the node is no member, and is not refused")
	require.NoError(t, tc.node[0].Membership().AddVoter(testCtx(t), "d", tc.addrOf(d)))
	tc.holds(revs)

	moved := tc.follower()
	id := tc.config[moved].ID
	tc.stop(moved)
	at(&tc.config[moved], id, "127.0.0.9")
	hostTLS(t, ca, &tc.config[moved])
	tc.start(moved)
	caller := tc.node[tc.leader()].Membership()
	require.NoError(t, caller.Move(testCtx(t), id, tc.addrOf(moved)))
	tc.holds(revs)
	tc.leadBy(moved)
}
