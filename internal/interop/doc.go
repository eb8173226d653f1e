// Package interop tests that Patroni and this module read and write the same clusters, on
// etcd, Consul and ZooKeeper. It uses Patroni's command patronictl, and a member that is
// made of Patroni's own classes.
package interop
