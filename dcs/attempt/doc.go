// Package attempt gives each Commit to a foreign store exactly one of three
// outcomes: applied, not applied, or unknown. It is for authors of backends. Users
// of package dcs do not need it.
//
// # The problem
//
// A write whose answer does not arrive may have been applied, may still be, or never
// will be. Reading the key proves little. A write that is not there yet can be applied
// later (20 s later was measured), and a value that is there may be that of another
// client. Sending the write again, which is necessary when endpoints fail, can apply it
// twice. A second copy that is answered with a conflict proves nothing while the first
// one is unanswered.
//
// # The solution
//
// Each Commit carries a marker. This is a reserved key of this store's client, which is
// compared and rewritten with a fresh nonce in the same transaction as the caller's
// conditions and writes. Of all copies, which are the first one, hedges and retries, at
// most one is therefore ever applied. A client that finds the nonce in the marker knows
// that one was applied. A client that rewrites the marker with another nonce before
// that knows that none ever will be. The marker's revision is that of the writes, also
// if they delete.
//
// In detail, by the numbers of docs/protocol.md:
//
//   - P7: a [Committer] has a few slots with a marker each, under random names that are
//     never used again, and one Commit in flight on each.
//   - P8: a marker is created by a transaction of its own, if absent, and then read. It
//     is used only after that. "The marker is absent" is never a condition of a Commit.
//     Otherwise the removal of the marker would let a fence succeed after the Commit
//     was applied.
//   - P9: the marker is checked before everything else. If it has the Commit's own
//     nonce, the Commit was applied, no matter which other conditions fail. A marker
//     that has changed is never a conflict.
//   - P10: a conflict, or a dead lease, is definite only if every copy was refused for
//     that or certainly never sent. Otherwise the marker is taken first.
//   - P11: a definite failure requires that a fence has taken the marker. A read is
//     never enough. A marker that is gone, or was created again, proves that the Commit
//     cannot be applied any more, but not that it was not applied. The error is then
//     ErrAmbiguous with [dcs.Error].Fenced set. If every copy was answered, however,
//     nothing was applied. The marker is then created again and the Commit goes on.
//   - P12: the slot of a Commit with an unknown outcome is used only to settle it, also
//     after ErrAmbiguous was returned. If no slot is free, one is settled first.
//   - P13: only requests that the marker makes exclusive, and reads, are sent again.
//   - P14: a lease that is not live is ErrLost. If every copy was refused, the error is
//     ErrUnavailable and not ErrAmbiguous.
//
// # Writing a Transport
//
// A backend implements two methods, Send and Read of [Transport], and forwards Commit
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
// Send builds one physical transaction from [Request.Whole] and sends it, once, to one
// server. It must return
//
//   - Applied, with the revision of the writes;
//   - Refused, if a condition failed. It should read the entries of [Request.Keys] in
//     the failure branch of the same transaction and set Seen. Otherwise the Committer
//     calls Read for them;
//   - LeaseLost, if the store refused the lease of the Txn;
//   - an error that wraps [ErrNotSent], if nothing was written and nothing ever will
//     be. Examples are a missing connection and missing permissions;
//   - an error that wraps [ErrFull], if the store has no space for writes and may have
//     applied the transaction with which it ran out. If it certainly has not, the error
//     must wrap ErrNotSent too;
//   - any other error in all other cases. When in doubt, Send must return this one,
//     because a wrong ErrNotSent or Refused reports a definite failure of a write that
//     may still be applied.
//
// The conditions of Whole are in the order in which the store must check them, if it
// reports which one failed. The marker may be bound to a lease of the transport's own,
// which the transport renews while it is open, so that the markers of processes that
// have crashed are removed. This must not be the Txn's lease. The marker keys must be
// hidden from Get, Snapshot and Wait.
//
// A store that can compare only the revision of the last write must set
// [Options.ModifiedOnly]. A store that is reached through a component that repeats
// requests must set [Options.Duplicates].
//
// All requests are sent within the deadline of the Commit's context. The last part of
// that time is reserved for settling ([Options.SettleReserve]). Hedging is off unless
// [Options.HedgeAfter] is set, and [Options.Hedge] can limit it.
//
// The example of Committer has the smallest possible Transport. Package memstore has a
// complete one, which can lose, delay, repeat and reorder requests.
package attempt
