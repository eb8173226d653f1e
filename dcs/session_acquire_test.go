package dcs

import (
	"context"
	"errors"
	"testing"
	"time"
)

// A Session never has two Holds of one key, also if the key was deleted with other
// tools and no renewal has detected that yet.
func TestOneHoldOfAKey(t *testing.T) {
	inTime(t, func(b *bench) {
		_, s := b.actor()
		h := b.hold(s, "leader")
		_, err := b.w.apply(Txn{Then: []Write{Delete("leader")}}, false)
		b.must(err)
		_, err = s.TryAcquire(b.Context(), "leader", nil)
		b.is(err, ErrConflict)
		_, err = s.Acquire(b.Context(), "leader", nil)
		b.is(err, ErrConflict)
		b.valid(h, true)
		b.is(h.Confirm(b.Context()), ErrLost)
		next := b.hold(s, "leader")
		b.must(next.Confirm(b.Context()))
		b.close(s)
	})
}

// P11: the token of a lock that was read back is its Created, although its value was
// rewritten meanwhile.
func TestP11TokenOfAReadBackLock(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		var created Revision
		c.hook(func() {
			c.onCommit = func(_ context.Context, _ Txn, do func() (Revision, error)) (Revision, error) {
				c.hook(func() { c.onCommit = nil })
				var err error
				created, err = do()
				b.must(err)
				_, err = b.w.apply(Txn{Then: []Write{PutLeased("leader", []byte("rewritten"), s.Lease())}}, false)
				b.must(err)
				return 0, &Error{Kind: ErrAmbiguous, Fenced: true}
			}
		})
		h, err := s.TryAcquire(b.Context(), "leader", nil)
		b.must(err)
		if h.Token() != created {
			b.Errorf("token %d of a lock created at %d", h.Token(), created)
		}
		b.must(h.Confirm(b.Context()))
		b.close(s)
	})
}

// P17: an ambiguous Acquire without anything to settle ends the session before
// the call returns, also on a store that is a Settler.
func TestP17AcquireWithoutAnAttemptToSettle(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		c.unsettleable(anyTxn)
		_, err := s.TryAcquire(b.Context(), "leader", nil)
		b.is(err, ErrExpired)
		b.is(s.Err(), ErrExpired)
		b.close(s)
	})
}

// handing is a client whose Settle returns a new attempt at each call, until last is
// settled.
type handing struct {
	*client
	last  int
	final error
	asked []any
}

func (s *handing) Settle(_ context.Context, e *Error) (Revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, e.Attempt)
	n, _ := e.Attempt.(int)
	if n == s.last {
		return 0, s.final
	}
	return 0, &Error{Kind: ErrAmbiguous, Attempt: n + 1}
}

func (b *bench) handing(final error) (*handing, *Session) {
	b.Helper()
	c := &handing{client: &client{w: b.w}, last: 3, final: final}
	s := b.session(c)
	c.onCommit = func(context.Context, Txn, func() (Revision, error)) (Revision, error) {
		c.hook(func() { c.onCommit = nil })
		return 0, &Error{Kind: ErrAmbiguous, Attempt: 1}
	}
	return c, s
}

// A Session settles the attempt that the last Settle returned, and does not return it
// to the caller.
func TestSettlingGoesOnWithTheLastAnswer(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.handing(&Error{Kind: ErrConflict})
		_, err := s.TryAcquire(b.Context(), "leader", nil)
		b.is(err, ErrAmbiguous)
		var e *Error
		if !errors.As(err, &e) || e.Attempt != nil {
			b.Errorf("the caller gets an attempt that the session settles: %+v", e)
		}
		time.Sleep(5 * time.Second)
		c.hook(func() {
			if len(c.asked) != 3 || c.asked[0] != 1 || c.asked[1] != 2 || c.asked[2] != 3 {
				b.Errorf("asked to settle %v, want 1, 2 and 3", c.asked)
			}
		})
		b.hold(s, "leader")
		b.close(s)
	})
}

