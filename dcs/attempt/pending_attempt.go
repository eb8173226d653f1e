package attempt

import (
	"bytes"
	"context"
	"slices"
	"sync/atomic"

	"github.com/holdfast-dcs/holdfast/dcs"
)

const nonceBytes = 16

// pendingAttempt is one attempt of a Commit. It holds all that is needed to send it
// and to settle it later.
type pendingAttempt struct {
	c          *Committer
	slot       *markerSlot
	txn        dcs.Txn
	key        string        // the first key of the transaction, for errors
	marker     Marker        // the marker in the copies
	abortNonce []byte        // the nonce that a fence writes to the marker (P11)
	settling   chan struct{} // held by the goroutine that settles
	done       *outcome      // nil while the outcome is unknown; guarded by settling

	found *dcs.Error  // the conflict or loss that a copy met, not definite by itself
	last  error       // the last failure, for the text of an error
	full  atomic.Bool // a copy was answered with ErrFull
}

func (c *Committer) newPendingAttempt(s *markerSlot, t dcs.Txn) (*pendingAttempt, error) {
	b, err := c.random(2 * nonceBytes)
	if err != nil {
		return nil, err
	}
	h := &pendingAttempt{
		c: c, slot: s, txn: clone(t),
		marker:     Marker{Key: s.key, Modified: s.modified, Nonce: b[:nonceBytes:nonceBytes]},
		abortNonce: b[nonceBytes:],
		settling:   make(chan struct{}, 1),
	}
	if len(t.Then) > 0 {
		h.key = t.Then[0].Key
	}
	return h, nil
}

// clone copies t, because a copy may be sent, and arrive, after its Commit has
// returned and the caller has changed its values. Absence is expressed in one form,
// which every store can check.
func clone(t dcs.Txn) dcs.Txn {
	t.If, t.Then = slices.Clone(t.If), slices.Clone(t.Then)
	for i, c := range t.If {
		if c.Is == 0 {
			t.If[i] = dcs.Absent(c.Key)
		}
	}
	for i := range t.Then {
		t.Then[i].Value = slices.Clone(t.Then[i].Value)
	}
	return t
}

// outcome is the result of an attempt, or the report that it is unknown.
type outcome struct {
	rev  dcs.Revision // the revision of the writes, if neither fail nor aborted is set
	fail *dcs.Error   // a definite failure that a copy met, or ErrAmbiguous
	// aborted reports a definite failure because a fence took the marker. why is
	// the last failure before that.
	aborted bool
	why     error
	removed bool // the fence took the marker by deleting it
}

// answer returns the results of the call op.
func (o *outcome) answer(h *pendingAttempt, op string) (dcs.Revision, error) {
	switch {
	case op == "Settle" && o.settlesAsConflict():
		// P11: a fence took the marker. The reason must not be matched, because
		// ErrConflict and ErrLost are the only definite kinds that a Settler returns.
		return 0, h.c.fail(op, h.key, dcs.ErrConflict, opaque(o.reason()))
	case o.fail != nil:
		e := *o.fail
		e.Op = op
		return 0, &e
	case o.aborted:
		return 0, h.c.fail(op, h.key, dcs.ErrUnavailable, o.why)
	}
	return o.rev, nil
}

// settlesAsConflict reports whether o is a definite failure for which Settle must
// return ErrConflict.
func (o *outcome) settlesAsConflict() bool {
	if o.fail == nil {
		return o.aborted
	}
	switch o.fail.Kind {
	case dcs.ErrConflict, dcs.ErrLost, dcs.ErrAmbiguous: //nolint:errorlint // compares the kind only
		return false
	}
	return true
}

// reason returns the error behind the definite failure o, or nil if there is none.
func (o *outcome) reason() error {
	if o.fail != nil {
		return o.fail
	}
	return o.why
}

// verdict is the meaning of an answer for an attempt.
type verdict uint8

const (
	undecided  verdict = iota // the answer decides nothing
	applied                   // the attempt was applied
	refused                   // this copy was refused, for the reason in pendingAttempt.found
	retry                     // this copy was refused although its conditions hold
	markerLost                // the marker is lost, and the attempt cannot be applied any more
	aborted                   // a fence of ours took the marker
)

// judge returns the meaning of a refusal. The marker is checked before every other
// condition and before the lease (P9).
func (h *pendingAttempt) judge(a Answer) (verdict, dcs.Revision) {
	if v, rev := h.judgeMarker(a); v != undecided {
		return v, rev
	}
	if e := h.refusal(a); e != nil {
		h.found = e
		return refused, 0
	}
	return retry, 0
}

