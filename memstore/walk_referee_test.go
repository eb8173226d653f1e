package memstore

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// entryLog is one entry that a commit wrote, or tried to write.
type entryLog struct {
	key       string
	ambiguous *dcs.Error
	known     bool         // the answer is final
	rev       dcs.Revision // of a success
	no        error        // the definite failure
	fenced    bool         // it cannot be applied any more, and the caller does not know whether it was
	landed    bool         // whether the referee had seen it then
}

// tally counts the actions of a walk, so that a walk which does nothing fails.
type tally struct {
	steps, faults, yes, conflict, lost, refused, ambiguous, fenced, settled, holds, ended int
	virtual                                                                               time.Duration
}

func (t *tally) add(o tally) {
	t.steps += o.steps
	t.faults += o.faults
	t.yes += o.yes
	t.conflict += o.conflict
	t.lost += o.lost
	t.refused += o.refused
	t.ambiguous += o.ambiguous
	t.fenced += o.fenced
	t.settled += o.settled
	t.holds += o.holds
	t.ended += o.ended
	t.virtual += o.virtual
}

func (t *tally) String() string {
	return fmt.Sprintf("%d faults; commits: %d yes, %d conflict, %d lost, %d nothing written, %d ambiguous (%d settlings), %d fenced; %d holds, of which %d ended by themselves",
		t.faults, t.yes, t.conflict, t.lost, t.refused, t.ambiguous, t.settled, t.fenced, t.holds, t.ended)
}

// check fails a long walk that did not produce every possible answer.
func (t *tally) check(tb testing.TB) {
	if t.steps > 5000 && min(t.yes, t.conflict, t.lost, t.refused, t.ambiguous, t.fenced, t.settled, t.holds, t.ended) == 0 {
		tb.Errorf("the walk did not produce every answer: %s", t)
	}
}

// held is a Hold with the referee's knowledge of it.
type held struct {
	*dcs.Hold
	key     string
	tainted bool      // an outsider took the key or ended the lease, or may have
	robbed  time.Time // when an outsider took the key of this Hold
	over    bool      // the Hold was seen to have ended
}

// promise is the promise of the last renewal of a lease.
type promise struct {
	from  dcs.Instant
	until time.Time
}

// referee knows the true state of the server and compares the answers with it.
type referee struct {
	s       *Server
	noticed time.Duration // how long after a theft a Hold may be Valid at most

	mu       sync.Mutex
	faults   []string
	did      tally
	logs     []*entryLog
	holds    []*held
	tokens   map[string]dcs.Revision // per key, the highest one acquired
	promises map[dcs.LeaseID]promise
	exempts  map[dcs.LeaseID]bool
	taken    map[string]time.Time    // per key, when an outsider last took it from its holder
	values   map[string]dcs.Revision // every value that was applied
}

// newReferee allows a stolen Hold the budget of a renewal and the TTL. A renewal that
// began before the Hold existed is not checked against it (P5), but a copy of it that was
// sent after the theft may still extend the session.
func newReferee(s *Server, timing dcs.Timing) *referee {
	r := &referee{
		s: s, noticed: timing.RetryTimeout + timing.TTL, tokens: map[string]dcs.Revision{}, promises: map[dcs.LeaseID]promise{},
		exempts: map[dcs.LeaseID]bool{}, taken: map[string]time.Time{}, values: map[string]dcs.Revision{},
	}
	s.hooks = hooks{committed: r.landed, expired: r.expired}
	return r
}

func (r *referee) fault(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.faults) < 10 {
		r.faults = append(r.faults, fmt.Sprintf(format, args...))
	}
}

func (r *referee) count(n *int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*n++
}

// landed is called for every commit at the server, under its lock.
func (r *referee) landed(tree *root, t dcs.Txn, rev dcs.Revision) {
	for _, w := range t.Then {
		var key string
		var token dcs.Revision
		r.mu.Lock()
		r.values[string(w.Value)] = rev
		r.mu.Unlock()
		if strings.HasPrefix(w.Key, "log/") {
			if e, _ := tree.get(w.Key); e.Created != e.Modified {
				r.fault("%s landed twice: at %d and at %d", w.Key, e.Created, e.Modified)
			}
		}
		if n, _ := fmt.Sscanf(string(w.Value), "guarded %s %d", &key, &token); n != 2 {
			continue
		}
		if e, _ := tree.get(key); e.Created != token {
			r.fault("a write guarded by %s's token %d landed at %d, when the lock was at %d", key, token, rev, e.Created)
		}
	}
}

