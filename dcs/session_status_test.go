package dcs

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// Status changes with each renewal and carries the last renewal's error.
func TestSessionStatus(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		st, changed := s.Status()
		if st.State != Held || st.Err != nil || st.RenewalErr != nil || st.Failures != 0 || st.Lease != s.Lease() || st.Deadline != s.Deadline() {
			b.Fatalf("%+v", st)
		}
		start := time.Now()
		<-changed
		if d := time.Since(start); d != 10*time.Second {
			b.Errorf("changed after %v", d)
		}
		before := st.Deadline
		if st, changed = s.Status(); st.Deadline.Sub(before) != 10*time.Second {
			b.Errorf("the deadline moved by %v", st.Deadline.Sub(before))
		}
		outage := errors.New("outage")
		c.hook(func() {
			c.onRenew = func(context.Context, LeaseID, func() (Renewal, error)) (Renewal, error) {
				return Renewal{}, &Error{Kind: ErrUnavailable, Err: outage}
			}
		})
		<-changed
		st, changed = s.Status()
		b.is(st.RenewalErr, outage)
		if st.State != Unknown || st.Failures != 1 || st.Err != nil {
			b.Errorf("%+v", st)
		}
		c.hook(func() { c.onRenew = nil })
		<-changed
		if st, changed = s.Status(); st.State != Held || st.Failures != 0 || st.RenewalErr != nil {
			b.Errorf("%+v", st)
		}
		b.w.end(s.Lease())
		<-changed
		st, changed = s.Status()
		b.is(st.Err, ErrLost)
		if st.State != Lost {
			b.Errorf("%+v", st)
		}
		b.must(s.Close(b.Context()))
		time.Sleep(time.Hour)
		if isDone(changed) {
			b.Error("closed after the end")
		}
	})
}

// Status of a session whose deadline has passed reports its end.
func TestSessionStatusAtTheDeadline(t *testing.T) {
	sleep := suspend(t, 0)
	inTime(t, func(b *bench) {
		_, s := b.actor()
		sleep(time.Minute)
		st, _ := s.Status()
		b.is(st.Err, ErrExpired)
		b.close(s)
	})
}

func TestSessionStatusOfADisplacedKey(t *testing.T) {
	inTime(t, func(b *bench) {
		s, o := b.plain(), b.plain()
		for _, key := range []string{"members/b", "members/a", "members/c"} {
			_, err := s.Publish(b.Context(), key, nil)
			b.must(err)
		}
		_, changed := s.Status()
		for _, key := range []string{"members/b", "members/a"} {
			_, err := o.Publish(b.Context(), key, []byte("mine"))
			b.must(err)
		}
		<-changed
		st, _ := s.Status()
		if got := strings.Join(st.Displaced, " "); got != "members/a members/b" || st.State != Held {
			b.Errorf("%+v", st)
		}
		b.close(s)
		b.close(o)
	})
}

// An ambiguous NewSession reports that a lease may be left.
func TestAmbiguousNewSessionNamesTheLease(t *testing.T) {
	inTime(t, func(b *bench) {
		c := &client{w: b.w}
		c.onGrant = func(context.Context, func() (Lease, Renewal, error)) (Lease, Renewal, error) {
			return nil, Renewal{}, errors.New("connection reset")
		}
		_, err := b.store(c).NewSession(b.Context(), SessionOptions{})
		b.is(err, ErrAmbiguous)
		for _, word := range []string{"a lease without an owner may exist", "connection reset"} {
			if !strings.Contains(err.Error(), word) {
				b.Errorf("%q is not in: %v", word, err)
			}
		}
		if strings.Contains(err.Error(), "write") {
			b.Errorf("the error names a write: %v", err)
		}
	})
}
