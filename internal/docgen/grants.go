package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/consul"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/etcd3"
	"github.com/holdfast-dcs/holdfast/internal/expiry"
	"github.com/holdfast-dcs/holdfast/memstore"
	_ "github.com/holdfast-dcs/holdfast/raftstore" // the raft:// scheme
	"github.com/holdfast-dcs/holdfast/zookeeper"
)

// grant is the limits of a store with its own default settings.
type grant struct {
	caps   dcs.Caps
	expiry time.Duration // of a lease with the default TTL
}

// unreachable is the endpoint of clients that are asked for their Caps only.
const unreachable = "127.0.0.1:1"

// zookeeperTick is ZooKeeper's default tickTime.
const zookeeperTick = 2 * time.Second

// grantOf returns the limits of a store. A store that needs no servers is asked.
// The clients of the others know the limits that servers have by default.
func grantOf(ctx context.Context, store string) (grant, error) {
	ttl := dcs.DefaultTiming.TTL
	switch store {
	case "etcd3":
		b, err := etcd3.New(etcd3.Config{Endpoints: []string{unreachable}, Root: "docs"})
		return unconnected(b, err, expiry.Etcd3(ttl))
	case "consul":
		b, err := consul.New(consul.Config{Endpoints: []string{unreachable}, Root: "docs"})
		return unconnected(b, err, expiry.Consul(ttl))
	case "zookeeper":
		b, err := zookeeper.New(zookeeper.Config{Endpoints: []string{unreachable}, Root: "docs"})
		return unconnected(b, err, expiry.ZooKeeper(ttl, zookeeperTick))
	case "raftstore":
		return raftGrant()
	case "memstore":
		return askGrant(ctx, memstore.NewServer(memstore.Options{}).Open(memstore.ClientOptions{}))
	}
	return grant{}, fmt.Errorf("no store is named %q", store)
}

// unconnected returns the grant of a client whose servers are not asked.
func unconnected(b dcs.Backend, err error, expiry time.Duration) (grant, error) {
	if err != nil {
		return grant{}, err
	}
	return grant{b.Caps(), expiry}, b.Close()
}

// raftGrant starts a node with the default timing and asks it, once: a node needs
// a second or two to become the leader.
var raftGrant = sync.OnceValues(func() (g grant, err error) {
	ctx := context.Background()
	err = withNode(ctx, dcs.DefaultTiming, func(store *dcs.Store) (err error) {
		g, err = askGrant(ctx, store)
		return err
	})
	return g, err
})

// raftCaps returns the limits of a node with a timing.
func raftCaps(ctx context.Context, t dcs.Timing) (caps dcs.Caps, err error) {
	err = withNode(ctx, t, func(store *dcs.Store) error {
		caps = store.Caps()
		return store.Close()
	})
	return caps, err
}

// withNode calls use with a raftstore of one node, which use closes.
func withNode(ctx context.Context, t dcs.Timing, use func(store *dcs.Store) error) (err error) {
	dir, err := os.MkdirTemp("", "docgen-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	store, err := dcs.Open(ctx, "raft://"+filepath.ToSlash(dir)+"?id=a&root=docs&listen=127.0.0.1:0", dcs.Options{Timing: t})
	if err != nil {
		return err
	}
	return use(store)
}

// granter is a dcs.Store or a backend.
type granter interface {
	Caps() dcs.Caps
	Grant(ctx context.Context, ttl time.Duration) (dcs.Lease, dcs.Renewal, error)
	Close() error
}

// askGrant returns the capabilities of a store and of a lease with the default
// TTL, and closes the store.
func askGrant(ctx context.Context, store granter) (g grant, err error) {
	defer func() { err = errors.Join(err, store.Close()) }()
	lease, _, err := store.Grant(ctx, dcs.DefaultTiming.TTL)
	if err != nil {
		return grant{}, err
	}
	renewal, err := lease.Renew(ctx)
	return grant{store.Caps(), renewal.Expiry}, err
}

func renderGrants(ctx context.Context, _ string) (string, error) {
	header := []string{
		"backend", "TTL", "a key is gone, after its holder's last renewal, by", "largest value", "largest Txn",
		"moves a key to another lease", "store expires leases itself",
	}
	var rows [][]string
	for _, store := range []string{"raftstore", "etcd3", "consul", "zookeeper", "memstore"} {
		g, err := grantOf(ctx, store)
		if err != nil {
			return "", fmt.Errorf("%s: %w", store, err)
		}
		title := "`" + store + "`"
		if store == "memstore" {
			title += " (tests)"
		}
		rows = append(rows, []string{
			title, fmt.Sprintf("%s to %s", shortDuration(g.caps.MinTTL), shortDuration(g.caps.MaxTTL)), g.expiry.String(), mebibytes(g.caps.MaxValue),
			fmt.Sprintf("%d operations, %s", g.caps.MaxTxnOps, mebibytes(g.caps.MaxTxnBytes)), yesOrNo(g.caps.Rebind), yesOrNo(g.caps.SelfExpiry),
		})
	}
	return markdownTable(header, rows), nil
}

// shortDuration formats d without zero minutes and seconds: "24h", not "24h0m0s".
func shortDuration(d time.Duration) string {
	if d%time.Minute != 0 {
		return d.String()
	}
	return strings.TrimSuffix(strings.TrimSuffix(d.String(), "0s"), "0m")
}

// spacedDuration formats d in milliseconds or seconds: "500 ms", "1.7 s".
func spacedDuration(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
	}
	return fmt.Sprintf("%g s", d.Seconds())
}

func mebibytes(n int) string { return fmt.Sprintf("%.3g MiB", float64(n)/(1<<20)) }

func yesOrNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
