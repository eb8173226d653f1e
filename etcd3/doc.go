// Package etcd3 keeps leases, locks and member keys in etcd v3 (tested with 3.7
// and 3.5).
//
//	b, err := etcd3.New(etcd3.Config{
//		Endpoints: []string{"10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"}, Root: "pg/main",
//	})
//
// or, by URL, dcs.Open(ctx, "etcd3://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379/pg/main", …).
// Open asks the store one question, so that a wrong address, certificate or
// password is found at once; with wait=true it waits for a store that is down.
//
// # Mapping
//
// The key "leader" of the root "pg/main" is etcd's key "/pg/main/leader". A
// Revision is etcd's, Created its create_revision and Modified its
// mod_revision; a lease is etcd's, under an id that we choose, so that a Grant
// can be repeated. A Commit is one transaction; a key moves to another lease
// and keeps its Created (Caps.Rebind). The bookkeeping of Commits (package
// dcs/attempt) lies below "/pg/main/.op/", bound to a lease of five minutes
// that this client renews and gives back at Close; who only reads writes
// nothing. A Snapshot is one read of one revision. All Waits of a Store share
// one watch, which keeps a copy of the tree in memory.
//
// etcd cannot verify that a key has no keys below it. Txn.Check does within a
// transaction. A key below or above a stored one is stored like any other.
//
// # What is granted
//
// A lease has whole seconds, one at least, and etcd raises a TTL that is
// shorter than one and a half times its election timeout; the Renewal says to
// what. The keys are gone by TTL + 1 s after the last renewal: etcd looks twice
// a second, and ends a lease by a log entry. A new leader of the store starts
// every lease anew.
//
// A renewal is counted only together with a linearizable read that was sent
// after it and came back in the same term of Raft (P2): an etcd leader that was
// paused and goes on confirms renewals which its successor never sees. Both are
// sent at once, so that this costs nothing, and the read is of the keys that
// the Session holds. That a lease is gone is believed when said twice, under
// the same condition.
//
// # Errors
//
// What etcd said that is not in this package's table is "cannot tell":
// "request timed out", "leader changed", "not a primary lessor" and the like
// are ErrUnavailable, or ErrAmbiguous of a Commit or Grant that stays unclear.
// A lease is ErrLost only on the quorum's word. Credentials, rights and
// certificates that every member refuses are ErrUnauthorized
// (docs/decisions/0030).
//
// A full store (the NOSPACE alarm) is ErrUnavailable with an error that says so,
// and nothing was written. Renewals, reads and Release work, and so does every
// Commit that only deletes and names the revision of a key that it deletes. Calls
// succeed again as soon as the alarm is disarmed. etcd applies the write that
// crosses its quota although it answers with NOSPACE. Such a Commit is settled,
// and is a success if it was applied (docs/decisions/0024).
//
// # Endpoints
//
// Each member has a connection of its own; no client library tries again
// behind our back (docs/decisions/0007). A member is judged by what it answers:
// one that is frozen, cut off from its peers, or behind a path that drops
// packets is left within a few times its usual latency, by sending a second
// copy elsewhere; two such faults leave it out until it has answered two
// questions to the quorum. The member that leads etcd is preferred, because a
// renewal through another one costs the servers four times the work, unless it
// is far away. Members are learnt from etcd (discovery=false keeps to the ones
// given); those given are never forgotten. The cluster of more than half of the
// given members is used, and a member of another one is left out
// (docs/decisions/0027). The watch is left when it is
// silent for min(2.5 s, RetryTimeout/4) after a question, or when its view stays
// behind what other answers have named: a member that is cut off goes on
// answering with an old view for seconds.
//
// # Security
//
// TLS with the system's or given authorities and client certificates, and user
// and password, which come from a file (password_file) and never from the URL.
// All files are read again, certificates and authorities for each connection and
// the password for each login. If changed files cannot be used, the last good
// ones stay in use and a warning says why. A token that expired is renewed
// inside the budget of the call that finds out, with one login for all calls that
// find out at the same time. Authentication can be switched on and off while
// clients run. A user needs readwrite on the prefix of the root, "/pg/main/", and
// nothing else.
//
// # Versions
//
// Use etcd 3.4.42, 3.5.28, 3.6.9 or a later release of these lines. Earlier ones
// have defects that no client can make good: a leader that hung revokes leases
// that were renewed at its successor (before 3.4.31 and 3.5.13), the renewal of a
// lease that is being revoked is confirmed (before 3.4.38, 3.5.23 and 3.6.5), and a
// paused member answers a linearizable read with old data (before 3.4.42, 3.5.28
// and 3.6.9). With each of them a lock can be taken before the deadline of its
// holder; guarded writes fail then. Each server's version is asked, and the
// defects that it has are logged as a warning. On releases whose answers about a
// watch's progress are wrong or missing (before 3.4.31 and 3.5.13) the tree is read
// again instead, every min(2.5 s, RetryTimeout/4) and up to four times a second
// while other clients write.
//
// # Known limits
//
// A value has at most 1 MiB, a Txn 120 conditions and writes: what etcd takes
// with its default settings, less what the bookkeeping needs. A Session can hold
// and publish more keys than that: each renewal reads them in requests of 120, all
// in one term, and a move to a fresh lease, when renewals keep failing, takes 60
// keys in a transaction. While etcd elects
// a leader nothing works, for as long as its election timeout and up to twice
// that: RetryTimeout should be longer (docs/operations.md). After a restore
// from a backup revisions fall, which no client can survive without a restart.
package etcd3
