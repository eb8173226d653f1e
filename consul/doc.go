// Package consul keeps leases, locks and member keys in Consul (tested with
// 1.22).
//
//	b, err := consul.New(consul.Config{
//		Endpoints: []string{"10.0.0.1:8500", "10.0.0.2:8500", "10.0.0.3:8500"}, Root: "pg/main",
//	})
//
// or, by URL, dcs.Open(ctx, "consul://10.0.0.1:8500,10.0.0.2:8500,10.0.0.3:8500/pg/main", …).
// Open asks the store for a key and for the shortest session that it grants, so
// that a wrong address, certificate or token is found at once; with wait=true
// it waits for a store that is down.
//
// # Mapping
//
// The key "leader" of the root "pg/main" is Consul's key "pg/main/leader". A
// Revision is Consul's index, Created its CreateIndex (the fencing token) and
// Modified its ModifyIndex; a lease is a session with behavior=delete. A Commit
// is one transaction (/v1/txn); a key moves to another session and keeps its
// CreateIndex (Caps.Rebind). A put of a key that a session holds is an unlock
// of that session's: who holds a key is read where it is not known, and Consul
// refuses what was built on old knowledge. Every put has random Flags, because
// Consul takes one that changes nothing for none. The bookkeeping of Commits
// (package dcs/attempt) lies below "pg/main/.op/", bound to a session of five
// minutes that this client renews and gives back at Close; who only reads
// writes nothing. The key "pg/main/.store" names the store: it is read on each new
// connection, so that servers of another store or datacenter are left out
// (docs/decisions/0027). A Snapshot is one consistent read. All Waits of a Store share
// one blocking query, which keeps a copy of the tree in memory. Each of its answers
// is the whole tree, so that a tree above 32 KiB that changes all the time is read
// twice a second, and a Wait on it may see a change half a second later.
//
// Consul cannot verify that a key has no keys below it. Txn.Check does within a
// transaction. A key below or above a stored one is stored like any other.
//
// # What is granted
//
// A session lives for at least the TTL that was asked for, and Consul removes
// its keys after twice that: the Renewal says both, as TTL and Expiry. The
// shortest TTL is the servers' session_ttl_min (10 s by default), which Open
// learns from the servers' refusal of a shorter one; a Backend that New made
// says Config.MinTTL, and learns it at the first Grant. The longest is 24 h. A
// new leader of the servers starts every session anew.
//
// Renewals know no term, and a server that leads no more confirms them all the
// same. A renewal counts only if a consistent read through the same endpoint was
// answered before it was sent (P2), and then from its sending, or from one TTL
// after that read's. The read of the last round serves, so that renewal and
// read go out together. That a session is gone is believed when the quorum says
// so.
//
// Sessions have no health checks unless Config.Checks names some.
//
// Config.LockDelay is how long nobody gets a key whose session Consul ended. It
// is 1 ms unless you say otherwise: Consul's own default of 15 s protects
// holders that do not know when they have lost, and ours do. A key that another
// program's session held has that session's delay: an Acquire waits for it.
//
// # Errors
//
// What Consul said that is not in this package's table is "cannot tell": "No
// cluster leader", "rpc error", "rate limit exceeded" and the like are
// ErrUnavailable, or ErrAmbiguous of a Commit or Grant that stays unclear. A
// lease is ErrLost only on the quorum's word. A token or certificate that every
// agent refuses is ErrUnauthorized, and so is a list from which Consul left keys
// out because of the token's rights. While every agent refuses requests because
// there are too many, a Store sends one a second (docs/decisions/0030). At an
// agent's limit on connections from one address (http_max_conns_per_client) a Store
// shares those that it has among its calls, the renewals first.
//
// # Endpoints
//
// The endpoints are the HTTP addresses of servers or agents, each with
// connections of its own; no client library tries again behind our back. One is
// judged by what it answers: one that is frozen, cut off, or behind a path that
// drops packets is left within a few times its usual latency, by sending a
// second copy elsewhere; two such faults leave it out until it has answered two
// questions to the quorum. Consul does not tell its servers' HTTP addresses:
// give all of them, or names. Each address of a name is an endpoint. Names are
// looked up again when an endpoint fails, and every three RetryTimeouts. An agent
// that is given twice counts once, if the token may read it (agent:read).
//
// With several endpoints the sessions belong to a catalog node of their own,
// "holdfast-pg--main" for the root "pg/main", registered without health checks:
// a session ends with its node, and Consul deregisters a server that is frozen
// or dead after about ten seconds. With one endpoint, which usually is the agent
// on the same machine, they belong to the agent's node and need no right on
// another one; they end when that agent leaves or is deregistered, which a
// warning at Open says. Config.Node chooses another node in both cases. A node
// that the library registered belongs to one root, and another root is refused
// there; one that an operator registered may serve several.
//
// [Backend.Client] returns a client of Consul's own API, for the registration of
// services and the like.
//
// # Security
//
// TLS with the system's or given authorities and client certificates, whose files
// are read again for each connection, and an ACL token from a file (token_file),
// which is read again when Consul refuses the token or denies it a right. If
// changed files cannot be used, the last good ones stay in use and a warning says
// why. Nothing is taken from the environment unless asked for (FromEnvironment,
// option env). A token needs these rights, least first:
//
//	key_prefix "pg/main/" { policy = "read" }         # to look on
//	key_prefix "pg/main/" { policy = "write" }        # instead, to take part
//	session "holdfast-pg--main" { policy = "write" }  # to hold leases; the agent's node with one endpoint
//	node "holdfast-pg--main" { policy = "write" }     # to register that node, once
//
// Datacenter, Namespace and Partition are passed through to Consul; the latter
// two are Consul Enterprise's.
//
// # Known limits
//
// A value has at most 368 KiB and a Txn 60 conditions and writes: what a
// transaction takes with its default settings (512 KiB of JSON with values in
// base64, and 128 operations), less what the bookkeeping needs. While the
// servers elect a leader nothing works: 2 to 4.3 s with raft_multiplier 1, and up
// to 20 s with Consul's default of 5, so that RetryTimeout should be longer
// (docs/operations.md). Consul forgets deletions after 15 minutes: a Wait from
// an older revision returns at once. A restore from a snapshot makes indexes
// fall, which no client can survive without a restart.
package consul
