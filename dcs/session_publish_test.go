package dcs

import (
	"context"
	"testing"
	"time"
)

func publishes(t Txn) bool { return t.Then[0].Key == "members/a" && !t.Then[0].Delete }

func (b *bench) member(value string, lease LeaseID) {
	b.Helper()
	if e, _ := b.w.get("members/a"); string(e.Value) != value || e.Lease != lease {
		b.Fatalf("the store has %+v, want %q of %s", e, value, lease)
	}
}

func TestPublish(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		for range 3 {
			_, err := s.Publish(b.Context(), "members/a", []byte("one"))
			b.must(err)
		}
		if n := c.count("members/a"); n != 1 {
			b.Fatalf("an unchanged value was written %d times", n)
		}
		b.member("one", s.Lease())
		created, _ := b.w.get("members/a")
		_, err := s.Publish(b.Context(), "members/a", []byte("two"))
		b.must(err)
		b.member("two", s.Lease())
		if e, _ := b.w.get("members/a"); e.Created != created.Created {
			b.Fatal("created again")
		}
		time.Sleep(time.Minute)
		b.member("two", s.Lease())
		b.close(s)
		if _, found := b.w.get("members/a"); found {
			b.Fatal("the key outlives its session")
		}
	})
}

// The caller may change the value after the call.
func TestPublishKeepsItsOwnCopy(t *testing.T) {
	inTime(t, func(b *bench) {
		_, s := b.actor()
		value := []byte("one")
		_, err := s.Publish(b.Context(), "members/a", value)
		b.must(err)
		copy(value, "two")
		_, err = s.Publish(b.Context(), "members/a", value)
		b.must(err)
		b.member("two", s.Lease())
		b.close(s)
	})
}

// P19: a restart under the same name takes the key over, under the condition that the
// key is still as it was read.
func TestP19TakeoverIsConditional(t *testing.T) {
	inTime(t, func(b *bench) {
		_, old := b.actor()
		_, err := old.Publish(b.Context(), "members/a", []byte("old"))
		b.must(err)
		c, s := b.actor()
		third := b.plain()
		c.onGet = func(_ context.Context, _ string, do func() (Entry, error)) (Entry, error) {
			c.hook(func() { c.onGet = nil })
			e, err := do()
			_, perr := third.Publish(b.Context(), "members/a", []byte("third"))
			b.must(perr)
			return e, err
		}
		displaced, err := s.Publish(b.Context(), "members/a", []byte("new"))
		b.must(err)
		if displaced != third.Lease() {
			b.Fatalf("displaced %q, want %q", displaced, third.Lease())
		}
		b.member("new", s.Lease())
		b.close(old)
		b.close(third)
		b.member("new", s.Lease())
		b.close(s)
	})
}

// P19: a member key that was deleted may be published again, whether a renewal has
// seen it absent or not.
func TestP19DeletedMayBePublishedAgain(t *testing.T) {
	for name, wait := range map[string]time.Duration{"at once": 0, "after a renewal": 11 * time.Second} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(b *bench) {
				_, s := b.actor()
				for _, value := range []string{"one", "two", "three"} {
					_, err := s.Publish(b.Context(), "members/a", []byte(value))
					b.must(err)
					b.member(value, s.Lease())
					_, err = b.w.apply(Txn{Then: []Write{Delete("members/a")}}, false)
					b.must(err)
					time.Sleep(wait)
				}
				want := map[bool]int{false: 3, true: 0}[wait == 0]
				if n := b.seen(func(e StateEvent) bool { return e.Displaced }); n != want || s.Err() != nil {
					b.Fatalf("%d deletions were reported, want %d; session %v", n, want, s.Err())
				}
				b.close(s)
			})
		})
	}
}

