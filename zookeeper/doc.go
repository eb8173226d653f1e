// Package zookeeper keeps leases, locks and member keys in ZooKeeper (tested
// with 3.8; 3.5 and later have all that it uses).
//
//	b, err := zookeeper.New(zookeeper.Config{
//		Endpoints: []string{"10.0.0.1:2181", "10.0.0.2:2181", "10.0.0.3:2181"}, Root: "pg/main",
//	})
//
// or, by URL, dcs.Open(ctx, "zookeeper://10.0.0.1:2181,10.0.0.2:2181,10.0.0.3:2181/pg/main", …).
// Open asks the store for the sessions that it grants and for a key, so that a
// wrong address, certificate or password is found at once; with wait=true it
// waits for a store that is down.
//
// # Mapping
//
// The key "leader" of the root "pg/main" is the node /pg/main/leader with the
// plain value, ephemeral if it is bound to a lease: what Patroni, kazoo and
// zkCli read and write. A Revision is a zxid, Created the node's czxid (the
// fencing token) and Modified its mzxid. A lease is a session of its own, and a
// key can be bound to a lease only by the Store that was granted it. A Commit is
// one Multi. A node stays its session's: to bind a key to another lease, or to
// none, it is deleted and created again in the same Multi, and its token changes
// (Caps.Rebind is false). A Snapshot is read after a transaction of the quorum: a
// small tree until two readings prove how it was between them, a large or busy one
// in a session of its own that watches it meanwhile. A Get and the keys of a
// renewal are read after such a transaction, too. All Waits of a Store share one
// watch, which keeps a copy of the tree in memory: every node that an event names
// is read again, and no other. ZooKeeper 3.6 and later read many nodes in one
// request and watch a whole tree; with an older one a tree of thousands of keys
// takes about ten times as long.
//
// A parent that we make has a value of its own, by which it is told from a key
// with an empty value; one that others made, like kazoo's ensure_path, is told
// by the nodes that it has or had below it. Parents stay when the last key below
// them goes.
//
// A key below or above a stored one is ErrInvalid, with two exceptions. A key
// with an empty value looks like a parent that another program made, and a key
// below it hides it. A client that knew a node as a parent does not notice when
// another client makes a key of it.
//
// ZooKeeper compares a node's version, which begins at 0 again when a key is
// deleted and created. So every creation also writes one of sixteen nodes below
// /pg/main/.epoch, and every comparison compares that node's version, too. Other
// programs do not: where they delete and create a key, and write it as often as
// it had been written before, between our reading and our Commit, a condition on
// its revision does not notice. The bookkeeping of Commits (package dcs/attempt)
// lies below /pg/main/.op, bound to a session of this client's; who only reads
// writes nothing. The node /pg/main/.store names the store: it is read on each new
// connection, so that servers of another ensemble are left out
// (docs/decisions/0027).
//
// # What is granted
//
// A session is granted for what was asked, moved between the servers'
// minSessionTimeout and maxSessionTimeout (2 and 20 ticks by default: 4 s and
// 40 s), which Open or the first Grant learns. The Renewal says what holds. A
// server that follows acknowledges what its clients send without having told
// the leader that they live: a key was gone 0.68 s after an acknowledged write,
// with a session of 2 s. A renewal counts from a write that was answered more
// than a tick before the next one was sent, on the same connection, and answered
// too (P2). So that this never lags, a lease writes once a tick (a check that
// changes nothing) for a third of its TTL after each renewal. Nothing else keeps
// it: the client library's pings are not sent. A key is gone by the TTL, that
// third and three ticks after the last renewal (Renewal.Expiry), while the store
// keeps its leader; a new one starts every session anew. The session of a lease
// that was not renewed for that time and one RetryTimeout is ended: a Renew is
// ErrUnavailable meanwhile, and ErrLost afterwards.
//
// ZooKeeper tells clients no tick. Config.Tick says it; otherwise it is taken
// for half the shortest session or a twentieth of the longest, whichever is
// longer, which is right, or safe, unless both minSessionTimeout and
// maxSessionTimeout were lowered.
//
// # Errors
//
// What ZooKeeper said that is not in this package's table is "cannot tell": a
// broken connection, an unknown code and the like are ErrUnavailable, or
// ErrAmbiguous of a Commit or Grant that stays unclear. A lease is ErrLost when
// a server says that its session is over: one that has seen all that the session
// has, which excludes servers that lag behind. A refused certificate, and a node
// that the user may not read or write, are ErrUnauthorized. A lease that another
// Store was granted is ErrInvalid in a Commit. A server that closes a new
// connection before it grants a session, as one does at its maxClientCnxns, is
// asked last for a second and not ejected (docs/decisions/0030).
//
// # Endpoints
//
// The endpoints are the servers' client addresses. Calls go through a session at
// each, which holds nothing and is not taken up again when its connection
// breaks; a lease's session is at one server and is taken along when that is
// left. One is judged by what it answers: one that is frozen, cut off, or behind
// a path that drops packets is left within a few times its usual latency, by
// sending a second copy elsewhere; two such faults leave it out until it has
// answered two questions to the quorum. Each address of a name is an endpoint.
// Names are looked up again when an endpoint fails, and every three RetryTimeouts,
// so that a server can be replaced under its name. A server that is given twice
// counts once.
//
// The client library (go-zookeeper) connects only when and where it is told to,
// and never again in a session that is over: by itself it makes another session
// then, and sends in it what it had queued.
//
// # Security
//
// TLS with the system's or given authorities and client certificates, whose files
// are read again for each connection, and digest credentials (user and
// password_file, or auth_file with several entries of any scheme), which are given
// to every session. Their files are read again for each session and when a right
// is denied. If changed files cannot be used, the last good ones stay in use and a
// warning says why. ZooKeeper keeps the password's hash in the ACL of each node, so
// that a new password needs new ACLs: put the old and the new entry into auth_file
// while they change. ZooKeeper takes wrong ones without a word: the
// root is read with them, if it is there, to find out. What a user makes is
// accessible to that user alone, unless Config.ACL says otherwise. Needed are
// cdrw on the root and what is below it, c on the node above it where the root
// is to be made, and r on "/", which the checks that change nothing look at.
//
// # Known limits
//
// A value has at most 960 KiB, and so have all the values of a Txn together:
// what a packet takes with jute.maxbuffer's default of 1 MiB, less the rest. The
// names below one node may have Config.MaxBuffer together (64 MiB), which other
// clients may not read: those of ZooKeeper's own take 1 MiB (jute.maxbuffer).
// While the servers elect a leader nothing works: syncLimit ticks until a frozen
// one is noticed (10 s by default), and a second or so after that
// (docs/operations.md). Each session, so each lease and each endpoint, takes 2
// MiB of buffers, mostly untouched memory. Deleting the bookkeeping by hand
// while programs run makes the epochs begin anew, as if other programs had
// written.
package zookeeper
