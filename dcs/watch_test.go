package dcs

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

func TestWatch(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		moved := make(chan Revision)
		b := &scripted{}
		b.snapshot = func(context.Context, string) (Snapshot, error) { return Snapshot{Revision: 3}, nil }
		b.wait = func(ctx context.Context, prefix string, since Revision) (Snapshot, error) {
			for {
				select {
				case r := <-moved:
					if r > since {
						return Snapshot{Revision: r}, nil
					}
				case <-ctx.Done():
					return Snapshot{}, ctx.Err()
				}
			}
		}
		s := newStore(t, b, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		seen := make(chan Revision, 100)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for snap, err := range s.Watch(ctx, "members") {
				if err != nil {
					t.Errorf("yielded %v", err)
				}
				seen <- snap.Revision
			}
		}()
		for _, r := range []Revision{2, 3, 5, 4, 9} {
			moved <- r
		}
		synctest.Wait()
		cancel()
		<-ended
		close(seen)
		var got []Revision
		for r := range seen {
			got = append(got, r)
		}
		if len(got) != 3 || got[0] != 3 || got[1] != 5 || got[2] != 9 {
			t.Errorf("revisions seen: %v, want 3 5 9", got)
		}
	})
}

// A store to which nothing was ever written is at revision 0, and Watch waits for it
// like for any other.
func TestWatchFromRevisionZero(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := &scripted{}
		snapshots := 0
		b.snapshot = func(context.Context, string) (Snapshot, error) { snapshots++; return Snapshot{}, nil }
		b.wait = func(_ context.Context, _ string, since Revision) (Snapshot, error) {
			time.Sleep(time.Second)
			return Snapshot{Revision: since + 1}, nil
		}
		s := newStore(t, b, Options{})
		var seen []Revision
		for snap, err := range s.Watch(t.Context(), "") {
			if err != nil || snap.Revision == 2 || snapshots > 1 {
				break
			}
			seen = append(seen, snap.Revision)
		}
		if len(seen) != 2 || snapshots != 1 {
			t.Errorf("revisions %v before the second change, %d snapshots", seen, snapshots)
		}
	})
}

// Errors are yielded and the watch goes on, with pauses that stay short. The first tree
// after an outage is the next one.
func TestWatchOutlivesAnOutage(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := &scripted{}
		begin := time.Now()
		up := func() bool { d := time.Since(begin); return d < time.Minute || d > 2*time.Minute }
		b.snapshot = func(context.Context, string) (Snapshot, error) { return Snapshot{Revision: 1}, nil }
		b.wait = func(_ context.Context, _ string, since Revision) (Snapshot, error) {
			if !up() {
				return Snapshot{}, &Error{Kind: ErrUnauthorized}
			}
			time.Sleep(10 * time.Second)
			return Snapshot{Revision: since + 1}, nil
		}
		s := newStore(t, b, Options{})
		var last Revision
		var failed int
		var longest time.Duration
		previous := time.Now()
		for snap, err := range s.Watch(t.Context(), "") {
			if err != nil {
				failed++
				if !errors.Is(err, ErrUnauthorized) {
					t.Fatal(err)
				}
				if failed > 1 {
					longest = max(longest, time.Since(previous))
				}
				previous = time.Now()
				continue
			}
			if snap.Revision != last+1 {
				t.Fatalf("revision %d after %d", snap.Revision, last)
			}
			if last = snap.Revision; last == 10 {
				break
			}
		}
		// A pause is drawn from at most LoopWait, 1 s here.
		if failed < 60 || failed > 1000 || longest > short.LoopWait+time.Millisecond {
			t.Errorf("%d tries in a minute, the longest pause %v", failed, longest)
		}
	})
}

// After an answer the pauses are short again.
func TestWatchPausesAreShortAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := 0
		b := &scripted{}
		b.snapshot = func(context.Context, string) (Snapshot, error) { return Snapshot{Revision: 1}, nil }
		b.wait = func(_ context.Context, _ string, since Revision) (Snapshot, error) {
			if n++; n%2 == 1 {
				return Snapshot{}, errors.New("reset")
			}
			return Snapshot{Revision: since + 1}, nil
		}
		s := newStore(t, b, Options{})
		begin := time.Now()
		for snap, err := range s.Watch(t.Context(), "") {
			if err == nil && snap.Revision == 101 {
				break
			}
		}
		if took := time.Since(begin); took == 0 || took > 100*100*time.Millisecond {
			t.Errorf("100 single failures made for %v of pauses", took)
		}
	})
}

// A backend that goes backwards is an error and no tree, and causes no busy loop.
func TestWatchNeverGoesBackwards(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := &scripted{}
		b.snapshot = func(context.Context, string) (Snapshot, error) { return Snapshot{Revision: 7}, nil }
		b.wait = func(context.Context, string, Revision) (Snapshot, error) { return Snapshot{Revision: 7}, nil }
		s := newStore(t, b, Options{})
		begin, n := time.Now(), 0
		for snap, err := range s.Watch(t.Context(), "") {
			if n++; n == 1 {
				continue
			}
			if !errors.Is(err, ErrUnavailable) || snap.Revision != 0 {
				t.Fatalf("%v, %v", snap, err)
			}
			if n == 20 {
				break
			}
		}
		if time.Since(begin) == 0 {
			t.Error("tried 20 times without a pause")
		}
	})
}

func TestWatchEnds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := &scripted{}
		b.snapshot = func(context.Context, string) (Snapshot, error) { return Snapshot{}, errors.New("down") }
		s, err := New(b, Options{Timing: Timing{TTL: time.Hour, LoopWait: 10 * time.Minute, RetryTimeout: time.Minute}})
		if err != nil {
			t.Fatal(err)
		}
		// The loop's context ends in the middle of a pause: no error is yielded.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin, errs := time.Now(), 0
		for _, err := range s.Watch(ctx, "") {
			if errs++; !errors.Is(err, ErrUnavailable) {
				t.Errorf("yielded %v", err)
			}
		}
		if took := time.Since(begin); took != time.Second || errs == 0 {
			t.Errorf("ended after %v and %d errors", took, errs)
		}
		// A closed Store yields one ErrClosed at once.
		time.AfterFunc(time.Second, func() { _ = s.Close() })
		begin = time.Now()
		var last error
		for _, err := range s.Watch(t.Context(), "") {
			last = err
		}
		if KindOf(last) != ErrClosed || time.Since(begin) != time.Second {
			t.Errorf("ended after %v with %v", time.Since(begin), last)
		}
	})
}