// P19: a key that another session took over is not written while it exists, and may be
// published again once it is absent.
func TestP19DisplacedMayPublishAnAbsentKey(t *testing.T) {
	for _, rebind := range []bool{false, true} {
		inTime(t, func(b *bench) {
			open := func() *Session { return b.session(&settling{client: &client{w: b.w, rebind: rebind}}) }
			old, young := open(), open()
			for _, s := range []*Session{old, young} {
				_, err := s.Publish(b.Context(), "members/a", []byte("value"))
				b.must(err)
			}
			for range 2 { // before its renewal reports the takeover, and after that
				_, err := old.Publish(b.Context(), "members/a", []byte("back"))
				b.is(err, ErrConflict)
				time.Sleep(11 * time.Second)
			}
			b.close(young)
			displaced, err := old.Publish(b.Context(), "members/a", []byte("back"))
			b.must(err)
			if displaced != "" {
				b.Errorf("displaced %q", displaced)
			}
			b.member("back", old.Lease())
			third := open() // a restart takes the key over again, and keeps it
			_, err = third.Publish(b.Context(), "members/a", []byte("third"))
			b.must(err)
			_, err = old.Publish(b.Context(), "members/a", []byte("again"))
			b.is(err, ErrConflict)
			b.close(old)
			b.member("third", third.Lease())
			b.close(third)
		})
	}
}

// P19: a lock is never published, and a member key is never acquired. Both are refused
// before anything is sent, no matter which session holds or has published the key.
func TestP19LockAndMemberKeyAreDisjoint(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		other := b.plain()
		h := b.hold(other, "leader")
		_, err := s.Publish(b.Context(), "members/a", nil)
		b.must(err)
		_, err = other.Publish(b.Context(), "x/members/b", nil)
		b.must(err)
		sent := c.count("")
		_, err = s.Publish(b.Context(), "leader", []byte("mine"))
		b.is(err, ErrInvalid)
		for _, key := range []string{"members/a", "x/members/b", "members/c"} {
			ctx, cancel := context.WithTimeout(b.Context(), time.Second)
			_, err = s.Acquire(ctx, key, nil)
			cancel()
			b.is(err, ErrInvalid)
			_, err = s.TryAcquire(b.Context(), key, nil)
			b.is(err, ErrInvalid)
		}
		if c.count("") != sent || c.waits > 0 {
			b.Error("something was sent")
		}
		b.must(h.Confirm(b.Context()))
		b.valid(h, true)
		b.close(s)
		b.close(other)
	})
}

// P19: an ambiguous Publish is settled before the next one, so that no late put is
// applied after it.
func TestP19AmbiguousPublish(t *testing.T) {
	for _, x := range []struct {
		name          string
		lands, fenced bool
	}{{"landed", true, false}, {"refused", false, false}, {"landed, fenced", true, true}, {"refused, fenced", false, true}} {
		t.Run(x.name, func(t *testing.T) {
			inTime(t, func(b *bench) {
				_, old := b.actor()
				_, err := old.Publish(b.Context(), "members/a", []byte("old"))
				b.must(err)
				c, s := b.actor()
				c.blocked = true
				u := c.catch(publishes)
				displaced, err := s.Publish(b.Context(), "members/a", []byte("new"))
				b.is(err, ErrAmbiguous)
				if displaced != old.Lease() {
					b.Fatalf("displaced %q", displaced)
				}
				if x.lands {
					b.must(u.land())
				}
				ctx, cancel := context.WithTimeout(b.Context(), time.Second)
				defer cancel()
				_, err = s.Publish(ctx, "members/a", []byte("newer"))
				b.is(err, ErrUnavailable) // nothing is sent before the attempt is settled
				c.hook(func() { c.blocked, c.fenced = false, x.fenced })
				_, err = s.Publish(b.Context(), "members/a", []byte("newest"))
				b.must(err)
				b.member("newest", s.Lease())
				if u.land() == nil {
					b.Fatal("applied late")
				}
				_, err = old.Publish(b.Context(), "members/a", []byte("back"))
				b.is(err, ErrConflict)
				b.close(old)
				b.member("newest", s.Lease())
				b.close(s)
			})
		})
	}
}