// answered records the answer of a Commit or Settle. It returns the error if that leaves
// the outcome unknown.
func (r *referee) answered(l *entryLog, rev dcs.Revision, err error) *dcs.Error {
	r.s.mu.Lock()
	_, landed := r.s.root("default").get(l.key)
	r.s.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if l.ambiguous == nil {
		r.logs = append(r.logs, l)
	}
	var e *dcs.Error
	switch {
	case err == nil:
		l.known, l.rev = true, rev
		r.did.yes++
		return nil
	case !errors.As(err, &e):
		r.faults = append(r.faults, fmt.Sprintf("%s: an error without a kind: %v", l.key, err))
		return nil
	case errors.Is(err, dcs.ErrAmbiguous):
		r.did.ambiguous++
		if l.fenced = e.Fenced; l.fenced {
			l.landed = landed
			r.did.fenced++
		}
		if e.Attempt == nil && !e.Fenced {
			r.faults = append(r.faults, fmt.Sprintf("%s: ambiguous, and nothing to settle: %v", l.key, err))
		}
		return e
	case l.ambiguous != nil && errors.Is(err, dcs.ErrUnavailable):
		return l.ambiguous // Settle has settled nothing
	}
	l.known, l.no = true, err
	switch {
	case errors.Is(e.Kind, dcs.ErrConflict):
		r.did.conflict++
	case errors.Is(e.Kind, dcs.ErrLost):
		r.did.lost++
	default:
		r.did.refused++
	}
	return nil
}

func (r *referee) highest(key string) dcs.Revision {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tokens[key]
}

// acquired records a Hold. before is the highest token that was known when the Hold was
// requested.
func (r *referee) acquired(key string, h *dcs.Hold, before dcs.Revision, asked time.Time) {
	if h.Token() <= before {
		r.fault("token %d of %s is not above %d", h.Token(), key, before)
	}
	r.mu.Lock()
	r.did.holds++
	r.tokens[key] = max(r.tokens[key], h.Token())
	for _, o := range r.holds {
		if o.key == key && o.Token() == h.Token() {
			r.faults = append(r.faults, fmt.Sprintf("token %d of %s was given twice", h.Token(), key))
		}
	}
	r.holds = append(r.holds, &held{Hold: h, key: key, tainted: !r.taken[key].Before(asked)})
	r.mu.Unlock()
	r.watchHolds()
}

// watch runs all checks at intervals.
func (r *referee) watch(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(150 * time.Millisecond):
			r.watchHolds()
		}
	}
}

// watchHolds checks that at most one Hold of every key is Valid, that a Valid Hold has its
// key, and that a Hold that has ended stays so.
func (r *referee) watchHolds() {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.mu.Lock()
	var found []string
	valid := map[string]*held{}
	tree := r.s.root("default")
	for _, h := range r.holds {
		if h.over {
			if h.Valid() || h.Err() == nil {
				found = append(found, fmt.Sprintf("a Hold of %s that was over is Valid again", h.key))
			}
			continue
		}
		if err := h.Err(); err != nil {
			h.over = true
			if !errors.Is(err, dcs.ErrReleased) {
				r.did.ended++
			}
		}
		if h.Valid() && !h.robbed.IsZero() && time.Since(h.robbed) > r.noticed {
			found = append(found, fmt.Sprintf("a Hold of %s is Valid %v after its key was taken away", h.key, time.Since(h.robbed)))
		}
		if !h.Valid() || h.tainted {
			continue
		}
		if o := valid[h.key]; o != nil {
			found = append(found, fmt.Sprintf("two Holds of %s are Valid: tokens %d and %d", h.key, o.Token(), h.Token()))
		}
		valid[h.key] = h
		if e, _ := tree.get(h.key); e.Created != h.Token() {
			found = append(found, fmt.Sprintf("a Hold of %s with token %d is Valid, the key is at %d", h.key, h.Token(), e.Created))
		} else if strings.HasPrefix(string(e.Value), "published") {
			found = append(found, fmt.Sprintf("a Hold of %s is Valid, and its key is published as %q", h.key, e.Value))
		}
	}
	r.mu.Unlock()
	for _, f := range found {
		r.fault("%s", f)
	}
}

