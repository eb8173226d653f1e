package memstore

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// budget returns a context with the budget of one call.
func budget(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func mustCommit(t *testing.T, b *Backend, txn dcs.Txn) dcs.Revision {
	t.Helper()
	rev, err := b.Commit(budget(t), txn)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func put(key, value string) dcs.Txn {
	return dcs.Txn{Then: []dcs.Write{dcs.Put(key, []byte(value))}}
}

func wantKind(t *testing.T, err, kind error) {
	t.Helper()
	if dcs.KindOf(err) != kind {
		t.Fatalf("got %v, want the kind %v", err, kind)
	}
}

func TestCommitReadsBack(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := NewServer(Options{})
		a, b := s.Open(ClientOptions{}), s.Open(ClientOptions{})
		defer a.Close()
		defer b.Close()
		rev := mustCommit(t, a, put("config", "1"))
		e, err := b.Get(budget(t), "config")
		if err != nil || string(e.Value) != "1" || e.Created != rev || e.Modified != rev {
			t.Fatalf("got %+v, %v; want the entry written at %d", e, err, rev)
		}
		_, err = b.Commit(budget(t), dcs.Txn{If: []dcs.Cond{dcs.Absent("config")}, Then: []dcs.Write{dcs.Put("config", nil)}})
		var c *dcs.Error
		if !errors.As(err, &c) || c.Kind != dcs.ErrConflict || c.Current == nil || string(c.Current.Value) != "1" {
			t.Fatalf("got %v", err)
		}
		del := mustCommit(t, a, dcs.Txn{If: []dcs.Cond{dcs.ModifiedAt("config", rev)}, Then: []dcs.Write{dcs.Delete("config")}})
		if del <= rev {
			t.Fatalf("the delete's revision %d is not above %d", del, rev)
		}
		_, err = b.Get(budget(t), "config")
		wantKind(t, err, dcs.ErrNotFound)
		snap, err := b.Snapshot(budget(t), "")
		if err != nil || len(snap.Entries) != 0 {
			t.Fatalf("got %+v, %v; want no entry, and no marker", snap, err)
		}
	})
}

func TestLeaseEndsWithItsKeys(t *testing.T) {
	for _, o := range []Options{{}, {ExpiryFactor: 2}} {
		bubble.Test(t, func(t *testing.T) {
			b := New(o)
			defer b.Close()
			l, r, err := b.Grant(budget(t), 3*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			mustCommit(t, b, dcs.Txn{Then: []dcs.Write{dcs.PutLeased("leader", nil, l.ID())}})
			time.Sleep(2 * time.Second)
			if r, err = l.Renew(budget(t), "leader", "other"); err != nil || len(r.Entries) != 1 {
				t.Fatalf("got %+v, %v", r, err)
			}
			time.Sleep(r.TTL - r.From.Elapsed() - time.Millisecond)
			if _, err := b.Get(budget(t), "leader"); err != nil {
				t.Fatalf("before From + TTL: %v", err)
			}
			time.Sleep(r.Expiry - r.From.Elapsed() + time.Millisecond)
			_, err = b.Get(budget(t), "leader")
			wantKind(t, err, dcs.ErrNotFound)
			_, err = l.Renew(budget(t))
			wantKind(t, err, dcs.ErrLost)
			_, err = b.Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.PutLeased("leader", nil, l.ID())}})
			wantKind(t, err, dcs.ErrLost)
		})
	}
}

func TestWaitIsPushed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := NewServer(Options{})
		a, b := s.Open(ClientOptions{}), s.Open(ClientOptions{Name: "watcher"})
		defer a.Close()
		defer b.Close()
		snap, err := b.Snapshot(budget(t), "")
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan dcs.Snapshot)
		go func() {
			snap, err := b.Wait(context.Background(), "", snap.Revision)
			if err != nil {
				t.Error(err)
			}
			got <- snap
		}()
		time.Sleep(time.Minute)
		if n := s.Requests(Match{Client: "watcher"}); n > 30 {
			t.Fatalf("%d requests in a quiet minute", n)
		}
		rev := mustCommit(t, a, put("x", "1"))
		if snap := <-got; snap.Revision < rev || len(snap.Entries) != 1 {
			t.Fatalf("got %+v", snap)
		}
	})
}