// If the first Publish cannot be settled, the next one is a first one only while the
// key is unchanged.
func TestP19AmbiguousFirstPublishIsNoSecondTakeover(t *testing.T) {
	inTime(t, func(b *bench) {
		c := &client{w: b.w}
		s := b.session(c)
		u := c.catch(publishes)
		_, err := s.Publish(b.Context(), "members/a", []byte("new"))
		b.is(err, ErrAmbiguous)
		b.must(u.land())
		other := b.plain()
		_, err = other.Publish(b.Context(), "members/a", []byte("other"))
		b.must(err)
		_, err = s.Publish(b.Context(), "members/a", []byte("back"))
		b.is(err, ErrConflict)
		b.member("other", other.Lease())
		b.close(s)
		b.close(other)
	})
	inTime(t, func(b *bench) {
		other := b.plain()
		_, err := other.Publish(b.Context(), "members/a", []byte("other"))
		b.must(err)
		c := &client{w: b.w}
		s := b.session(c)
		u := c.catch(publishes)
		_, err = s.Publish(b.Context(), "members/a", []byte("new"))
		b.is(err, ErrAmbiguous)
		time.Sleep(11 * time.Second) // a renewal does not check an unsettled key
		displaced, err := s.Publish(b.Context(), "members/a", []byte("newer"))
		b.must(err)
		if displaced != other.Lease() {
			b.Fatalf("displaced %q", displaced)
		}
		_ = u.land()
		b.member("newer", s.Lease())
		b.close(s)
		b.close(other)
	})
}

// After an ambiguous Publish the key is read and not remembered.
func TestPublishAfterAFencedOne(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		_, err := s.Publish(b.Context(), "members/a", []byte("one"))
		b.must(err)
		c.fenced = true
		u := &ambiguousCommit{}
		c.hook(func() {
			c.onCommit = func(_ context.Context, _ Txn, do func() (Revision, error)) (Revision, error) {
				c.hook(func() { c.onCommit = nil })
				u.do = do
				_ = u.land()
				return 0, u.err()
			}
		})
		_, err = s.Publish(b.Context(), "members/a", []byte("two"))
		b.is(err, ErrAmbiguous)
		_, err = s.Publish(b.Context(), "members/a", []byte("one"))
		b.must(err)
		b.member("one", s.Lease())
		b.close(s)
	})
}

// P19: a renewal detects that the key belongs to another session, also on a store
// where a takeover keeps its Created.
func TestP19RenewalDetectsATakeover(t *testing.T) {
	for _, rebind := range []bool{false, true} {
		inTime(t, func(b *bench) {
			old := b.session(&settling{client: &client{w: b.w, rebind: rebind}})
			young := b.session(&settling{client: &client{w: b.w, rebind: rebind}})
			for _, s := range []*Session{old, young} {
				_, err := s.Publish(b.Context(), "members/a", []byte(s.Lease()))
				b.must(err)
			}
			time.Sleep(11 * time.Second)
			if n := b.seen(func(e StateEvent) bool { return e.Displaced && e.Key == "members/a" && e.Lease == old.Lease() }); n != 1 {
				b.Fatalf("%d takeovers were reported, want one", n)
			}
			b.close(old)
			b.close(young)
		})
	}
}

// A lock cannot be published, and a session whose lease is lost publishes nothing.
func TestPublishRefused(t *testing.T) {
	inTime(t, func(b *bench) {
		_, s := b.actor()
		for _, key := range []string{"leader", "members", "members/a/b", "members-a", "xmembers/a", "a//b", "members/", ".op/members/a"} {
			_, err := s.Publish(b.Context(), key, nil)
			b.is(err, ErrInvalid)
		}
		b.w.end(s.Lease())
		_, err := s.Publish(b.Context(), "members/a", nil)
		b.is(err, ErrLost)
		b.is(s.Err(), ErrLost)
		b.close(s)
	})
}
