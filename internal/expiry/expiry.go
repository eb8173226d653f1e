// Package expiry bounds when a store with servers has removed the keys of a
// lease, counted from the lease's last renewal. The backends report these bounds
// as dcs.Renewal.Expiry, and the documentation is generated from them.
package expiry

import "time"

const (
	// etcdScan covers etcd's search for expired leases, every 500 ms, and the log
	// entry that revokes them.
	etcdScan = time.Second
	// logEntry covers the log entry that ends a session.
	logEntry = 100 * time.Millisecond
)

// Etcd3 returns the bound for a lease of etcd with the given TTL.
func Etcd3(ttl time.Duration) time.Duration { return ttl + etcdScan }

// Consul returns the bound for a session of Consul, which ends after twice the
// TTL that was asked for.
func Consul(ttl time.Duration) time.Duration { return 2*ttl + logEntry }

// ZooKeeper returns the bound for a session of ZooKeeper. The backend keeps the
// session alive for [ZooKeeperGrace] after a renewal, the end of a session is
// rounded up to the next tick, and a server reports its sessions to the leader
// every half tick.
func ZooKeeper(ttl, tick time.Duration) time.Duration {
	return ttl + ZooKeeperGrace(ttl, tick) + 2*tick + logEntry
}

// ZooKeeperGrace returns how long the zookeeper backend keeps a session alive
// after a renewal. A dcs.Session renews every third of the TTL at least.
func ZooKeeperGrace(ttl, tick time.Duration) time.Duration { return ttl/3 + tick }
