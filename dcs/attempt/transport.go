package attempt

import (
	"context"
	"errors"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// ErrNotSent is wrapped by a Send error that is definite: this copy wrote
// nothing and never will, because it never left, or because the store refused
// it before it could apply. Any other error of Send leaves the copy unclear:
// it may have been applied, or may still be.
//
// An error that wraps ErrNotSent and carries a kind (see [dcs.KindOf]) is the
// store's own refusal and ends the Commit with that kind, as soon as no other
// copy is unclear: ErrInvalid for what will never pass, ErrUnauthorized,
// ErrUnavailable for a full store. With ErrClosed, of a transport that is
// closed, or without a kind the copy never left; without a kind another one is
// sent while the budget lasts.
var ErrNotSent = errors.New("nothing was sent, or it was refused outright")

// ErrFull is wrapped by a Send error of a store that has no space for writes. It
// is not definite, unless it wraps ErrNotSent too: etcd applies the transaction
// that crosses its quota and refuses it afterwards. It must carry a kind, which
// ends the Commit once the attempt is settled. A store that is full must still
// accept deletions, because the marker is then won by deleting it (see
// [Marker.Remove]).
var ErrFull = errors.New("the store has no space left for writes")

// Transport is what the author of a backend writes: one transaction and one
// read. Both are called from several goroutines at once, and both must return
// when their context ends.
type Transport interface {
	// Send sends one copy of r, once: a client library that repeats requests
	// by itself must be told not to; where that cannot be, set
	// Options.Duplicates. How a transaction is to be built says
	// [Request.Whole].
	Send(ctx context.Context, r Request) (Answer, error)

	// Read returns the entries of those keys that exist, in any order. It is
	// linearizable for each key; together they need not be of one moment. The
	// keys may be bookkeeping keys.
	Read(ctx context.Context, keys ...string) ([]dcs.Entry, error)
}

// Recaller is an optional part of a Transport under Options.ModifiedOnly: it
// saves the read that resolves a condition on Created, where what was last seen
// of a key will do. A condition on a revision that was remembered holds only
// while the key has not been written since, so that nothing wrong can be
// applied; where it fails, the entries are read.
type Recaller interface {
	// Recall returns what was last seen of key, and whether anything was.
	Recall(key string) (dcs.Entry, bool)
}

// Marker is the reserved key that makes copies exclude each other.
type Marker struct {
	// Key is in the backend's tree, under Options.Prefix.
	Key string
	// Create asks for a marker that does not exist yet; Modified is 0 then.
	Create bool
	// Modified is the revision that the marker must have.
	Modified dcs.Revision
	// Nonce is the value to write into it.
	Nonce []byte
	// Remove asks for the marker to be deleted instead of rewritten, under the
	// same condition, on a store that is full. No copy of the attempt finds the
	// marker at its revision afterwards.
	Remove bool
}

// Request is one physical transaction: the marker is compared and rewritten
// together with the caller's conditions and writes.
type Request struct {
	Marker Marker
	// Txn is the caller's, empty when only the marker is concerned. With
	// Options.ModifiedOnly its conditions are all on Modified.
	Txn dcs.Txn
	// Copy counts the copies of one request from 0: a transport with several
	// endpoints sends copy n+1 to another one than copy n.
	Copy int
	// Hedge says that it is sent beside a copy that is unanswered.
	Hedge bool
	// Round counts the copies from 0 without the hedges.
	Round int
}

// Whole returns the transaction to apply atomically: the marker's condition
// before all others (P9), the marker's put, bound to markerLease, or its deletion
// before all other writes. The lease is the transport's own, if it keeps its
// markers by one; it may be another than the Txn's.
func (r Request) Whole(markerLease dcs.LeaseID) dcs.Txn {
	var t dcs.Txn
	// P7: at most one copy finds the marker at this revision, ever.
	t.If = append(t.If, dcs.ModifiedAt(r.Marker.Key, r.Marker.Modified))
	t.If = append(t.If, r.Txn.If...)
	if r.Marker.Remove {
		t.Then = append(t.Then, dcs.Delete(r.Marker.Key))
	} else {
		t.Then = append(t.Then, dcs.PutLeased(r.Marker.Key, r.Marker.Nonce, markerLease))
	}
	t.Then = append(t.Then, r.Txn.Then...)
	return t
}

// Keys returns what is to be read for a refusal's Answer: the marker and the
// keys of the conditions.
func (r Request) Keys() []string {
	keys := []string{r.Marker.Key}
	for _, c := range r.Txn.If {
		keys = append(keys, c.Key)
	}
	return keys
}

// Outcome is what a store answered to one copy.
type Outcome uint8

const (
	// Unknown is no answer; it is taken like an unclear error.
	Unknown Outcome = iota
	// Applied says that every condition held, and everything was written.
	Applied
	// Refused says that a condition failed, the marker's or another; nothing was
	// written.
	Refused
	// LeaseLost says that the lease of the Txn is not live; nothing was
	// written.
	LeaseLost
)

// Answer is a store's word on one copy.
type Answer struct {
	Outcome Outcome
	// Revision is, for Applied, that of the writes: the marker's new Modified.
	Revision dcs.Revision
	// Seen says that Entries were read, in the refused transaction itself or
	// after it. Without it they are asked for with Read.
	Seen bool
	// Entries are those of [Request.Keys] that exist.
	Entries []dcs.Entry
	// Endpoint names the server that answered, for errors.
	Endpoint string
}

// refused reports whether the store refused the copy.
func (a Answer) refused() bool { return a.Outcome == Refused || a.Outcome == LeaseLost }

func (a Answer) entry(key string) *dcs.Entry {
	for i := range a.Entries {
		if a.Entries[i].Key == key {
			return &a.Entries[i]
		}
	}
	return nil
}