// orphans checks, on a store that has had no faults for long enough, that every lock
// belongs to an actor that knows of it.
func (r *referee) orphans() {
	for _, k := range slices.Concat(walkKeys, []string{"own/a", "own/b"}) {
		r.s.mu.Lock()
		e, taken := r.s.root("default").get(k)
		if l := r.s.root("default").leases[e.Lease]; l != nil && l.over {
			taken = false // no client is there to remove the key (NoSelfExpiry)
		}
		r.s.mu.Unlock()
		known := false
		for _, h := range r.holds {
			known = known || (h.key == k && h.Token() == e.Created && h.Err() == nil)
		}
		if taken && !known {
			r.fault("%s is taken, with token %d, by a session that does not know it", k, e.Created)
		}
	}
}

// taint records that an outsider takes key from its holder, also if the holder does not
// know yet that it holds the key. Called under the server's lock.
func (r *referee) taint(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken[key] = time.Now()
	for _, h := range r.holds {
		if h.key == key && !h.over {
			h.tainted = true
			if h.robbed.IsZero() {
				h.robbed = time.Now()
			}
		}
	}
}

// untouched reports whether no outsider has taken key since then.
func (r *referee) untouched(key string, since time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.taken[key].Before(since)
}

// exempt records that an outsider ends a lease, or may end it.
func (r *referee) exempt(id dcs.LeaseID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exempts[id] = true
}

// promised records the promise of a Renewal (P1, P4): no other client can take a key that
// is bound to the lease before From + TTL.
func (r *referee) promised(id dcs.LeaseID, n dcs.Renewal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := promise{from: n.From, until: time.Now().Add(n.TTL - n.From.Elapsed())}
	old := r.promises[id]
	if p.from.Before(old.from) || !old.from.Before(p.from) && p.until.After(old.until) && !old.from.IsZero() {
		return // the one that was sent later counts, and of two with one From the shorter (P3)
	}
	r.promises[id] = p
}

func (r *referee) renewed(ev dcs.RenewalEvent) {
	if ev.Err == nil {
		r.promised(ev.Lease, ev.Renewal)
	}
}

// expired is called for every lease that expires, under the server's lock.
func (r *referee) expired(id dcs.LeaseID) {
	if r.s.root("default").leases[id].counted.IsZero() {
		return // a late copy of the Grant granted it again after it was revoked: no renewal has promised anything
	}
	if !r.mayBeLost(id) {
		r.fault("lease %s ended at the server before the From + TTL that was promised", id)
	}
}

// mayBeLost reports whether no promise contradicts the loss of lease id.
func (r *referee) mayBeLost(id dcs.LeaseID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.exempts[id] || !time.Now().Before(r.promises[id].until)
}

// final compares the answers with the state of the server, when no request is under way
// any more.
func (r *referee) final() {
	tree := map[string]dcs.Entry{}
	for _, e := range r.s.Entries("default") {
		tree[e.Key] = e
	}
	for _, l := range r.logs {
		e, landed := tree[l.key]
		switch {
		case l.no != nil && landed:
			r.fault("%s landed at %d after a definite no: %v", l.key, e.Created, l.no)
		case l.known && l.no == nil && e.Created != l.rev:
			r.fault("%s was answered yes at %d, and is at %d", l.key, l.rev, e.Created)
		case l.fenced && l.landed != landed:
			r.fault("%s landed at %d after it was said to be fenced", l.key, e.Created)
		case !l.known && !l.fenced:
			r.fault("%s is still ambiguous", l.key)
		}
	}
	for k, e := range tree {
		if e.Lease != "" || slices.Contains(walkKeys, k) {
			r.fault("%s is an orphan: %+v", k, e)
		}
	}
	for k := range tree {
		if k[0] == '.' {
			r.fault("marker %s was not swept", k)
		}
	}
}
