package dcs

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
)

func keysOf(s Snapshot) []string {
	var out []string
	for _, e := range s.Entries {
		out = append(out, e.Key)
	}
	return out
}

// put writes keys one after the other.
func (b *bench) put(keys ...string) {
	b.Helper()
	for _, key := range keys {
		_, err := b.w.apply(Txn{Then: []Write{Put(key, nil)}}, false)
		b.must(err)
	}
}

func TestSnapshotMany(t *testing.T) {
	inTime(t, func(b *bench) {
		s := b.store(&client{w: b.w})
		b.put("a/b", "a/b!", "a/b/c", "a/b/d", "a/b0", "a/c", "b/a", "z")
		for _, x := range []struct{ prefixes, want []string }{
			{[]string{"a/b"}, []string{"a/b", "a/b/c", "a/b/d"}},
			{[]string{"a/c", "a/b", "a/b!"}, []string{"a/b", "a/b!", "a/b/c", "a/b/d", "a/c"}},
			{[]string{"a/b/d", "a/b/c", "a/b/c"}, []string{"a/b/c", "a/b/d"}},
			{[]string{"a/b/d", "a/b", "none"}, []string{"a/b", "a/b/c", "a/b/d"}},
			{[]string{"z", "b"}, []string{"b/a", "z"}},
			{[]string{"none", "nothing/x"}, nil},
			{[]string{"z", ""}, []string{"a/b", "a/b!", "a/b/c", "a/b/d", "a/b0", "a/c", "b/a", "z"}},
		} {
			snap, err := s.SnapshotMany(b.Context(), x.prefixes...)
			b.must(err)
			if got := keysOf(snap); !slices.Equal(got, x.want) || snap.Revision == 0 {
				b.Errorf("%q: got %q at %d, want %q", x.prefixes, got, snap.Revision, x.want)
			}
		}
		_, err := s.SnapshotMany(b.Context())
		b.is(err, ErrInvalid)
		_, err = s.WaitMany(b.Context(), Snapshot{}, "a", "/b")
		b.is(err, ErrInvalid)
		for _, err := range s.WatchMany(b.Context()) {
			b.is(err, ErrInvalid)
		}
	})
}

// WaitMany returns when one of its own keys has changed, and costs one Wait.
func TestWaitMany(t *testing.T) {
	inTime(t, func(b *bench) {
		c := &client{w: b.w}
		s := b.store(c)
		b.put("pg/leader", "pg/members/a", "pg/status", "pg2/leader")
		last, err := s.WaitMany(b.Context(), Snapshot{}, "pg/leader", "pg/members")
		b.must(err)
		if got := keysOf(last); !slices.Equal(got, []string{"pg/leader", "pg/members/a"}) {
			b.Fatal(got)
		}
		c.hook(func() { c.waits = 0 })
		var next Snapshot
		done := make(chan struct{})
		go func() {
			defer close(done)
			next, err = s.WaitMany(context.Background(), last, "pg/leader", "pg/members")
		}()
		synctest.Wait()
		if c.waits != 1 {
			b.Errorf("%d Waits", c.waits)
		}
		b.put("pg2/leader", "pg/status")
		if isDone(done) {
			b.Fatalf("woken by another key: %v", next)
		}
		_, derr := b.w.apply(Txn{Then: []Write{Delete("pg/members/a"), Put("pg/members/b", nil)}}, false)
		b.must(derr)
		<-done
		b.must(err)
		if got := texts(next.Diff(last)); !slices.Equal(got, []string{"pg/members/a2 0", "pg/members/b0 7"}) {
			b.Errorf("%q", got)
		}
		ctx, cancel := context.WithCancel(b.Context())
		cancel()
		if _, err := s.WaitMany(ctx, next, "pg/leader", "pg/members"); err != context.Canceled {
			b.Errorf("got %v, want the bare context error", err)
		}
	})
}

func TestWatchMany(t *testing.T) {
	inTime(t, func(b *bench) {
		s := b.store(&client{w: b.w})
		b.put("a", "b", "c")
		ctx, cancel := context.WithCancel(context.Background())
		seen := make(chan []string, 10)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for snap, err := range s.WatchMany(ctx, "c", "a") {
				if err != nil {
					b.Error(err)
				}
				seen <- keysOf(snap)
			}
		}()
		expect := func(want ...string) {
			b.Helper()
			if got := <-seen; !slices.Equal(got, want) {
				b.Errorf("got %q, want %q", got, want)
			}
		}
		expect("a", "c")
		b.put("b")
		synctest.Wait()
		_, err := b.w.apply(Txn{Then: []Write{Delete("a")}}, false)
		b.must(err)
		expect("c")
		cancel()
		<-done
		if len(seen) > 0 {
			b.Errorf("yielded %q for another key", <-seen)
		}
	})
}
