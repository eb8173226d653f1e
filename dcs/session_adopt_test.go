package dcs

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

// loseMarker makes the next Commit that matches report that the attempt cannot be
// applied any more and that its outcome is unknown. It is not applied.
func (c *client) loseMarker(fits func(Txn) bool) {
	c.hook(func() {
		c.onCommit = func(_ context.Context, t Txn, do func() (Revision, error)) (Revision, error) {
			if !fits(t) {
				return do()
			}
			c.hook(func() { c.onCommit = nil })
			return 0, &Error{Kind: ErrAmbiguous, Fenced: true}
		}
	})
}

func creates(t Txn) bool { return len(t.If) == 1 && t.If[0].Is == 0 && !t.Then[0].Delete }

// P11 and P17: a session releases a lock while an Update is ambiguous, and acquires the
// key again. The copy of that Acquire and its marker are lost. The incarnation that it
// reads back is the released one, which the pending Release deletes.
func TestP17NoAcquireWhileARemovalIsPending(t *testing.T) {
	for range 40 { // the two goroutines that wait for the key come in any order
		inTime(t, func(b *bench) {
			c, s := b.actor()
			h := b.hold(s, "leader")
			c.hook(func() { c.blocked = true })
			c.catch(anyTxn)
			b.is(h.Update(b.Context(), []byte("new")), ErrAmbiguous)
			b.is(h.Release(b.Context()), ErrAmbiguous)
			_, err := s.TryAcquire(b.Context(), "leader", nil)
			b.is(err, ErrUnavailable)
			c.loseMarker(creates)
			time.AfterFunc(time.Second, func() { c.hook(func() { c.blocked = false }) })
			again, err := s.Acquire(b.Context(), "leader", nil)
			if err != nil {
				b.is(err, ErrUnavailable) // the attempt whose copy was lost
				again, err = s.Acquire(b.Context(), "leader", nil)
			}
			b.must(err)
			if again.Token() <= h.Token() {
				b.Fatalf("token %d after %d: the released incarnation was adopted", again.Token(), h.Token())
			}
			time.Sleep(5 * time.Second)
			if e, _ := b.w.get("leader"); e.Created != again.Token() || !again.Valid() {
				b.Fatalf("valid: %v, the store has %+v", again.Valid(), e)
			}
			b.close(s)
		})
	}
}

// P17: a Release that waits for its key because an Update is ambiguous keeps every
// Acquire from the key.
func TestP17RemovalKeepsTheKey(t *testing.T) {
	inTime(t, func(b *bench) {
		_, s := b.actor()
		h := b.hold(s, "leader")
		update, err := s.claim(b.Context(), "leader")
		b.must(err)
		ctx, cancel := context.WithTimeout(b.Context(), time.Second)
		defer cancel()
		b.is(h.Release(ctx), ErrAmbiguous)
		s.mu.Lock()
		delete(s.claims, "leader") // as when the Update is settled
		early, pending := s.tryClaimLock("leader")
		s.claims["leader"] = update
		s.mu.Unlock()
		if early != nil || pending == nil {
			b.Error("an Acquire comes before the removal")
		}
		s.unclaim(update)
		<-h.removed
		b.must(b.claimed(s, "leader"))
		b.close(s)
	})
}

// P17: a Release that has failed keeps the key from TryAcquire and Acquire until
// the incarnation is gone, and no longer.
func TestP17RemovalEnds(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		var acquires atomic.Int64
		c.hook(func() {
			c.onCommit = func(_ context.Context, t Txn, _ func() (Revision, error)) (Revision, error) {
				if creates(t) {
					acquires.Add(1)
				}
				return 0, errDown()
			}
		})
		b.is(h.Release(b.Context()), ErrUnavailable)
		_, err := s.TryAcquire(b.Context(), "leader", nil)
		b.is(err, ErrUnavailable)
		if !errors.Is(err, errBusy) || acquires.Load() != 0 {
			b.Errorf("an Acquire began before the removal ended: %v", err)
		}
		b.is(b.claimed(s, "other"), nil) // other keys are free
		c.hook(func() { c.onCommit = nil })
		time.Sleep(5 * time.Second)
		again := b.hold(s, "leader")
		b.must(again.Release(b.Context()))
		b.valid(b.hold(s, "leader"), true)
		b.close(s)
	})
}

// claimed takes and ends the claim on a lock key.
func (b *bench) claimed(s *Session, key string) error {
	c, err := s.awaitClaim(b.Context(), key, s.tryClaimLock)
	if err == nil {
		s.unclaim(c)
	}
	return err
}

// P11: an entry that existed before the attempt was sent does not belong to the
// attempt, although it is bound to the attempt's lease.
func TestP11OlderIncarnationIsNotAdopted(t *testing.T) {
	for name, seen := range map[string]func(b *bench, s *Session){
		"committed": func(b *bench, s *Session) {
			_, err := s.store.Commit(b.Context(), Txn{Then: []Write{PutLeased("leader", nil, s.Lease())}})
			b.must(err)
		},
		"read": func(b *bench, s *Session) {
			_, err := b.w.apply(Txn{Then: []Write{PutLeased("leader", nil, s.Lease())}}, false)
			b.must(err)
			_, err = s.store.Get(b.Context(), "leader")
			b.must(err)
		},
		"in a snapshot": func(b *bench, s *Session) {
			_, err := b.w.apply(Txn{Then: []Write{PutLeased("leader", nil, s.Lease())}}, false)
			b.must(err)
			_, err = s.store.Snapshot(b.Context(), "")
			b.must(err)
		},
		"in a conflict": func(b *bench, s *Session) {
			_, err := b.w.apply(Txn{Then: []Write{PutLeased("leader", nil, s.Lease())}}, false)
			b.must(err)
			_, err = s.TryAcquire(b.Context(), "leader", nil)
			b.is(err, ErrConflict)
		},
		"in a renewal": func(b *bench, s *Session) {
			_, err := b.w.apply(Txn{Then: []Write{PutLeased("leader", nil, s.Lease())}}, false)
			b.must(err)
			s.mu.Lock()
			l := s.lease.Lease
			s.mu.Unlock()
			_, err = l.Renew(b.Context(), "leader")
			b.must(err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(b *bench) {
				c, s := b.actor()
				seen(b, s)
				c.loseMarker(creates)
				h, err := s.TryAcquire(b.Context(), "leader", nil)
				b.is(err, ErrConflict)
				if h != nil {
					b.Error("an entry that is not the attempt's was adopted")
				}
				b.close(s)
			})
		})
	}
}
