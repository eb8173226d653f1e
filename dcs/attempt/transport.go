package attempt

import (
	"context"
	"errors"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// ErrNotSent is wrapped by a Send error that is definite. The copy wrote nothing and
// never will, because it was not sent, or because the store refused it before it could
// be applied. Any other error of Send leaves the outcome of the copy unknown: it may
// have been applied, or may still be.
//
// If an error wraps ErrNotSent and carries a kind (see [dcs.KindOf]), the store itself
// has refused the copy. The Commit then ends with that kind as soon as no other copy
// has an unknown outcome. Examples are ErrInvalid for a request that can never
// succeed, ErrUnauthorized, and ErrUnavailable for a full store. ErrClosed is the
// exception: the transport is closed, and the copy was not sent. An error without a
// kind also means that the copy was not sent, and another one is sent while the budget
// lasts.
var ErrNotSent = errors.New("the request was not sent, or the store refused it before applying it")

// ErrFull is wrapped by a Send error of a store that has no space for writes. It is not
// definite unless it wraps ErrNotSent too, because etcd applies the transaction that
// exceeds its quota and reports the failure afterwards. The error must carry a kind,
// which ends the Commit once the attempt is settled. A store that is full must still
// accept deletions, because the marker is then taken by deleting it (see
// [Marker.Remove]).
var ErrFull = errors.New("the store has no space left for writes")

// Transport is implemented by the author of a backend. It sends one transaction and
// makes one read. Both methods are called from several goroutines at once, and both
// must return when their context ends.
type Transport interface {
	// Send sends one copy of r, once. [Request.Whole] describes the transaction to
	// send. A client library must be kept from repeating requests by itself. If that
	// is not possible, set Options.Duplicates.
	Send(ctx context.Context, r Request) (Answer, error)

	// Read returns the existing entries of keys, in any order. The read must be
	// linearizable for each key, but need not be atomic over several. The keys may
	// be bookkeeping keys.
	Read(ctx context.Context, keys ...string) ([]dcs.Entry, error)
}

// Recaller is an optional interface of a Transport under Options.ModifiedOnly. It saves
// the read that resolves a condition on Created if a cached entry of the key is enough.
// A condition on a cached revision holds only while the key has not been written since,
// so that an outdated entry cannot cause a wrong write. If the condition fails, the
// entries are read.
type Recaller interface {
	// Recall returns the last observed entry of key, and whether there is one.
	Recall(key string) (dcs.Entry, bool)
}

// Marker is the reserved key by which copies exclude each other.
type Marker struct {
	// Key is a key in the backend's tree, below Options.Prefix.
	Key string
	// Create requests a marker that does not exist yet. Modified is 0 then.
	Create bool
	// Modified is the revision that the marker must have.
	Modified dcs.Revision
	// Nonce is the value to write to the marker.
	Nonce []byte
	// Remove requests the marker to be deleted instead of rewritten, under the same
	// condition, on a store that is full. No copy of the attempt finds the marker at
	// its revision afterwards.
	Remove bool
}

// Request is one physical transaction. It compares and rewrites the marker together
// with the caller's conditions and writes.
type Request struct {
	Marker Marker
	// Txn is the caller's. It is empty if the request concerns only the marker. With
	// Options.ModifiedOnly its conditions are all on Modified.
	Txn dcs.Txn
	// Copy counts the copies of one request from 0. A transport with several
	// endpoints should send copy n+1 to another one than copy n.
	Copy int
	// Hedge reports that the copy is sent while another one is unanswered.
	Hedge bool
	// Round counts the copies without the hedges from 0.
	Round int
}

// Whole returns the transaction that must be applied atomically. The marker's condition
// precedes all others (P9). The marker's put, which is bound to markerLease, or its
// deletion precedes all other writes. markerLease is the transport's own lease, if it
// binds its markers to one. It may be another lease than the Txn's.
func (r Request) Whole(markerLease dcs.LeaseID) dcs.Txn {
	var t dcs.Txn
	// P7: at most one copy ever finds the marker at this revision.
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

// Keys returns the keys that must be read for the Answer to a refusal. They are the
// marker and the keys of the conditions.
func (r Request) Keys() []string {
	keys := []string{r.Marker.Key}
	for _, c := range r.Txn.If {
		keys = append(keys, c.Key)
	}
	return keys
}

// Outcome is the answer of a store to one copy.
type Outcome uint8

const (
	// Unknown means that there is no answer. It is treated like an error with an
	// unknown outcome.
	Unknown Outcome = iota
	// Applied means that every condition held, and everything was written.
	Applied
	// Refused means that a condition failed, that of the marker or another one, and
	// nothing was written.
	Refused
	// LeaseLost means that the lease of the Txn is not live, and nothing was
	// written.
	LeaseLost
)

// Answer is a store's answer to one copy with its details.
type Answer struct {
	Outcome Outcome
	// Revision is, for Applied, the revision of the writes. It becomes the marker's
	// Modified.
	Revision dcs.Revision
	// Seen reports that Entries were read, in the refused transaction itself or after
	// it. Otherwise the Committer calls Read for them.
	Seen bool
	// Entries are the existing entries of [Request.Keys].
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
