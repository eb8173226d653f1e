// Package consul keeps leases, locks and member keys in Consul (tested with
// 1.22).
//
//	b, err := consul.New(consul.Config{
//		Endpoints: []string{"10.0.0.1:8500", "10.0.0.2:8500", "10.0.0.3:8500"}, Root: "pg/main",
//	})
//
// or, by URL, dcs.Open(ctx, "consul://10.0.0.1:8500,10.0.0.2:8500,10.0.0.3:8500/pg/main", …).
// Open reads a key and the minimum session TTL from the store, so that a wrong
// address, certificate or token is reported at once. With wait=true it waits for a
// store that is down.
//
// # Mapping
//
// The key "leader" of the root "pg/main" is Consul's key "pg/main/leader". A
// Revision is Consul's index, Created is the CreateIndex of a key (the fencing token)
// and Modified its ModifyIndex. A lease is a session with behavior=delete. A Commit is
// one transaction (/v1/txn). A key can move to another session and keeps its
// CreateIndex (Caps.Rebind). A put of a key that a session holds is sent as an unlock
// by that session. The client reads the session that holds a key if it does not know
// it, and Consul refuses a write that is based on an outdated session. Every put has
// random Flags, because Consul ignores a put that changes nothing. The bookkeeping of
// Commits (package dcs/attempt) lies below "pg/main/.op/". It is bound to a session of
// five minutes that this client renews, and destroys at Close. A client that only
// reads writes nothing. The key "pg/main/.store" identifies the store and its datacenter.
// It is read on each new connection, with the agent's datacenter if the key has one, so
// that servers of another store or datacenter are ejected (docs/decisions/0027). A
// Snapshot is one consistent read. All Waits of a Store share
// one blocking query, which keeps a copy of the tree in memory. Each answer to it is
// the whole tree, so that a tree above 32 KiB that changes all the time is read twice a
// second, and a Wait on it may return a change half a second later.
//
// Consul cannot verify that a key has no keys below it. Txn.Check does within a
// transaction. A key below or above a stored one is stored like any other.
//
// # Leases
//
// A session lives for at least its TTL, and Consul deletes its keys after twice that.
// The Renewal has both, as TTL and Expiry. The minimum TTL is the servers'
// session_ttl_min (10 s by default). Open learns it by requesting a shorter one, which
// the servers refuse. A Backend made by New starts with Config.MinTTL, and learns the
// servers' minimum when they refuse a Grant. The maximum is 24 h. A new leader of the
// servers restarts the TTL of every session.
//
// Renewals have no term, and a server that has lost the leadership still confirms them.
// A renewal counts only if a consistent read through the same endpoint was answered
// before the renewal was sent (P2). It then counts from its sending, or from one TTL
// after the sending of that read if this is earlier. The read of the last round is used,
// so that renewal and read are sent together. A session counts as lost only if the
// quorum confirms that it does not exist.
//
// Sessions have no health checks unless Config.Checks names some.
//
// Config.LockDelay is the time for which no session can lock a key after Consul ended
// the session that held it. The default is 1 ms. Consul's own default of 15 s protects
// holders that do not detect the loss of a lock, but a Hold does. If a session of another
// program held a key, the delay of that session applies and an Acquire waits for it.
//
// # Errors
//
// A Consul error that this package does not list leaves the outcome open: "No cluster
// leader", "rpc error", "rate limit exceeded" and the like are ErrUnavailable, or
// ErrAmbiguous if a Commit or Grant stays unclear. A lease is ErrLost only if the quorum
// has confirmed the loss. A token or certificate that every agent refuses is
// ErrUnauthorized, and so is a list from which Consul left keys out because the token
// lacks permissions. While every agent refuses requests because there are too many, a
// Store sends one a second (docs/decisions/0030). At an agent's limit on connections from
// one address (http_max_conns_per_client) a Store shares its connections among its calls,
// and renewals take precedence.
//
// # Endpoints
//
// The endpoints are the HTTP addresses of servers or agents. Each has connections of its
// own, and no client library repeats a request unseen. An endpoint is judged by its
// answers only. If it is frozen, cut off, or behind a path that drops packets, a second
// copy of the call goes to another endpoint within a few times the usual latency. Two
// such failures eject the endpoint until it has answered two requests to the quorum.
// Consul does not report the HTTP addresses of its servers, so that the configuration
// must list all of them, or names. Each address of a name is an endpoint. Names are
// looked up again when an endpoint fails, and every three RetryTimeouts. An agent that is
// configured with two addresses counts once, if the token may read it (agent:read).
//
// With several endpoints the sessions belong to a catalog node of their own,
// "holdfast-pg--main" for the root "pg/main". It is registered without health checks,
// because a session ends with its node, and Consul deregisters the node of a server
// that is frozen or dead after about ten seconds. With one endpoint, which usually is
// the agent on the same machine, the sessions belong to the agent's node and need no
// permission on another one. They end when that agent leaves or is deregistered, and a
// warning at Open states this. Config.Node selects another node in both cases. A node
// that the library registered belongs to one root, and another root cannot use it. A
// node that an operator registered may serve several roots.
//
// [Backend.Client] returns a client of Consul's own API, for uses such as the
// registration of services.
//
// # Security
//
// TLS with the system's or given authorities and client certificates, whose files
// are read again for each connection, and an ACL token from a file (token_file),
// which is read again when Consul refuses the token or denies it a permission. If
// changed files cannot be used, the last good ones stay in use and the reason is logged
// as a warning. The environment is read only on request (FromEnvironment, option env).
// A token needs these permissions, the least first:
//
//	key_prefix "pg/main/" { policy = "read" }         # to read only
//	key_prefix "pg/main/" { policy = "write" }        # instead, to write
//	session "holdfast-pg--main" { policy = "write" }  # to hold leases; the agent's node with one endpoint
//	node "holdfast-pg--main" { policy = "write" }     # to register that node, once
//
// Datacenter, Namespace and Partition are passed through to Consul. The latter two
// require Consul Enterprise.
//
// # Known limits
//
// A value has at most 368 KiB, and a Txn at most 60 conditions and writes. These are
// the limits of a transaction with Consul's default settings (512 KiB of JSON with
// values in base64, and 128 operations), less the share of the bookkeeping. While the
// servers elect a leader every call fails, for 2 to 4.3 s with raft_multiplier 1 and
// up to 20 s with Consul's default of 5. RetryTimeout should be longer
// (docs/operations.md). Consul forgets deletions after 15 minutes, and a Wait from an
// older revision returns at once. After a restore from a snapshot indexes fall, and
// the program must open the Store again.
package consul