// judgeMarker returns the meaning of the marker that a read found.
func (h *pendingAttempt) judgeMarker(a Answer) (verdict, dcs.Revision) {
	m := a.entry(h.marker.Key)
	switch {
	case m != nil && bytes.Equal(m.Value, h.marker.Nonce):
		return applied, m.Modified
	case m != nil && bytes.Equal(m.Value, h.abortNonce):
		return aborted, 0
	case m == nil || m.Modified != h.marker.Modified:
		return markerLost, 0
	}
	return undecided, 0
}

// refusal returns the conflict or loss behind a refusal with an untouched marker, or
// nil if there is none.
func (h *pendingAttempt) refusal(a Answer) *dcs.Error {
	if a.Outcome == LeaseLost {
		// P14: nothing was written, and nothing bound to that lease will be.
		e := h.c.fail("Commit", h.key, dcs.ErrLost, nil)
		e.Endpoint = a.Endpoint
		return e
	}
	for _, cond := range h.txn.If {
		entry := a.entry(cond.Key)
		if cond.Holds(entry) {
			continue
		}
		e := h.c.fail("Commit", cond.Key, dcs.ErrConflict, nil)
		e.ConflictKey, e.Current, e.Endpoint = cond.Key, entry, a.Endpoint
		return e
	}
	if h.c.o.ModifiedOnly || len(h.txn.If) == 0 {
		return nil
	}
	// The condition failed when it was checked, and held when it was read.
	cond := h.txn.If[0]
	e := h.c.fail("Commit", cond.Key, dcs.ErrConflict, nil)
	e.Current, e.Endpoint = a.entry(cond.Key), a.Endpoint
	return e
}

// copy sends one copy of the attempt.
func (h *pendingAttempt) copy(ctx context.Context, n position) event {
	r := n.request(h.marker, h.txn)
	if h.c.o.ModifiedOnly {
		if e := h.resolve(ctx, &r, n.copy == 0); e.unsent {
			return e
		}
	}
	return h.c.send(ctx, r)
}

// send sends r and reads the entries that explain a refusal, unless the transport has
// returned them. If the read fails, the event carries both the refusal and the
// failure.
func (c *Committer) send(ctx context.Context, r Request) event {
	ans, err := c.t.Send(ctx, r)
	switch {
	case err != nil:
		return event{err: err} // an Answer in addition to an error has no meaning
	case ans.Seen || !ans.refused():
		return event{ans: ans}
	}
	ans.Entries, err = c.t.Read(ctx, r.Keys()...)
	return event{ans: ans, err: err}
}

// resolve turns the conditions on Created into conditions on Modified, by a read that
// finds the incarnation. If it finds another one, the copy counts as refused and is
// not sent. If the read fails, the copy is not sent either. The first copy may use
// the transport's cache instead of a read.
func (h *pendingAttempt) resolve(ctx context.Context, r *Request, first bool) event {
	need := false
	for _, c := range h.txn.If {
		need = need || (c.On == dcs.Created && c.Is != 0)
	}
	if !need || first && h.recall(r) {
		return event{}
	}
	entries, err := h.c.t.Read(ctx, r.Keys()...)
	if err != nil {
		return event{err: err, unsent: true}
	}
	ans := Answer{Outcome: Refused, Seen: true, Entries: entries}
	conds := make([]dcs.Cond, len(h.txn.If))
	for i, c := range h.txn.If {
		e := ans.entry(c.Key)
		if c.On == dcs.Created && !c.Holds(e) {
			return event{ans: ans, unsent: true}
		}
		if c.On == dcs.Created && e != nil {
			c = dcs.ModifiedAt(c.Key, e.Modified)
		}
		conds[i] = c
	}
	r.Txn.If = conds
	return event{}
}

// recall resolves r's conditions from the transport's cache, if that holds every key
// of them with the required incarnation.
func (h *pendingAttempt) recall(r *Request) bool {
	recaller, ok := h.c.t.(Recaller)
	if !ok {
		return false
	}
	conds := slices.Clone(h.txn.If)
	for i, c := range conds {
		if c.On != dcs.Created || c.Is == 0 {
			continue
		}
		e, ok := recaller.Recall(c.Key)
		if !ok || e.Created != c.Is || e.Modified == 0 {
			return false
		}
		conds[i] = dcs.ModifiedAt(c.Key, e.Modified)
	}
	r.Txn.If = conds
	return true
}
