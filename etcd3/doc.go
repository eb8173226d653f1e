// Package etcd3 keeps leases, locks and member keys in etcd v3.
package etcd3
