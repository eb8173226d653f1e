package dcs

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// conflict returns the *Error of a refused acquisition.
func (b *bench) conflict(err error) *Error {
	b.Helper()
	b.is(err, ErrConflict)
	var e *Error
	if !errors.As(err, &e) {
		b.Fatalf("%T is not an *Error", err)
	}
	return e
}

// A lock is taken only while the given conditions hold, and the conflict names the
// key whose condition failed.
func TestAcquireConditions(t *testing.T) {
	inTime(t, func(b *bench) {
		a, o := b.plain(), b.plain()
		config, err := b.w.apply(Txn{Then: []Write{Put("config", []byte("1"))}}, false)
		b.must(err)
		decided := []Cond{ModifiedAt("config", config), Absent("failover")}

		h, err := a.TryAcquire(b.Context(), "leader", nil, decided...)
		b.must(err)
		if e := b.conflict(second(o.TryAcquire(b.Context(), "leader", nil, decided...))); e.ConflictKey != "leader" || e.Current == nil || e.Current.Created != h.Token() {
			b.Errorf("the lock is held, and the conflict is %+v", e)
		}
		if e := b.conflict(second(a.TryAcquire(b.Context(), "leader", nil))); e.ConflictKey != "leader" {
			b.Errorf("the session's own lock: %+v", e)
		}
		b.must(h.Release(b.Context()))

		_, err = b.w.apply(Txn{Then: []Write{Put("failover", nil)}}, false)
		b.must(err)
		e := b.conflict(second(o.TryAcquire(b.Context(), "leader", nil, decided...)))
		if e.ConflictKey != "failover" || e.Key != "leader" || e.Current == nil || e.Current.Key != "failover" {
			b.Errorf("%+v", e)
		}
		_, err = b.w.apply(Txn{Then: []Write{Delete("config"), Delete("failover")}}, false)
		b.must(err)
		e = b.conflict(second(o.TryAcquire(b.Context(), "leader", nil, decided...)))
		if e.ConflictKey != "config" || e.Current != nil || !strings.Contains(e.Error(), `"config" does not exist`) {
			b.Errorf("%v", e)
		}
		if _, found := b.w.get("leader"); found {
			b.Error("the lock was taken")
		}
		_, err = o.TryAcquire(b.Context(), "leader", nil, Absent("leader"))
		b.is(err, ErrInvalid)
		b.close(a)
		b.close(o)
	})
}

func second[T any](_ T, err error) error { return err }

// The session does not trust a store that names another key, or an entry for which
// the condition holds by now.
func TestConflictIsNamedByReading(t *testing.T) {
	for name, x := range map[string]struct {
		answer Error
		want   string
	}{
		"nothing named":         {Error{}, "config"},
		"another key":           {Error{ConflictKey: "members/a"}, "config"},
		"an entry that fits":    {Error{Current: &Entry{Key: "failover", Modified: 1}}, "config"},
		"a key that fits":       {Error{ConflictKey: "leader"}, "config"},
		"the key that is gone":  {Error{ConflictKey: "config"}, "config"},
		"an entry that is gone": {Error{Current: &Entry{Key: "leader", Created: 3, Modified: 3}}, "leader"},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(b *bench) {
				c, s := b.actor()
				c.hook(func() {
					c.onCommit = func(context.Context, Txn, func() (Revision, error)) (Revision, error) {
						e := x.answer
						e.Kind = ErrConflict
						return 0, &e
					}
				})
				_, err := s.TryAcquire(b.Context(), "leader", nil, ModifiedAt("failover", 1), ModifiedAt("config", 7))
				if e := b.conflict(err); x.want == "config" && e.ConflictKey != "config" && e.ConflictKey != "failover" || x.want == "leader" && e.ConflictKey != "leader" {
					b.Errorf("named %q, want %q", e.ConflictKey, x.want)
				}
				b.close(s)
			})
		})
	}
}

// If every condition holds again, no key is named.
func TestConflictThatHasGoneNamesNoKey(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		b.put("config") // a Wait at revision 0 blocks here
		refused := 0
		c.hook(func() {
			c.onCommit = func(_ context.Context, _ Txn, do func() (Revision, error)) (Revision, error) {
				if refused++; refused > 2 {
					return do()
				}
				return 0, &Error{Kind: ErrConflict}
			}
		})
		if e := b.conflict(second(s.TryAcquire(b.Context(), "leader", nil, Absent("failover")))); e.ConflictKey != "" {
			b.Errorf("named %q", e.ConflictKey)
		}
		_, err := s.Acquire(b.Context(), "leader", nil, Absent("failover"))
		b.must(err)
		b.close(s)
	})
}

// Acquire waits for the lock only, and not for the other conditions.
func TestAcquireReturnsTheConflictOfACondition(t *testing.T) {
	inTime(t, func(b *bench) {
		a := b.plain()
		c, o := b.actor()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		attempts := 0
		c.hook(func() {
			c.onCommit = func(_ context.Context, _ Txn, do func() (Revision, error)) (Revision, error) {
				if attempts++; attempts > 10 {
					cancel() // it would otherwise not end
				}
				return do()
			}
		})
		h := b.hold(a, "leader")
		var err error
		start, took := time.Now(), time.Duration(0)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, err = o.Acquire(ctx, "leader", nil, Absent("failover"))
			took = time.Since(start)
		}()
		time.Sleep(time.Minute)
		if isDone(done) {
			b.Fatalf("Acquire of a held lock returned %v", err)
		}
		b.put("failover")
		b.must(h.Release(b.Context()))
		<-done
		if e := b.conflict(err); e.ConflictKey != "failover" || took != time.Minute {
			b.Errorf("%v after %v", err, took)
		}
		if e := b.conflict(second(o.Acquire(ctx, "leader", nil, Absent("failover")))); e.ConflictKey != "failover" {
			b.Errorf("%v", e)
		}
		b.close(a)
		b.close(o)
	})
}
