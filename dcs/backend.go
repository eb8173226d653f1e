package dcs

import (
	"context"
	"sort"
	"time"
)

// Revision is a position in the one order of changes that a store keeps over
// all its keys, over deletion and over re-creation. Zero means "absent". The
// numbers are the store's own: compare them within one store's tree only.
type Revision uint64

// LeaseID names a lease within one store. The empty LeaseID means "no lease".
type LeaseID string

// Entry is one key with its value as it was read.
type Entry struct {
	// Key is the key in the grammar of [CheckKey], without the backend's root.
	Key string
	// Value is read-only: it may be shared with other readers.
	Value []byte
	// Created is the revision of the write that made the key exist. It stays
	// while the key exists; for a lock key it is the fencing token.
	Created Revision
	// Modified is the revision of the last write of the key, of a change of
	// its binding too.
	Modified Revision
	// Lease is the lease the key is bound to, or empty.
	Lease LeaseID
}

// Snapshot is a tree as it was at one moment.
type Snapshot struct {
	// Revision is the store's position. It is never 0, not even of an empty
	// store, and never falls between two Snapshots of one Store; equal content
	// may carry a larger one.
	Revision Revision
	// Entries are sorted by key. They are read-only and may be shared.
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

// Field says which revision of an entry a condition looks at.
type Field uint8

const (
	// Modified compares the revision of the last write.
	Modified Field = iota
	// Created compares the revision of the creation: the fencing token.
	Created
)

// String returns the field's name in lower case.
func (f Field) String() string {
	if f == Created {
		return "created"
	}
	return "modified"
}

// Cond is one condition of a Txn: the Field of Key is exactly Is. An absent
// key has 0 in both fields.
type Cond struct {
	Key string
	On  Field
	Is  Revision
}

// Absent holds when key does not exist.
func Absent(key string) Cond { return Cond{Key: key, On: Modified} }

// ModifiedAt holds when the last write of key was at r.
func ModifiedAt(key string, r Revision) Cond { return Cond{Key: key, On: Modified, Is: r} }

// CreatedAt holds while key is the incarnation that was created at token,
// however often it was rewritten since.
func CreatedAt(key string, token Revision) Cond { return Cond{Key: key, On: Created, Is: token} }

// Holds reports whether c holds for the entry of its key, or for a key that is
// absent where e is nil.
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

// Write is one write of a Txn. It states value and binding: a write with an
// empty Lease unbinds the key from whatever lease it was bound to.
type Write struct {
	Key    string
	Value  []byte
	Lease  LeaseID
	Delete bool
}

// Put writes value to key and unbinds it from any lease.
func Put(key string, value []byte) Write { return Write{Key: key, Value: value} }

// PutLeased writes value to key and binds it to the lease: the key goes when
// the lease ends.
func PutLeased(key string, value []byte, lease LeaseID) Write {
	return Write{Key: key, Value: value, Lease: lease}
}

// Delete removes key. Deleting an absent key succeeds.
func Delete(key string) Write { return Write{Key: key, Delete: true} }

// Txn is a set of conditions and the writes that happen, all of them and at
// one revision, when every condition holds.
//
// Then must not be empty, at most one lease may appear in it, no two writes
// may name one key, no two conditions may name one key, and no key of a Txn
// may lie below another one. [Txn.Check] says so before anything is sent. No key
// may lie below or above a stored one either. A store that can detect such a
// write refuses it with ErrInvalid.
type Txn struct {
	If   []Cond
	Then []Write
}

// Lease returns the lease that the writes of t are bound to, or empty.
func (t Txn) Lease() LeaseID {
	for _, w := range t.Then {
		if w.Lease != "" {
			return w.Lease
		}
	}
	return ""
}

// Renewal is what a confirmed grant or renewal of a lease promises.
type Renewal struct {
	// From is the instant the promise counts from: never later than the
	// moment the request was sent (P1).
	From Instant
	// TTL is what the store granted: for this long after From nobody else
	// who goes through a Backend can take a key bound to the lease.
	TTL time.Duration
	// Expiry is the longest the bound keys may stay, counted from when the
	// last renewal was answered or given up, while the store keeps its own
	// leader.
	Expiry time.Duration
	// Entries are the keys asked for that exist, read linearizably in the
	// same round, sorted by key.
	Entries []Entry
}

// Entry returns the entry of key, if the renewal read it and found it.
func (r Renewal) Entry(key string) (Entry, bool) {
	return Snapshot{Entries: r.Entries}.Get(key)
}

// Lease is the right to keep keys in a store for as long as it is renewed.
// A Lease keeps no deadline of its own: [Session] does.
type Lease interface {
	// ID names the lease; PutLeased binds keys to it.
	ID() LeaseID

	// Renew confirms the lease for another TTL and reads keys linearizably in
	// the same round. It counts only on evidence that whoever confirmed it
	// spoke for the quorum when it was sent (P2). ErrLost says on the
	// quorum's word that the lease is gone; every other failure is
	// ErrUnavailable and may be tried again. Safe for concurrent use, and to
	// repeat. A Renew that is answered late fails, or its From + TTL is true.
	Renew(ctx context.Context, keys ...string) (Renewal, error)

	// Revoke ends the lease and removes every key bound to it. Revoking a
	// lease that is gone succeeds. An unclear outcome is ErrUnavailable;
	// repeating it is safe.
	Revoke(ctx context.Context) error
}

// Caps says what a store can do: data, not excuses, which the conformance
// suite asserts. A bound of 0 is none.
type Caps struct {
	// MinTTL and MaxTTL bound what Grant can give; a request outside is moved
	// to the nearer one, and the Renewal reports what was granted.
	MinTTL, MaxTTL time.Duration
	// MaxValue is the longest value in bytes.
	MaxValue int
	// MaxTxnOps is the largest number of conditions plus writes in a Txn.
	MaxTxnOps int
	// MaxTxnBytes is the largest sum of key and value bytes in a Txn: every
	// condition and every write counts its key, a put its value too.
	MaxTxnBytes int
	// Rebind says that a put can move a key to another lease and keep its
	// Created. Without it a changed binding re-creates the entry.
	Rebind bool
	// SelfExpiry says that the store itself removes the keys of an expired
	// lease.
	SelfExpiry bool
}

// Backend is the contract a store implements, and what authors of other
// backends write; users hold a [Store] around it. It may assume valid
// arguments (Store checks them) and, Wait apart, a context with a deadline,
// by which every call must return. All methods are safe for concurrent use.
//
// Errors are *[Error] values whose Kind is one of the sentinels, or such a
// sentinel; anything else is taken as "cannot tell" by Store, and so is a
// definite answer that the method cannot give. Backend, Op and Key may be left
// empty: Store fills them in.
//
// New abilities come as optional interfaces, found through [Store.Unwrap]:
// [Settler], and Name() string for what errors, logs and events call the
// backend, which is its package's name otherwise. A backend that talks to
// several servers says which one answered with [AnsweredBy].
type Backend interface {
	// Get returns one entry, linearizable, or ErrNotFound on the quorum's word.
	Get(ctx context.Context, key string) (Entry, error)

	// Snapshot returns the key prefix itself and everything below it ("" =
	// the whole tree): atomic, linearizable, sorted.
	Snapshot(ctx context.Context, prefix string) (Snapshot, error)

	// Wait blocks until the tree under prefix moved past since, then returns
	// a newer Snapshot of it. It is level-triggered: steps between may be
	// skipped, the last state never is. Since revision 0 every tree has moved,
	// so Wait must return one at once, even where no key exists. While the
	// store answers, the context ends it with the context's bare error; a
	// store silent for RetryTimeout ends it with ErrUnavailable.
	Wait(ctx context.Context, prefix string, since Revision) (Snapshot, error)

	// Commit applies t atomically if all its conditions hold and returns the
	// revision of the writes. ErrConflict is a definite no, with Current
	// filled where the conflicting entry was read; ErrLost says that the
	// lease t binds to is not live, and that nothing was written (P14);
	// ErrAmbiguous says that the write may have happened, or may still.
	Commit(ctx context.Context, t Txn) (Revision, error)

	// Grant makes a lease. The TTL is moved into [MinTTL, MaxTTL]. The
	// Renewal's From is the sending of the first copy of the request (P1).
	// An unclear outcome is ErrAmbiguous: a lease nobody holds may exist
	// until it expires.
	Grant(ctx context.Context, ttl time.Duration) (Lease, Renewal, error)

	// Caps returns what the store can do. It does no I/O and never changes.
	Caps() Caps

	// Close ends every goroutine that the backend started and that is not
	// blocked in the kernel. It is idempotent and bounded. Calls under way and
	// later ones return ErrClosed, but a Commit or Grant of which something
	// had been sent: that is ErrAmbiguous, with ErrClosed as its cause.
	Close() error
}

// Settler is an optional interface of a Backend: it settles an ErrAmbiguous
// Commit for good.
type Settler interface {
	// Settle takes the *Error that an ambiguous Commit returned. It answers
	//
	//   - yes: the revision of the writes, and nil;
	//   - a no that is final, because the write can not land any more:
	//     ErrConflict, or ErrLost where the lease was found dead;
	//   - ErrAmbiguous again, when the budget did not allow either, with an
	//     *Error to settle later; one with Fenced set is the last word: the
	//     write can not land any more, but whether it had is unknown.
	//
	// Any other kind settles nothing.
	Settle(ctx context.Context, e *Error) (Revision, error)
}
