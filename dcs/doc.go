// Package dcs is the contract that a program which decides who leads can stand
// on: leases, locks and member keys, with equal meaning over every store (dcs:
// distributed configuration store).
//
// A program opens a [Store], starts a [Session] on it, and acquires a lock,
// which makes a [Hold]:
//
//	store, err := dcs.Open(ctx, "raft:///var/lib/app?id=a&…", dcs.Options{})
//	session, err := store.NewSession(ctx, dcs.SessionOptions{})
//	hold, err := session.Acquire(ctx, "leader", []byte("a"))
//	…
//	for hold.Valid() { … }
//
// The store behind it is chosen by the URL's scheme and by importing the
// backend's package; packages memstore and raftstore come with this module.
// The rules by which the code keeps its promises have numbers (P1, P2, …) and
// are explained in docs/protocol.md.
//
// # What is guaranteed
//
// Each guarantee is followed by the cases of the conformance suite (package
// conformance) that prove it for a backend.
//
//  1. One holder. No two Holds of one key are Valid at one moment, on whatever
//     machines, whatever the network, the store's servers and the machines'
//     pauses do (Hold/OneWinner, Hold/DeadlineWithoutProof, Hold/LostIsFinal,
//     Lease/ExpiresInBounds).
//  2. Rising tokens. The [Hold.Token] of a lock is larger at every acquisition,
//     over deletion and re-creation of the key (Hold/TokenRises).
//  3. Fenced writes. A Commit under a [Hold.Guard] happens only while that Hold's
//     incarnation of the lock is there; nothing of an old holder's lands later
//     (Txn/Guarded).
//  4. Three answers. Every call comes back within its budget, with a yes, a no on
//     a quorum's word, or "cannot tell", and never takes one for another. A no
//     is final: what was refused never lands (Call/BudgetKept,
//     Call/CtxCancelled, Reply/LostAfterCommit, Reply/LateWrite,
//     Reply/HedgedConflict, Reply/ConflictWithOneself).
//  5. Atomic writes. All of a [Txn] happens, at one revision, or nothing of it
//     (Txn/AllOrNothing, Txn/ConcurrentCAS, Snapshot/Atomic).
//  6. Fresh reads. A Get or Snapshot that starts after a Commit returned, on any
//     client, sees it (KV/ReadYourWrite, KV/LinearizableAcrossClients,
//     Snapshot/RevisionNeverFalls).
//  7. No missed state. [Store.Wait] and [Store.Watch] deliver the last state of a
//     tree, without polling, and never go backwards; a Wait since revision 0
//     returns a tree at once, empty or not (Wait/LastStateNeverMissed,
//     Wait/NeverBackwards, Wait/NotAPoll, Wait/SinceZero).
//  8. No early end. While a lease is renewed, nobody else who goes through a
//     Backend can take a key bound to it; when it ends, exactly the keys bound
//     to it go (Lease/ExpiresInBounds, Txn/BindingIsAsWritten, Txn/DeadLease).
//  9. Nothing left behind. A lock that an Acquire took after it had returned an
//     error is given back; a Release deletes its own incarnation only
//     (Reply/LateYesIsReleased, Hold/StaleRelease).
//  10. A name is one member's. Of two processes that publish one key the first is
//     told, and neither overwrites the other again and again (Hold/SameName).
//  11. A clean end. Close is bounded, later calls say [ErrClosed], and no goroutine
//     is left (Close/Bounded, Close/CallsAfter, Close/NoGoroutineLeft).
//
// # What is not
//
// Between a [Hold.Valid] that said yes and what a program does next, any time
// can pass. A resource outside the store is protected only if it refuses
// smaller tokens than it has seen, or if the holder stops by itself in time
// ([Hold.Remaining], [Hold.Done]). Fencing is the resource's duty, unless the
// write goes through the store under the Guard.
//
// Somebody who deletes a lock's key or ends a lease with the store's own tools
// is not stopped. The Hold ends with its next renewal (Hold/ExternalDelete,
// Hold/ExternalTakeover); until then the former holder's guarded writes fail
// already.
//
// The clocks of a virtual machine stand still while its hypervisor pauses it.
// Afterwards [Hold.Valid] may return true until the next renewal, although another
// session holds the lock. A pause shorter than the deadline's margin, TTL/50 and at
// least 100 ms, does no harm. Against longer ones writes must be guarded, or the
// resource must compare tokens.
//
// A store that loses acknowledged data (a restored backup, most of its disks
// gone) loses locks with it.
//
// # Time
//
// No decision reads a wall clock or compares clocks of two machines. An
// [Instant] is a reading of this machine's monotonic clock and of the time that
// it was suspended.
//
// Everything follows from a [Timing]: TTL, LoopWait and RetryTimeout, by
// default 30 s, 10 s and 10 s, under the rule LoopWait + 2*RetryTimeout <= TTL.
// Shorter ones are welcome: minima are the store's and the rule's only.
//
//   - A Session renews its lease every min(LoopWait, TTL/3). A confirmed renewal
//     moves its deadline to From + TTL - max(TTL/50, 100 ms), where From is
//     never later than the sending of the request. The deadline moves back where
//     the store grants a shorter TTL than before (Hold/ShorterLife). At the
//     deadline the Session and its Holds are over by themselves, also while the
//     store does not answer; no answer that comes later revives them
//     (Lease/FromNotLaterThanSend, Lease/LateAnswerRevivesNothing).
//   - A call has one budget: the smaller of its context's deadline and
//     RetryTimeout. Attempts, pauses and changes of server all spend from it.
//     Wait, Watch and Acquire take as long as their context.
//   - What a store grants may differ from what was asked for ([Caps.MinTTL],
//     [Caps.MaxTTL]); the [Renewal] reports it, and a Session refuses a grant
//     that breaks its Timing (Lease/GrantedIsReported).
//   - A Renewal's Expiry bounds how long the keys of a holder that vanished stay:
//     how long a failover takes at most, while the store keeps its own leader.
//
// # Errors
//
// Every failed call returns one *[Error], whose Kind is a sentinel that names
// what the caller must do. Match it with [errors.Is]:
//
//	ErrNotFound      the key does not exist
//	ErrConflict      a condition failed, nothing was written; Current has what was found
//	ErrLost          the lease or hold is gone: stop now
//	ErrExpired       the deadline passed without proof: act as if lost
//	ErrReleased      its owner gave it up
//	ErrUnavailable   cannot tell: try again; a holder goes on until its deadline
//	ErrAmbiguous     cannot tell, and the write may have happened or may still
//	ErrUnauthorized  cannot tell, and an operator is needed
//	ErrInvalid       an argument is wrong, nothing was sent
//	ErrClosed        the Store was closed
//
// ErrExpired, ErrAmbiguous and ErrUnauthorized match ErrUnavailable too. The
// first three are a no, which only a quorum's word can produce; everything that
// nobody recognised is ErrAmbiguous for Commit and Grant and ErrUnavailable for
// all else. A sentinel in an Error's cause never contradicts its Kind. A call
// that its context cut short matches the context's error as well; Wait, Watch
// and Acquire end with that error alone while the store answers.
//
// An ErrAmbiguous Commit can be settled with [Store.Settle]. A Session settles
// its own writes in the background.
//
// # Keys
//
// One grammar for all backends: printable ASCII, at most [MaxKey] bytes, parts
// separated by single slashes, no "." or "..", nothing before the first or
// after the last part, and no first part that begins with a dot. [CheckKey]
// reports violations (KV/HostileKeys). The backend puts a root of its own before
// every key.
//
// A key whose last part but one is "members", as in "pg/main/members/a", is a
// member key. Only a member key can be published and only another key can be
// acquired, so that a lock and a member key are never taken for each other
// ([CheckMemberKey], [CheckLockKey], Member/NotALock).
//
// A key never has keys below it. [Txn.Check] verifies this within a Txn
// (Txn/Shape). Against the stored keys callers must keep it themselves, because
// not every store can verify it. A Commit that violates it returns ErrInvalid
// with nothing written where the store can detect it. Where it cannot, both are
// stored, and neither hides, changes or removes the other (KV/NestedKeys).
//
// # Capabilities
//
// [Store.Caps] says what differs between stores, as data: the bounds of a TTL,
// of a value and of a Txn (KV/Limits), whether a key can move to another lease
// and keep its token (Lease/Rebind), whether the store itself removes the keys
// of an expired lease. A Txn over a bound is ErrInvalid before anything is sent.
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
//     that could not be stopped: nobody else leads before the lease has run out
//     (Hold/AbandonedStays).
//   - [Session.Status] returns the last renewal's error and waits for changes.
//   - [Store.WaitMany] and [Store.WatchMany] follow several prefixes and keys with
//     one watch, and [Snapshot.Diff] returns the changes (Wait/Many).
//
// # Observing
//
// [Options] take a [log/slog.Logger], which receives what an operator needs to
// know (an outage is two lines, not one a call), and an [Observer], whose
// callbacks see every call with its server, outcome and duration, every change
// of server, every renewal, and every change of state. Neither sees values or
// secrets. Both receive what is queued for them, so that a handler or a callback
// that blocks stops no call and no renewal; a callback may call any method,
// Close included ([Detached]).
//
// # Writing a backend
//
// A backend implements the seven methods of [Backend] and registers a [Driver].
// Store has checked arguments, limits and the grammar before a method is
// called, and gives it a context with a deadline (Wait apart). What is left to
// the backend:
//
//   - Answer yes and no on a quorum's word only, and leave every error that you do
//     not know unclassified: Store makes it "cannot tell".
//   - A Commit that gives up while something may still be on its way is ErrAmbiguous.
//     Reading back proves a yes, never a no. Package attempt makes a Commit to
//     any store that has transactions exactly one of the three answers, and
//     implements [Settler] for it.
//   - A renewal counts only on evidence that whoever confirmed it spoke for the
//     quorum when it was sent (P2), and its From is never later than the sending
//     (P1). Lease.Renew reads the keys it is given in the same round.
//   - Revisions are totally ordered over all keys and over deletion and re-creation;
//     a value that is written again unchanged gets a new one (Txn/SameValue,
//     Txn/ReCreated, Txn/RevisionReturned). An empty store has a revision above 0
//     (Wait/SinceZero).
//   - Bookkeeping lives under first parts that begin with a dot, and never shows in
//     Get, Snapshot or Wait (Txn/BookkeepingHidden).
//   - Return by the context's deadline, and end every goroutine in Close.
//   - Log and report events through what [Detached] returns, so that no handler
//     blocks an answer.
//   - A Renewal carries the TTL that this renewal was granted, which may be shorter
//     than the Grant's (P3).
//
// Then run the suite: package conformance has a template of some fifteen lines.
package dcs
