// Package zookeeper keeps leases, locks and member keys in ZooKeeper (tested
// with 3.8; servers from 3.5 on work).
//
//	b, err := zookeeper.New(zookeeper.Config{
//		Endpoints: []string{"10.0.0.1:2181", "10.0.0.2:2181", "10.0.0.3:2181"}, Root: "pg/main",
//	})
//
// or, by URL, dcs.Open(ctx, "zookeeper://10.0.0.1:2181,10.0.0.2:2181,10.0.0.3:2181/pg/main", …).
// Open asks the store for the session timeouts that it grants and reads a key, so
// that a wrong address, certificate or password is detected at once. With
// wait=true it waits for a store that is down.
//
// # Mapping
//
// The key "leader" of the root "pg/main" is the node /pg/main/leader with the
// plain value. It is ephemeral if it is bound to a lease. Patroni, kazoo and zkCli
// read and write the same nodes. A Revision is a zxid, Created is the node's czxid
// (the fencing token) and Modified its mzxid.
//
// A lease is a ZooKeeper session of its own. A key can be bound to a lease only
// by the Store that was granted the lease. A Commit is one Multi. ZooKeeper
// cannot move a node to another session. To bind a key to another lease, or to
// none, its node is deleted and created again in the same Multi, and its token
// changes (Caps.Rebind is false).
//
// A Snapshot is read after a transaction of the quorum. A small tree is read
// until two readings prove its state between them. A large or busy one is read in
// a session of its own that watches it during the reading. A Get and the keys of
// a renewal are read after such a transaction, too. All Waits of a Store share
// one watch, which keeps a copy of the tree in memory: every node that an event
// names is read again, and no other. ZooKeeper 3.6 and later read many nodes in
// one request and watch a whole tree. With an older server a tree of thousands of
// keys takes about ten times as long.
//
// A parent that a Store makes has a value of its own, which distinguishes it from
// a key with an empty value. A parent that another program made, like kazoo's
// ensure_path, is recognised by the nodes that it has or had below it. Parents
// stay when the last key below them is deleted.
//
// A key below or above a stored one is ErrInvalid, with two exceptions. A key
// with an empty value looks like a parent that another program made, and a key
// below it hides it. A client that knows a node as a parent does not notice when
// another client makes a key of it.
//
// ZooKeeper compares a node's version, which begins at 0 again when a key is
// deleted and created. So every creation also writes one of sixteen nodes below
// /pg/main/.epoch, and every comparison compares that node's version, too. Other
// programs do not write these nodes. If another program deletes and creates a
// key, and writes it as often as it had been written before, all between a read
// and the Commit that is built on it, a condition on the key's revision does not
// detect the change. The bookkeeping of Commits (package dcs/attempt) lies below
// /pg/main/.op, bound to a session of this client. A client that only reads
// writes nothing. The node /pg/main/.store names the store. It is read on each
// new connection, so that servers of another ensemble are left out
// (docs/decisions/0027).
//
// # Granted times
//
// A session is granted for the requested TTL, limited by the servers'
// minSessionTimeout and maxSessionTimeout (2 and 20 ticks by default: 4 s and
// 40 s), which Open or the first Grant learns. The Renewal reports the granted
// time. A follower acknowledges its clients' requests before it has reported to
// the leader that these clients live: a key was gone 0.68 s after an acknowledged
// write, with a session of 2 s. A renewal therefore counts from a write that was
// answered more than a tick before the next one was sent on the same connection,
// and only if that next one was answered, too (P2). The first write that is answered
// on a connection proves the renewal that comes with the connection: a server grants a
// session to a new connection after the leader has renewed it (docs/decisions/0049). So
// a lease is kept although its connections break every tick. So that a renewal never
// lags, a lease writes once a tick (a check that changes nothing) for a third of its
// TTL after each renewal. Nothing else keeps the session: the client library's pings
// are not sent.
//
// A key is gone by the TTL, that third and three ticks after the last renewal
// (Renewal.Expiry), while the store keeps its leader. A new leader starts the
// time of every session again. The session of a lease that was not renewed for
// that time and one RetryTimeout is ended: Renew returns ErrUnavailable until
// ZooKeeper has confirmed the end, and ErrLost afterwards.
//
// ZooKeeper does not report its tick to clients. Config.Tick sets it. Otherwise
// it is taken for half the shortest session or a twentieth of the longest,
// whichever is longer, which is right, or safe, unless both minSessionTimeout and
// maxSessionTimeout were lowered.
//
// # Errors
//
// A failure that is not in this package's table leaves the outcome unknown: a
// broken connection, an unknown code and the like are ErrUnavailable, or
// ErrAmbiguous of a Commit or Grant that stays unresolved. A lease is ErrLost
// when a server reports that its session is over. That server has seen all that
// the session has, which excludes servers that lag behind. A refused certificate,
// and a node that the user may not read or write, are ErrUnauthorized. A Commit
// with a lease that another Store was granted is ErrInvalid. A server that closes
// a new connection before it grants a session, as one does at its
// maxClientCnxns, is tried last for a second and not ejected
// (docs/decisions/0030). While all servers refuse requests because these waited
// in their queues for too long (throttledOpWaitTime), the Store sends one request
// a second.
//
// # Endpoints
//
// The endpoints are the servers' client addresses. Calls go through one session
// at each server. It holds nothing and is not resumed when its connection breaks.
// A lease's session is at one server and moves when the Store leaves that server.
// Endpoints are judged by their answers. The Store leaves a server that is
// frozen, cut off, or behind a path that drops packets within a few times its
// usual latency, by sending a second copy to another one. Two such faults eject
// an endpoint until it has answered two requests to the quorum. Each address of a
// name is an endpoint. Names are looked up again when an endpoint fails, and every
// three RetryTimeouts, so that a server can be replaced under its name. A server
// that is given twice counts once.
//
// The client library (go-zookeeper) connects only when and where the Store wants
// a connection, and never again in a session that is over. By itself it would
// then make another session and send its queued requests in that.
//
// # Security
//
// TLS works with the system's or given authorities and with client certificates.
// Their files are read again for each connection. Digest credentials (user and
// password_file, or auth_file with several entries of any scheme) are given to
// every session. Their files are read again for each session and when a
// permission is denied. If changed files cannot be used, the last good ones stay
// in use and a warning reports the reason. ZooKeeper keeps the password's hash in
// the ACL of each node, so that a new password needs new ACLs: put the old and
// the new entry into auth_file during the change. ZooKeeper accepts wrong
// credentials without an error. The Store reads the root with them, if it is
// there, to detect them.
//
// The nodes that a user makes are accessible to that user alone, unless
// Config.ACL says otherwise. A user must have cdrw on the root and the nodes
// below it, c on the node above the root if the root is to be made, and r on "/",
// which the checks that change nothing read.
//
// # Known limits
//
// A value has at most 960 KiB, and so have all the values of a Txn together. That
// is jute.maxbuffer's default of 1 MiB for a packet, less the rest of the packet.
// The names below one node may have Config.MaxBuffer together (64 MiB), which
// other clients may be unable to read: ZooKeeper's own clients accept 1 MiB
// (jute.maxbuffer). While the servers elect a leader nothing works: a frozen
// leader is noticed after syncLimit ticks (10 s by default), and the election
// takes a second or so after that (docs/operations.md). Each session, so each
// lease and each endpoint, takes 2 MiB of buffers, mostly untouched memory.
// Deleting the bookkeeping by hand while programs run makes the epochs begin
// again, which has the same effect as writes of other programs. After a restore
// from a backup, and where the store was wiped, the program must open the Store
// again.
package zookeeper
