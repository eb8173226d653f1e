// Package filestore is an example of a backend: leases, locks and member keys in a
// directory, for several processes of one Linux machine. It is the tutorial for authors of
// backends. It uses the public packages of this module only, and passes every case of the
// conformance suite that does not need servers, credentials or sockets.
//
//	store, err := dcs.Open(ctx, "file:///var/lib/app", dcs.Options{})
//
// # Reading it
//
// Each file is one step, in the order in which a backend is best written:
//
//  1. state.go: the state machine, revisions and leases.
//  2. disk.go: atomic reads and writes, and the store's clock.
//  3. queue.go: one writer at a time.
//  4. store.go: the client, its budget, reads, and Close.
//  5. commit.go: Commit and Settle, over package attempt.
//  6. lease.go: Grant, Renew and Revoke.
//  7. wait.go: Wait.
//  8. driver.go: the URL.
//  9. conformance_test.go: the suite, with a fault injector between client and files.
//
// A store with transactions of its own replaces steps 1 to 3. The others stay similar.
//
// # Mapping
//
// The file "state" has all keys and leases, as JSON. A write reads it under a lock of the
// kernel on the file "lock" (flock), writes a new one, and renames it. A read reads it
// without a lock. A revision is a number in the file. The deadline of a lease is a reading
// of the clock CLOCK_BOOTTIME, which all processes of a machine share. After a restart of
// the machine each lease begins again with its whole TTL.
//
// # Limits
//
// It is for one machine, and thus not for production where a machine may fail. The
// directory must be on a local file system, because the locks and renames of network file
// systems do not keep these promises. All processes must be in one time namespace. Every
// write writes all keys, so that the store is for some hundred small ones. No process ends
// leases while no client runs (Caps.SelfExpiry). A key may be stored above or below another
// one. The directory's owner and mode are the only protection. Removing a file while a
// client runs loses locks.
//
// # Errors
//
// ErrNotFound, ErrConflict and ErrLost rest on the file. An error of the disk has no kind,
// so that dcs reports an unknown outcome. Package attempt settles that of a Commit.
//
// # Client ownership
//
// New owns the client and dcs.New takes it over. Close ends its goroutines. The directory
// belongs to the caller and must exist.
package filestore