// P17: an Acquire whose settling turns out to be impossible ends the session.
func TestP17AcquireThatCannotBeSettledAfterAll(t *testing.T) {
	inTime(t, func(b *bench) {
		_, s := b.handing(errors.ErrUnsupported)
		_, err := s.TryAcquire(b.Context(), "leader", nil)
		b.is(err, ErrAmbiguous)
		time.Sleep(5 * time.Second)
		b.is(s.Err(), ErrExpired)
		b.close(s)
	})
}

// Acquire waits from the revision at which the holder's entry was seen.
func TestAcquireWaitsFromTheConflict(t *testing.T) {
	inTime(t, func(b *bench) {
		a, c := b.plain(), &settling{client: &client{w: b.w}}
		o := b.session(c)
		b.hold(a, "leader")
		ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
		defer cancel()
		_, err := o.Acquire(ctx, "leader", nil)
		b.is(err, context.DeadlineExceeded)
		c.hook(func() {
			if c.waits != 1 {
				b.Errorf("%d waits for one change", c.waits)
			}
		})
		b.close(a)
		b.close(o)
	})
}

// A holder's entry that the conflict carries is not read again.
func TestNamedHolderIsNotReadAgain(t *testing.T) {
	inTime(t, func(b *bench) {
		a, c := b.plain(), &settling{client: &client{w: b.w}}
		o := b.session(c)
		b.hold(a, "leader")
		c.hook(func() {
			c.onGet = func(context.Context, string, func() (Entry, error)) (Entry, error) {
				b.Error("the holder was read")
				return Entry{}, errDown()
			}
		})
		_, err := o.TryAcquire(b.Context(), "leader", nil)
		b.is(err, ErrConflict)
		b.close(a)
		b.close(o)
	})
}

// muteWaits is a client of a store that has answered no Wait for RetryTimeout.
type muteWaits struct{ *settling }

func (m muteWaits) Wait(ctx context.Context, _ string, _ Revision) (Snapshot, error) {
	select {
	case <-time.After(10 * time.Second):
		return Snapshot{}, errDown()
	case <-ctx.Done():
		return Snapshot{}, ctx.Err()
	}
}

// acquire starts an Acquire, whose error the channel gets.
func (b *bench) acquire(s *Session) <-chan error {
	done := make(chan error)
	go func() {
		_, err := s.Acquire(context.Background(), "leader", nil)
		done <- err
	}()
	return done
}

// Acquire waits for an earlier write of its Session as long as the store answers, and
// not only for a budget.
func TestAcquireWaitsForAnEarlierWrite(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		b.unsettledRelease(c, s)
		done := b.acquire(s)
		time.Sleep(25 * time.Second)
		c.hook(func() { c.blocked = false })
		b.must(<-done)
		b.close(s)
	})
}

// An Acquire that waits for an earlier write ends when the store is silent, and with its
// context and its Session.
func TestAcquireThatWaitsForAnEarlierWriteEnds(t *testing.T) {
	inTime(t, func(b *bench) {
		c := &settling{client: &client{w: b.w}}
		s := b.session(muteWaits{c})
		b.unsettledRelease(c, s)
		begin := time.Now()
		b.is(<-b.acquire(s), ErrUnavailable)
		if took := time.Since(begin); took != 10*time.Second {
			b.Errorf("ended after %v", took)
		}
		b.close(s)
	})
	inTime(t, func(b *bench) {
		c, s := b.actor()
		b.unsettledRelease(c, s)
		ctx, cancel := context.WithTimeout(b.Context(), 15*time.Second)
		defer cancel()
		_, err := s.Acquire(ctx, "leader", nil)
		if err != context.DeadlineExceeded {
			b.Errorf("%v, want the bare error of the context", err)
		}
		time.AfterFunc(time.Second, func() { b.w.end(s.Lease()) })
		b.is(<-b.acquire(s), ErrLost)
	})
}
