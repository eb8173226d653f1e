package dcs

import (
	"context"
	"sort"
	"time"
)

// Revision is a position in the total order of changes that a store keeps over all
// its keys, and over deletion and re-creation. Zero means "absent". Revisions must be
// compared within one store's tree only.
type Revision uint64

// LeaseID names a lease within one store. The empty LeaseID means "no lease".
type LeaseID string

// Entry is a key with its value as it was read.
type Entry struct {
	// Key is the key in the grammar of [CheckKey], without the backend's root.
	Key string
	// Value must not be modified, because other readers may share it.
	Value []byte
	// Created is the revision of the write that created the key. It stays the same
	// while the key exists. For a lock key it is the fencing token.
	Created Revision
	// Modified is the revision of the last write of the key. A change of its
	// binding is a write too.
	Modified Revision
	// Lease is the lease to which the key is bound, or empty.
	Lease LeaseID
}

// Snapshot is a tree at one moment.
type Snapshot struct {
	// Revision is the store's position. It is never 0, not even for an empty
	// store, and never falls between two Snapshots of one Store. Equal content may
	// have a larger one.
	Revision Revision
	// Entries are sorted by key. They may be shared and must not be modified.
	Entries []Entry
}

// Get returns the entry of key, if the snapshot holds it.
func (s Snapshot) Get(key string) (Entry, bool) {
	i := sort.Search(len(s.Entries), func(i int) bool { return s.Entries[i].Key >= key })
	if i < len(s.Entries) && s.Entries[i].Key == key {
		return s.Entries[i], true
	}
	return Entry{}, false
}

// Field selects the revision of an entry that a condition compares.
type Field uint8

const (
	// Modified compares the revision of the last write.
	Modified Field = iota
	// Created compares the revision of the creation, which is the fencing token.
	Created
)

// String returns the field's name in lower case.
func (f Field) String() string {
	if f == Created {
		return "created"
	}
	return "modified"
}

// Cond is a condition of a Txn. It holds if the Field On of Key is exactly Is. Both
// fields of an absent key are 0.
type Cond struct {
	Key string
	On  Field
	Is  Revision
}

// Absent returns the condition that key does not exist.
func Absent(key string) Cond { return Cond{Key: key, On: Modified} }

// ModifiedAt returns the condition that the last write of key was at r.
func ModifiedAt(key string, r Revision) Cond { return Cond{Key: key, On: Modified, Is: r} }

// CreatedAt returns the condition that key is the incarnation created at token, no
// matter how often it was rewritten since.
func CreatedAt(key string, token Revision) Cond { return Cond{Key: key, On: Created, Is: token} }

// Holds reports whether c holds for e, the entry of its key. A nil e means that the
// key is absent.
func (c Cond) Holds(e *Entry) bool {
	switch {
	case e == nil:
		return c.Is == 0
	case c.On == Created:
		return e.Created == c.Is
	default:
		return e.Modified == c.Is
	}
}

// Write is one write of a Txn. It sets both the value and the binding: a write with
// an empty Lease unbinds the key from any lease.
type Write struct {
	Key    string
	Value  []byte
	Lease  LeaseID
	Delete bool
}

// Put returns a Write of value to key that unbinds the key from any lease.
func Put(key string, value []byte) Write { return Write{Key: key, Value: value} }

// PutLeased returns a Write of value to key that binds the key to the lease. The key
// is removed when the lease ends.
func PutLeased(key string, value []byte, lease LeaseID) Write {
	return Write{Key: key, Value: value, Lease: lease}
}

// Delete returns a Write that removes key. Deleting an absent key succeeds.
func Delete(key string) Write { return Write{Key: key, Delete: true} }

// Txn is a set of conditions and of writes. If every condition holds, all the writes
// are applied at one revision.
//
// Then must not be empty. At most one lease may appear in it. No two writes and no
// two conditions may name the same key, and no key of a Txn may lie below another
// one. [Txn.Check] verifies this, and Commit does so before anything is sent. No key
// may lie below or above a stored one either. A store that can detect such a write
// refuses it with ErrInvalid.
type Txn struct {
	If   []Cond
	Then []Write
}

// Lease returns the lease to which the writes of t are bound, or empty.
func (t Txn) Lease() LeaseID {
	for _, w := range t.Then {
		if w.Lease != "" {
			return w.Lease
		}
	}
	return ""
}

// Renewal is the promise of a confirmed grant or renewal of a lease.
type Renewal struct {
	// From is the instant from which the promise counts. It is never later than
	// the sending of the request (P1).
	From Instant
	// TTL is the granted time to live. For this long after From no other client
	// that goes through a Backend can take a key bound to the lease.
	TTL time.Duration
	// Expiry is the longest time for which the bound keys may remain after the
	// answer to the last renewal, or after it was given up, while the store keeps
	// its own leader.
	Expiry time.Duration
	// Entries are the existing entries of the requested keys, sorted by key. They
	// were read linearizably in the same round.
	Entries []Entry
}

// Entry returns the entry of key, if the renewal read it and found it.
func (r Renewal) Entry(key string) (Entry, bool) {
	return Snapshot{Entries: r.Entries}.Get(key)
}

