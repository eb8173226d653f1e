// Package attempt makes a Commit to a foreign store exactly one of yes, no and
// cannot tell. It is for authors of backends; users of package dcs do not need
// it.
//
// # The problem
//
// A write whose answer does not come has been done, or will be, or never was.
// Reading the key tells little: a write that is not there yet can land later
// (20 s later was measured), and a value that is there may be another's. Sending
// it again, which endpoints that fail make necessary, can do it twice. And a
// second copy that is answered "conflict" proves nothing while a first one is
// still out.
//
// # The solution
//
// Each Commit carries a marker: a reserved key of this store's client, compared
// and rewritten with a fresh nonce in the same transaction as the caller's
// conditions and writes. So of all copies, first one, hedges and retries, at
// most one lands, ever; whoever finds the nonce in the marker knows that it
// did; and whoever moves the marker to another nonce first knows that none will.
// The marker's revision is that of the writes, deletes included.
//
// In detail, by the numbers of docs/protocol.md:
//
//   - P7: a [Committer] has a few slots with a marker each, under random names
//     that are never used again, and one Commit in flight on each.
//   - P8: a marker is made by a transaction of its own, if absent, then read;
//     only then it is used. "The marker is absent" is never a condition of a
//     Commit, or its end would let a fence succeed after the Commit had landed.
//   - P9: the marker is judged before everything else. An own nonce is a yes,
//     whatever else failed; a marker that moved is never a conflict.
//   - P10: a conflict, or a dead lease, is a no only if every copy was answered
//     so or certainly never sent; else the marker is won first.
//   - P11: no is said with the marker won, never from reading. A marker that is
//     gone, or was made anew, proves that nothing will land any more, not that
//     nothing has: ErrAmbiguous with [dcs.Error].Fenced set. If every copy was
//     answered, though, nothing has landed: the marker is made anew and the
//     Commit goes on.
//   - P12: the slot of an unclear Commit serves only its settling, also after
//     ErrAmbiguous was returned. If no slot is free, one is settled first.
//   - P13: nothing is sent again but what the marker makes exclusive, and reads.
//   - P14: a lease that is not live is ErrLost; what was refused by all is
//     ErrUnavailable, not ErrAmbiguous.
//
// # Writing a Transport
//
// A backend gives two methods, [Transport].Send and Read, and passes on Commit
// and Settle:
//
//	func (b *Backend) Commit(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
//		return b.commits.Commit(ctx, t)
//	}
//
//	func (b *Backend) Settle(ctx context.Context, e *dcs.Error) (dcs.Revision, error) {
//		return b.commits.Settle(ctx, e)
//	}
//
// Send builds one physical transaction from [Request.Whole] and sends it, once,
// to one server. What it answers is:
//
//   - Applied, with the revision of the writes;
//   - Refused, where a condition failed. It is best to fetch the entries of
//     [Request.Keys] in the same transaction's failure branch and to set Seen;
//     else the Committer asks Read for them;
//   - LeaseLost, where the store refused the lease of the Txn;
//   - an error that wraps [ErrNotSent], where nothing was done and never will
//     be: no connection, no rights;
//   - an error that wraps [ErrFull], where the store has no space for writes and
//     may have applied the transaction that found so; where it certainly has not,
//     the error wraps ErrNotSent too;
//   - any other error for everything else. When in doubt, this one: a wrong
//     ErrNotSent or Refused makes a no of what may land.
//
// Whole's conditions stand in the order in which they must be judged, where the
// store tells which one failed. The marker may be bound to a lease of the
// transport's own, which the transport renews while it is open, so that
// markers of processes that died go away; it must not be the Txn's lease. The
// marker keys must be hidden from Get, Snapshot and Wait.
//
// A store that can only compare the revision of the last write sets
// [Options.ModifiedOnly]; one that is reached through something that repeats
// requests sets [Options.Duplicates].
//
// Everything happens within the deadline of the Commit's context. The last part
// of it is kept for settling ([Options.SettleReserve]); hedging is off unless
// [Options.HedgeAfter] says when, and [Options.Hedge] can limit it.
//
// The example of Committer has the smallest Transport; package memstore is a
// complete one, with a transport that loses, delays, repeats and reorders what
// it is given.
package attempt
