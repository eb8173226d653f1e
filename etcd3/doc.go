// Package etcd3 keeps leases, locks and member keys in etcd v3 (tested with 3.7
// and 3.5).
//
//	b, err := etcd3.New(etcd3.Config{
//		Endpoints: []string{"10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"}, Root: "pg/main",
//	})
//
// or, by URL, dcs.Open(ctx, "etcd3://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379/pg/main", …).
// Open reads from the store once, so that a wrong address, certificate or password
// is reported at once. With wait=true it waits for a store that is down.
//
// # Mapping
//
// The key "leader" of the root "pg/main" is etcd's key "/pg/main/leader". A
// Revision is etcd's, Created is its create_revision and Modified its mod_revision.
// A lease is an etcd lease under an id that the client chooses, so that a Grant can
// be repeated. A Commit is one transaction. A key can move to another lease and
// keeps its Created (Caps.Rebind). The bookkeeping of Commits (package dcs/attempt)
// lies below "/pg/main/.op/". It is bound to a lease of five minutes that this
// client renews, and revokes at Close. A client that only reads writes nothing. A
// Snapshot is one read of one revision. All Waits of a Store share one watch, which
// keeps a copy of the tree in memory.
//
// etcd cannot verify that a key has no keys below it. Txn.Check does within a
// transaction. A key below or above a stored one is stored like any other.
//
// # Leases
//
// etcd grants a TTL in whole seconds, at least one second. It raises a TTL that is
// shorter than one and a half times its election timeout; the Renewal has the TTL
// that was granted. The keys are deleted at most TTL + 1 s after the last renewal,
// because etcd looks for expired leases twice a second and revokes them by a log
// entry. A new leader of etcd restarts the TTL of every lease.
//
// A renewal counts only together with a linearizable read that was sent after it
// and came back in the same term of Raft (P2), because an etcd leader that was
// paused and resumes confirms renewals which its successor never sees. Both are
// sent at once, so that the read costs no time, and it reads the keys that the
// Session holds. A lease counts as lost only after two answers that it does not
// exist, under the same condition.
//
// # Errors
//
// An etcd error that this package does not list leaves the outcome open: "request
// timed out", "leader changed", "not a primary lessor" and the like are
// ErrUnavailable, or ErrAmbiguous if a Commit or Grant stays unclear. A lease is
// ErrLost only if the quorum has confirmed the loss. Credentials, permissions and
// certificates that every member refuses are ErrUnauthorized (docs/decisions/0030).
//
// A full store (the NOSPACE alarm) is ErrUnavailable with an error that names the
// remedy, and nothing was written. Renewals, reads and Release work, and so does every
// Commit that only deletes and names the revision of a key that it deletes. Calls
// succeed again as soon as the alarm is disarmed. etcd applies the write that
// crosses its quota although it answers with NOSPACE. Such a Commit is settled,
// and is a success if it was applied (docs/decisions/0024).
//
// # Endpoints
//
// Each member has a connection of its own, and no client library repeats a call
// unseen (docs/decisions/0007). A member is judged by its answers only. If it is
// frozen, cut off from its peers, or behind a path that drops packets, a second copy
// of the call goes to another member within a few times the usual latency. Two such
// failures eject the member until it has answered two requests to the quorum. The
// leader of etcd is preferred unless it is far away, because a renewal through a
// follower costs the servers four times the work. The members are discovered from
// etcd, unless discovery=false restricts the client to the configured ones.
// Configured members are always kept. Each address of a configured name is an endpoint.
// Names are looked up again when an endpoint fails, and every three RetryTimeouts, and a
// member that has several of the addresses counts once. The cluster of more than half of the
// configured members is used, and a member of another one is ejected
// (docs/decisions/0027). The watch moves to another member if a progress request is
// unanswered for min(2.5 s, RetryTimeout/4), or if the revision of the watch stays
// behind the revisions that other answers have named. A member that is cut off goes
// on answering with an old revision for seconds. While every member refuses requests
// because there are too many, a Store makes one call a second, of one or two requests, and
// ejects no member for it.
//
// # Security
//
// TLS with the system's or given authorities and client certificates, and user
// and password, which come from a file (password_file) and never from the URL.
// All files are read again, certificates and authorities for each connection and
// the password for each login. If changed files cannot be used, the last good
// ones stay in use and the reason is logged as a warning. An expired token is renewed
// inside the budget of the call that finds it expired, with one login for all calls
// that find it at the same time. Authentication can be switched on and off while
// clients run. A user needs readwrite on the prefix of the root, "/pg/main/", and
// nothing else.
//
// # Versions
//
// Use etcd 3.4.42, 3.5.28, 3.6.9 or a later release of these lines. Earlier ones have
// defects that no client can work around: a leader that hung revokes leases that were
// renewed at its successor (before 3.4.31 and 3.5.13), the renewal of a lease that is
// being revoked is confirmed (before 3.4.38, 3.5.23 and 3.6.5), and a paused member
// answers a linearizable read with old data (before 3.4.42, 3.5.28 and 3.6.9). With
// each of them a lock can be taken before the deadline of its holder; guarded writes
// fail then. The client reads the version of each server and logs its defects as a
// warning. On releases whose answers about a watch's progress are wrong or missing
// (before 3.4.31 and 3.5.13) the tree is read again instead, every min(2.5 s,
// RetryTimeout/4) and up to four times a second while other clients write.
//
// # Known limits
//
// A value has at most 1 MiB, and a Txn at most 120 conditions and writes. These are
// the limits of etcd's default settings, less the share of the bookkeeping. A Session
// can hold and publish more keys than that. Each renewal reads them in requests of
// 120, all in one term, and a move to a fresh lease, when renewals keep failing, takes
// 60 keys in a transaction. While etcd elects a leader every call fails, for its
// election timeout and up to twice that. RetryTimeout should be longer
// (docs/operations.md). After a restore from a backup revisions fall, and the program
// must open the Store again.
package etcd3