// Lease keeps the keys that are bound to it in a store for as long as it is renewed.
// It has no deadline of its own. A [Session] keeps one.
type Lease interface {
	// ID returns the name of the lease, to which PutLeased binds keys.
	ID() LeaseID

	// Renew confirms the lease for another TTL and reads keys linearizably in the
	// same round. It must count only evidence that the server which confirmed it
	// spoke for the quorum when the request was sent (P2). ErrLost reports, on the
	// word of the quorum, that the lease is gone. Any other failure is
	// ErrUnavailable and may be tried again. Renew must be safe for concurrent
	// use and for repetition. A Renew that is answered late must fail, or return a
	// From and TTL that are true.
	Renew(ctx context.Context, keys ...string) (Renewal, error)

	// Revoke ends the lease and removes every key bound to it. Revoking a lease
	// that is gone succeeds. If the outcome is unknown, Revoke returns
	// ErrUnavailable and may be repeated.
	Revoke(ctx context.Context) error
}

// Caps describes a store's limits and capabilities. The conformance suite verifies
// them. Zero means no limit.
type Caps struct {
	// MinTTL and MaxTTL bound the TTL of a Grant. A requested TTL outside is moved
	// to the nearer bound, and the Renewal reports the granted TTL.
	MinTTL, MaxTTL time.Duration
	// MaxValue is the greatest length of a value in bytes.
	MaxValue int
	// MaxTxnOps is the largest number of conditions plus writes in a Txn.
	MaxTxnOps int
	// MaxTxnBytes is the largest sum of bytes in a Txn. It counts the key of every
	// condition and write, and the value of every put.
	MaxTxnBytes int
	// Rebind reports that a put can move a key to another lease and keep its
	// Created. Without it, a changed binding re-creates the entry.
	Rebind bool
	// SelfExpiry reports that the store itself removes the keys of an expired
	// lease. Without it the keys stay until a client removes them, so that they
	// outlive Renewal.Expiry while no client runs.
	SelfExpiry bool
}

// Backend is the interface that a store implements. Programs use a [Store] around it.
// A Backend may assume that Store has checked the arguments, and that the context has
// a deadline, except in Wait. Every call must return by that deadline. All methods
// must be safe for concurrent use.
//
// Errors must be *[Error] values whose Kind is one of the sentinels, or such a
// sentinel itself. Store reports any other error as an unknown outcome, and also a
// definite kind that the method cannot return. Backend, Op and Key may be left empty,
// because Store fills them in.
//
// Optional interfaces are found through [Store.Unwrap]. One is [Settler]. Another is
// a method Name() string, which returns the backend's name for errors, logs and
// events; the default is the name of its package. A backend that uses several servers
// should call [AnsweredBy] with the one that answered.
type Backend interface {
	// Get returns one entry, read linearizably. ErrNotFound requires the word of
	// the quorum.
	Get(ctx context.Context, key string) (Entry, error)

	// Snapshot returns the entry of prefix itself and of every key below it. The
	// empty prefix is the whole tree. The result must be atomic, linearizable and
	// sorted.
	Snapshot(ctx context.Context, prefix string) (Snapshot, error)

	// Wait blocks until the tree under prefix has changed since the given revision
	// and returns a newer Snapshot of it. It is level-triggered: it may skip
	// states in between, and must not miss the last state. Since revision 0 every
	// tree has changed, so Wait must then return one at once, even if no key
	// exists. When ctx ends while the store answers, Wait must return the bare
	// error of ctx. If the store is silent for RetryTimeout, it must return
	// ErrUnavailable.
	Wait(ctx context.Context, prefix string, since Revision) (Snapshot, error)

	// Commit applies t atomically if all its conditions hold and returns the
	// revision of the writes. ErrConflict reports that a condition failed and
	// nothing was written; Current is the conflicting entry if it was read.
	// ErrLost reports that the lease to which t binds is not live and that nothing
	// was written (P14). ErrAmbiguous reports that t may have been applied or may
	// still be.
	Commit(ctx context.Context, t Txn) (Revision, error)

	// Grant grants a lease. Its TTL is moved into the range from Caps.MinTTL to
	// MaxTTL. The Renewal's From is the sending of the first copy of the request
	// (P1). If the outcome is unknown, Grant returns ErrAmbiguous, and a lease
	// without an owner may exist until it expires.
	Grant(ctx context.Context, ttl time.Duration) (Lease, Renewal, error)

	// Caps returns the store's limits and capabilities. It does no I/O, and the
	// result must not change.
	Caps() Caps

	// Close ends every goroutine that the backend started and that is not blocked
	// in the kernel. It is idempotent and bounded. Calls under way and later ones
	// return ErrClosed. A Commit or Grant of which something was sent returns
	// ErrAmbiguous with ErrClosed as its cause instead.
	Close() error
}

// Settler is an optional interface of a Backend. It determines the outcome of an
// ErrAmbiguous Commit.
type Settler interface {
	// Settle takes the *Error that an ambiguous Commit returned. It returns
	//
	//   - the revision of the writes and nil if the Commit was applied;
	//   - ErrConflict, or ErrLost if the lease was found dead, if the Commit was
	//     not applied and cannot be applied any more;
	//   - ErrAmbiguous if the budget was too short for either. Its *Error can be
	//     settled later. If its Fenced is set, the result is final: the Commit
	//     cannot be applied any more, and it is unknown whether it was.
	//
	// After any other kind of error the outcome is still open.
	Settle(ctx context.Context, e *Error) (Revision, error)
}
