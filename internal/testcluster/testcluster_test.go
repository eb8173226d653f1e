package testcluster

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/metadata"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestKindsStartSurviveAndLeaveNothing(t *testing.T) {
	for _, kind := range []Kind{Etcd, Consul, ZooKeeper} {
		t.Run(string(kind), func(t *testing.T) {
			began := time.Now()
			c := New(t, Options{Kind: kind})
			t.Logf("started in %v", time.Since(began).Round(10*time.Millisecond))
			leader := c.Leader(t.Context())
			require.GreaterOrEqual(t, leader, 0)
			c.Servers()[leader].Kill()
			require.NoError(t, c.Servers()[leader].Restart())
			require.NoError(t, c.Healthy(t.Context()))
			dir := c.dir
			c.Close()
			out, _ := exec.CommandContext(t.Context(), "pgrep", "-f", dir).Output()
			require.Empty(t, strings.TrimSpace(string(out)), "a process was left running")
			require.NoDirExists(t, dir)
		})
	}
}

// After one case has left the servers unhealthy, the other cases must not wait for them
// for a minute each.
func TestUnhealthySharedClusterIsReplaced(t *testing.T) {
	shared := Shared{Options: Options{Kind: Etcd, Loopback: true}}
	defer shared.Close()
	first := shared.Get(t)
	require.Same(t, first, shared.Get(t))
	first.Servers()[1].Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	require.ErrorContains(t, first.Healthy(ctx), "n1 (ended: signal: killed)")

	second := shared.Get(t)
	require.NotSame(t, first, second)
	require.Same(t, second, shared.Get(t))
	require.NoDirExists(t, first.dir)
	require.NoError(t, second.Healthy(t.Context()))
}

func TestEtcdPartitionIsHalfHealthy(t *testing.T) {
	c := New(t, Options{Kind: Etcd})
	if !c.HasNetwork() {
		t.Log("the cluster has no network: no packets can be dropped")
		_, err := c.Partition(0)
		require.Error(t, err)
		return
	}
	heal, err := c.Partition(0)
	require.NoError(t, err)
	conn, err := (&etcd{}).conn(c, c.Servers()[0])
	require.NoError(t, err)
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "hasleader", "true")
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(ctx, moment)
		defer cancel()
		_, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("x")})
		return err != nil && strings.Contains(err.Error(), "no leader")
	}, 20*time.Second, 50*time.Millisecond)
	require.NoError(t, heal())
	require.NoError(t, c.Healthy(t.Context()))
}

func TestEtcdWithSecurity(t *testing.T) {
	c := New(t, Options{Kind: Etcd, Nodes: 1, Security: true, Loopback: true})
	admin, err := c.Admin(t.Context())
	require.NoError(t, err)
	defer admin.Close()
	users, err := admin.UserList(t.Context())
	require.NoError(t, err)
	require.ElementsMatch(t, []string{Root, Suite, Reader}, users.Users)
}

func TestEtcdReplace(t *testing.T) {
	c := New(t, Options{Kind: Etcd})
	before := c.Endpoints()
	require.NoError(t, c.Replace(t.Context(), 1))
	after := c.Endpoints()
	require.NotEqual(t, before[1], after[1])
	require.Equal(t, before[0], after[0])
}

// StepClocks steps the wall clocks of ZooKeeper's servers, whose time nodes carry.
func TestZooKeeperClocksStep(t *testing.T) {
	c := New(t, Options{Kind: ZooKeeper, Nodes: 1, Loopback: true})
	if !CanStepClocks() {
		t.Skip("no C compiler was found")
	}
	admin, err := c.ZooKeeperAdmin(0)
	require.NoError(t, err)
	defer admin.Close()
	for i, by := range []time.Duration{0, 5 * time.Minute, -10 * time.Minute} {
		require.NoError(t, c.StepClocks(by))
		path := fmt.Sprint("/stepped", i)
		_, err := admin.Create(path, nil, 0, zk.WorldACL(zk.PermAll))
		require.NoError(t, err)
		_, stat, err := admin.Get(path)
		require.NoError(t, err)
		want := time.Now().Add([]time.Duration{0, 5 * time.Minute, -5 * time.Minute}[i])
		require.InDelta(t, want.UnixMilli(), stat.Ctime, 10000)
	}
}

// The winner of an election that pauses before its port is open loses its followers. It
// must not wait for them for longer than the budget of a client.
func TestZooKeeperElectsAgainAfterAPause(t *testing.T) {
	c := New(t, Options{Kind: ZooKeeper})
	if !c.HasNetwork() {
		t.Log("the cluster has no network: no packets can be dropped")
		return
	}
	leader := c.Leader(t.Context())
	winner := 2
	if leader == winner {
		winner = 1
	}
	heal, err := c.Partition(leader)
	require.NoError(t, err)
	cut := time.Now()
	<-time.After(900 * time.Millisecond) // the others have detected the failure and vote
	thaw, err := c.Servers()[winner].Process().Freeze()
	require.NoError(t, err)
	<-time.After(1200 * time.Millisecond) // the pause
	thaw()
	require.Eventually(t, func() bool {
		for i, s := range c.Servers() {
			answer, err := ask4(t.Context(), c, s, "srvr")
			if i != leader && err == nil && strings.Contains(answer, "Mode: leader") {
				return true
			}
		}
		return false
	}, 9*time.Second, 20*time.Millisecond)
	t.Logf("another server led %v after the leader was cut off", time.Since(cut).Round(10*time.Millisecond))
	require.NoError(t, heal())
	require.NoError(t, c.Healthy(t.Context()))
}
