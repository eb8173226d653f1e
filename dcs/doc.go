// Package dcs provides leases, locks and member keys with the same meaning over
// every supported store. It is made for programs that elect a leader and must
// never have two. The name stands for distributed configuration store.
//
// A program opens a [Store] and starts a [Session] on it. The Session owns a
// lease and renews it. Acquiring a lock through the Session returns a [Hold]:
//
//	store, err := dcs.Open(ctx, "raft:///var/lib/app?id=a&…", dcs.Options{})
//	session, err := store.NewSession(ctx, dcs.SessionOptions{})
//	hold, err := session.Acquire(ctx, "leader", []byte("a"))
//	…
//	for hold.Valid() { … }
//
// The scheme of the URL selects the backend, whose package the program must
// import. Packages memstore and raftstore come with this module. The safety
// rules of the code are numbered (P1, P2, …) and explained in docs/protocol.md.
//
// # Guarantees
//
// Each guarantee is followed by the cases of the conformance suite (package
// conformance) that verify it for a backend.
//
//  1. One holder. No two Holds of one key are Valid at the same moment. This holds
//     across machines, and for any behaviour of the network, any failure of the
//     store's servers and any pause of a machine except those listed below
//     (Hold/OneWinner, Hold/DeadlineWithoutProof, Hold/LostIsFinal,
//     Lease/ExpiresInBounds).
//  2. Rising tokens. The [Hold.Token] of a lock is larger at every acquisition, also
//     after the key was deleted and created again (Hold/TokenRises).
//  3. Fenced writes. A Commit under a [Hold.Guard] succeeds only while that Hold's
//     incarnation of the lock exists. No write of an earlier holder is applied
//     after that (Txn/Guarded).
//  4. Three outcomes. Every call returns within its budget with a success, a
//     definite failure that a quorum has confirmed, or an error which states that
//     the outcome is unknown. It never reports one as another. A definite failure
//     is final, so that a write which was refused is never applied later
//     (Call/BudgetKept, Call/CtxCancelled, Reply/LostAfterCommit, Reply/LateWrite,
//     Reply/HedgedConflict, Reply/ConflictWithOneself).
//  5. Atomic writes. A [Txn] is applied as a whole and at one revision, or not at
//     all (Txn/AllOrNothing, Txn/ConcurrentCAS, Snapshot/Atomic).
//  6. Fresh reads. A Get or Snapshot that starts after a Commit has returned, on any
//     client, sees its writes (KV/ReadYourWrite, KV/LinearizableAcrossClients,
//     Snapshot/RevisionNeverFalls).
//  7. No missed state. [Store.Wait] and [Store.Watch] deliver the last state of a
//     tree, without polling, and never go backwards. A Wait since revision 0
//     returns a tree at once, empty or not (Wait/LastStateNeverMissed,
//     Wait/NeverBackwards, Wait/NotAPoll, Wait/SinceZero).
//  8. No early end. While a lease is renewed, no other client that goes through a
//     Backend can take a key bound to it. When the lease ends, exactly the keys
//     bound to it are removed (Lease/ExpiresInBounds, Txn/BindingIsAsWritten,
//     Txn/DeadLease).
//  9. Nothing left behind. A lock that an Acquire took after it had returned an
//     error is released. A Release deletes its own incarnation only
//     (Reply/LateYesIsReleased, Hold/StaleRelease).
//  10. One publisher a name. If two processes publish the same key, the first one is
//     notified, and they do not overwrite each other repeatedly (Hold/SameName).
//  11. Orderly shutdown. Close is bounded, later calls return [ErrClosed], and no
//     goroutine is left running (Close/Bounded, Close/CallsAfter,
//     Close/NoGoroutineLeft).
//
// # Not guaranteed
//
// Any amount of time can pass between a [Hold.Valid] that returned true and the
// next statement of the program. A resource outside the store is protected only
// if it rejects tokens smaller than the largest that it has seen, or if the
// holder stops in time by itself ([Hold.Remaining], [Hold.Done]). Writes to the
// store are fenced if they carry the Guard. For any other resource, the resource
// must check the token.
//
// An operator can delete a lock's key or end a lease with the store's own tools.
// The Hold then ends with its next renewal (Hold/ExternalDelete,
// Hold/ExternalTakeover). Its guarded writes fail from the deletion on.
//
// The clocks of a virtual machine stand still while its hypervisor pauses it.
// Afterwards [Hold.Valid] may return true until the next renewal, although another
// session holds the lock. A pause shorter than the deadline's margin, TTL/50 and at
// least 100 ms, does no harm. Against longer ones writes must be guarded, or the
// resource must compare tokens.
//
// A store that loses acknowledged data loses locks with it. Examples are a
// restored backup and the loss of most of the store's disks.
//
// # Time
//
// No decision reads a wall clock or compares clocks of two machines. An
// [Instant] is a reading of this machine's monotonic clock that also counts the
// time during which the machine was suspended.
//
// All durations derive from a [Timing]: TTL, LoopWait and RetryTimeout, by
// default 30 s, 10 s and 10 s. They must satisfy
// LoopWait + 2*RetryTimeout <= TTL. Shorter values may be used; only this rule
// and the store bound them from below.
//
//   - A Session renews its lease every min(LoopWait, TTL/3). A confirmed renewal
//     moves its deadline to From + TTL - max(TTL/50, 100 ms), where From is
//     never later than the sending of the request. The deadline moves back where
//     the store grants a shorter TTL than before (Hold/ShorterLife). At the
//     deadline the Session and its Holds end without a call to the store. An
//     answer that arrives later does not revive them
//     (Lease/FromNotLaterThanSend, Lease/LateAnswerRevivesNothing).
//   - A call has one budget: the smaller of its context's deadline and
//     RetryTimeout. Attempts, pauses and changes of server all spend from it.
//     Wait, Watch and Acquire have no budget and take as long as their context.
//   - A store may grant a TTL other than the requested one ([Caps.MinTTL],
//     [Caps.MaxTTL]). The [Renewal] reports it, and a Session refuses a grant
//     that breaks its Timing (Lease/GrantedIsReported).
//   - A Renewal's Expiry bounds how long the keys of a crashed holder remain,
//     and so how long a failover takes, while the store keeps its own leader.
//
// # Errors
//
// Every failed call returns one *[Error], whose Kind is a sentinel that states
// how the caller must react. Match it with [errors.Is]:
//
//	ErrNotFound      the key does not exist
//	ErrConflict      a condition failed and nothing was written; Current is the entry found
//	ErrLost          the lease or hold is gone: stop now
//	ErrExpired       the deadline passed without a confirmed renewal: act as for ErrLost
//	ErrReleased      the owner has released the lock or closed the session
//	ErrUnavailable   the outcome is unknown: try again; a holder goes on until its deadline
//	ErrAmbiguous     the outcome is unknown: the write may have been applied or may still be
//	ErrUnauthorized  the outcome is unknown: an operator must correct the credentials
//	ErrInvalid       an argument is wrong and nothing was sent
//	ErrClosed        the Store was closed
//
// ErrExpired, ErrAmbiguous and ErrUnauthorized match ErrUnavailable too. The
// first three are definite and require an answer of the quorum. An error that
// the backend did not classify is ErrAmbiguous for Commit and Grant, and
// ErrUnavailable for all other calls. A sentinel in an Error's cause never
// contradicts its Kind. A call that was cut short by its context matches the
// context's error as well. Wait, Watch and Acquire end with the bare error of
// the context while the store answers.
//
// [Store.Settle] determines the outcome of a Commit that failed with
// ErrAmbiguous. A Session settles its own writes in the background.
//
// # Keys
//
// One grammar applies to all backends. A key is printable ASCII, at most
// [MaxKey] bytes long. Its parts are separated by single slashes, with no slash
// before the first or after the last part. No part is "." or "..", and the first
// part does not begin with a dot. [CheckKey] reports violations
// (KV/HostileKeys). The backend puts a root of its own before every key.
//
// A key whose last part but one is "members", as in "pg/main/members/a", is a
// member key. Only a member key can be published and only another key can be
// acquired, so that a lock and a member key are never taken for each other
// ([CheckMemberKey], [CheckLockKey], Member/NotALock).
//
// A key must not have keys below it. [Txn.Check] verifies this within a Txn
// (Txn/Shape). Against the stored keys callers must ensure it themselves, because
// not every store can verify it. A Commit that violates it returns ErrInvalid
// with nothing written where the store can detect it. Where it cannot, both are
// stored, and neither hides, changes or removes the other (KV/NestedKeys).
//
// # Capabilities
//
// [Store.Caps] describes the differences between stores: the bounds of a TTL, of
// a value and of a Txn (KV/Limits), whether a key can move to another lease and
// keep its token (Lease/Rebind), and whether the store itself removes the keys of
// an expired lease. A Txn that exceeds a bound returns ErrInvalid with nothing
// sent.
//
// # Managers of a service
//
// A program that starts and stops a service with its lock needs more than Valid:
//
//   - [Session.TryAcquire] takes conditions: the lock is taken only while the
//     configuration is the one by which the program decided to lead. The
//     conflict's ConflictKey names the key that has changed (Hold/Conditions).
//   - [Hold.DoneBefore] is a channel that closes some time before the deadline, so
//     that a service that takes long to stop has stopped by then.
//     [Instant.Boottime] is the deadline for a child process or a watchdog.
//   - [SessionOptions].Gate lets the lock end by itself when the program's own
//     loop hangs.
//   - [Session.Abandon] ends a Session without freeing its locks, for a service
//     that could not be stopped. No other session can lead before the lease has
//     run out (Hold/AbandonedStays).
//   - [Session.Status] returns the last renewal's error and waits for changes.
//   - [Store.WaitMany] and [Store.WatchMany] follow several prefixes and keys with
//     one watch, and [Snapshot.Diff] returns the changes (Wait/Many).
//
// # Observing
//
// [Options] take a [log/slog.Logger] and an [Observer]. The Logger receives the
// events that an operator must know; an outage is two lines, not one a call. The
// Observer's callbacks receive every call with its server, outcome and duration,
// every change of server, every renewal, and every change of state. Values and
// secrets are passed to neither. Both receive their input from queues, so that a
// handler or a callback that blocks stops no call and no renewal. A callback may
// call any method, Close included ([Detached]).
//
// # Writing a backend
//
// A backend implements the seven methods of [Backend] and registers a [Driver].
// Store checks arguments, limits and the grammar before it calls a method, and
// passes a context with a deadline to every method except Wait. A backend must
// do the rest:
//
//   - It must report a success or a definite failure only with the word of a
//     quorum. It must leave every error that it does not know unclassified; Store
//     reports such an error as an unknown outcome.
//   - A Commit that gives up while a request may still be on its way must return
//     ErrAmbiguous. Reading back can prove that the write was applied, and never
//     that it will not be. Package attempt gives the Commit of any store that has
//     transactions exactly one of the three outcomes, and implements [Settler].
//   - A renewal counts only with evidence that the server which confirmed it spoke
//     for the quorum when it was sent (P2). Its From must not be later than the
//     sending (P1). Lease.Renew reads the given keys in the same round.
//   - Revisions must be totally ordered over all keys and over deletion and
//     re-creation. A value that is written again unchanged gets a new one
//     (Txn/SameValue, Txn/ReCreated, Txn/RevisionReturned). An empty store has a
//     revision above 0 (Wait/SinceZero).
//   - Bookkeeping keys must have a first part that begins with a dot, and must not
//     appear in Get, Snapshot or Wait (Txn/BookkeepingHidden).
//   - Each call must return by the context's deadline, and Close must end every
//     goroutine.
//   - Logs and events must go through the logger and the observer that [Detached]
//     returns, so that no handler delays an answer.
//   - A Renewal must carry the TTL that this renewal was granted, which may be
//     shorter than the TTL of the Grant (P3).
//   - A lease may end by the store's own clock, if the store begins to count when the
//     request arrives. The clock must not be set and must run like any other to within
//     2 percent. If it can be set, as the time of day can, a step forward ends leases
//     early (Clock/Stepped). If a restart of the store resets it, every live lease must
//     begin again with its whole TTL. No backend may compare it with the clock of a
//     client: From is the client's, and nothing else is.
//   - [Caps.SelfExpiry] must be true only if the keys of an expired lease are removed
//     although no client runs. If clients remove them, each client with a live lease
//     must do so for the leases of others, and Renewal.Expiry may assume one. The value
//     is for the user's information, and no decision depends on it.
//   - A Commit need not verify that no stored key lies above or below those that it
//     writes. It may store both, or refuse with ErrInvalid (KV/NestedKeys).
//   - Wait needs the RetryTimeout, which is the deadline of the context in the other
//     methods. A Driver finds it in Options.Timing, with the defaults filled in. A
//     constructor must take a Timing of its own, because New does not pass one on.
//
// Then run the suite: package conformance has a template of some ten lines. Directory
// examples/backend is a complete backend over a file that explains each step.
package dcs
