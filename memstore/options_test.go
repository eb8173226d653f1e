package memstore

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

func TestTTLIsMovedAndReported(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := New(Options{MinTTL: 2 * time.Second, MaxTTL: time.Minute, ExpiryFactor: 2})
		defer b.Close()
		for asked, want := range map[time.Duration]time.Duration{
			time.Millisecond: 2 * time.Second, 2 * time.Second: 2 * time.Second, 5 * time.Second: 5 * time.Second, 99 * time.Hour: time.Minute,
		} {
			l, r, err := b.Grant(budget(t), asked)
			if err != nil || r.TTL != want || r.Expiry != 2*want {
				t.Errorf("asked for %v: %+v, %v", asked, r, err)
			}
			if r, err = l.Renew(budget(t)); err != nil || r.TTL != want || r.Expiry != 2*want {
				t.Errorf("renewed %v: %+v, %v", asked, r, err)
			}
		}
		for _, ttl := range []time.Duration{0, -1} {
			_, _, err := b.Grant(budget(t), ttl)
			wantKind(t, err, dcs.ErrInvalid)
		}
	})
}

func TestRebind(t *testing.T) {
	for _, o := range []Options{{}, {NoRebind: true}} {
		bubble.Test(t, func(t *testing.T) {
			b := New(o)
			defer b.Close()
			old, _, err := b.Grant(budget(t), time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			fresh, _, err := b.Grant(budget(t), time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			token := mustCommit(t, b, dcs.Txn{Then: []dcs.Write{dcs.PutLeased("lock", nil, old.ID())}})
			mustCommit(t, b, dcs.Txn{If: []dcs.Cond{dcs.CreatedAt("lock", token)}, Then: []dcs.Write{dcs.PutLeased("lock", nil, fresh.ID())}})
			if err := old.Revoke(budget(t)); err != nil {
				t.Fatal(err)
			}
			e, err := b.Get(budget(t), "lock")
			if err != nil || e.Lease != fresh.ID() || (e.Created == token) != b.Caps().Rebind || b.Caps().Rebind == o.NoRebind {
				t.Fatalf("got %+v, %v; the token was %d", e, err, token)
			}
		})
	}
}

func TestNoSelfExpiry(t *testing.T) {
	pair(t, Options{NoSelfExpiry: true}, func(t *testing.T, s *Server, a, b *Backend) {
		leased := func(c *Backend, key string) dcs.Lease {
			l, _, err := c.Grant(budget(t), 2*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			mustCommit(t, c, dcs.Txn{Then: []dcs.Write{dcs.PutLeased(key, []byte("x"), l.ID())}})
			return l
		}
		dead := leased(a, "a")
		time.Sleep(time.Minute)
		if value(t, b, "a") != "x" || s.Leases()[0].Left != 0 {
			t.Fatal("removed although no other client was there")
		}
		wantKind(t, second(dead.Renew(budget(t))), dcs.ErrLost)
		wantKind(t, second(a.Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.PutLeased("a", nil, dead.ID())}})), dcs.ErrLost)
		live := leased(b, "b")
		if value(t, b, "a") != "(absent)" {
			t.Fatal("still there although another client has a live lease")
		}
		leased(a, "a")
		for range 3 {
			time.Sleep(time.Second)
			if _, err := live.Renew(budget(t)); err != nil {
				t.Fatal(err)
			}
		}
		if value(t, b, "a") != "(absent)" || value(t, b, "b") != "x" {
			t.Fatal("the key of the live lease is gone")
		}
	})
}

func TestRootsDoNotSeeEachOther(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := NewServer(Options{})
		a, b := s.Open(ClientOptions{Root: "a"}), s.Open(ClientOptions{Root: "a/d"})
		defer a.Close()
		defer b.Close()
		mustCommit(t, a, put("d/x", "a's"))
		mustCommit(t, b, put("x", "b's"))
		if value(t, a, "d/x") != "a's" || value(t, b, "x") != "b's" || value(t, b, "d/x") != "(absent)" {
			t.Fatal("a client sees the key of the other root")
		}
		snap, err := b.Snapshot(budget(t), "")
		if err != nil || len(snap.Entries) != 1 {
			t.Fatalf("got %+v, %v", snap, err)
		}
	})
}

func TestKeyBelowAKeyIsRefused(t *testing.T) {
	for _, o := range []Options{{}, {Duplicating: true}} {
		pair(t, o, func(t *testing.T, _ *Server, a, _ *Backend) {
			mustCommit(t, a, put("config", "1"))
			wantKind(t, second(a.Commit(budget(t), put("config/x", "1"))), dcs.ErrInvalid)
			if value(t, a, "config/x") != "(absent)" {
				t.Fatal("written")
			}
		})
	}
}

func TestValueIsCopied(t *testing.T) {
	pair(t, Options{}, func(t *testing.T, _ *Server, a, b *Backend) {
		v := []byte("before")
		mustCommit(t, a, dcs.Txn{Then: []dcs.Write{dcs.Put("x", v)}})
		copy(v, "after!")
		if value(t, b, "x") != "before" {
			t.Fatal("the store shares the caller's memory")
		}
	})
}

func TestCloseEndsCalls(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := NewServer(Options{})
		b := s.Open(ClientOptions{Name: "b"})
		mustCommit(t, b, put("x", "1"))
		l, _, err := b.Grant(budget(t), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		s.Inject(Match{Op: OpGet | OpCommit | OpRenew}, Hang())
		calls := map[string]func() error{
			"Get":    func() error { return second(b.Get(budget(t), "x")) },
			"Commit": func() error { return second(b.Commit(budget(t), put("x", "2"))) },
			"Wait":   func() error { return second(b.Wait(context.Background(), "", 1<<40)) },
			"Renew":  func() error { return second(l.Renew(budget(t))) },
		}
		got := make(chan error)
		for _, call := range calls {
			go func() { got <- call() }()
		}
		synctest.Wait()
		start := time.Now()
		for range 2 {
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
		}
		for range calls {
			if err := <-got; !errors.Is(err, dcs.ErrClosed) {
				t.Errorf("under way: %v", err)
			}
		}
		for name, call := range calls {
			if err := call(); !errors.Is(err, dcs.ErrClosed) {
				t.Errorf("%s after Close: %v", name, err)
			}
		}
		if time.Since(start) != 0 {
			t.Errorf("took %v", time.Since(start))
		}
		for _, e := range s.Entries("default") {
			if e.Key != "x" {
				t.Errorf("%q was left behind", e.Key)
			}
		}
	})
}

func TestURL(t *testing.T) {
	ctx := context.Background()
	a, err := dcs.Open(ctx, "mem://one/prod/db?min_ttl=1s&expiry_factor=2&no_rebind=true", dcs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if c := a.Caps(); c.MinTTL != time.Second || c.Rebind || !c.SelfExpiry {
		t.Errorf("got %+v", c)
	}
	b, err := dcs.Open(ctx, "mem://one/prod/db", dcs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	other, err := dcs.Open(ctx, "mem://two/prod/db", dcs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := a.Commit(ctx, put("x", "1")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(ctx, "x"); err != nil {
		t.Errorf("the same name is another server: %v", err)
	}
	if _, err := other.Get(ctx, "x"); !errors.Is(err, dcs.ErrNotFound) {
		t.Errorf("another name is the same server: %v", err)
	}
	if Shared("one") == nil || len(Shared("one").Entries("prod/db")) == 0 || Shared("three") != nil {
		t.Error("Shared does not find the server")
	}
	if _, err := dcs.Open(ctx, "mem://one/prod/db?min_ttl=2s", dcs.Options{}); dcs.KindOf(err) != dcs.ErrInvalid {
		t.Errorf("other options for an open store: %v", err)
	}
	for _, s := range []*dcs.Store{a, b} {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if Shared("one") != nil {
		t.Error("the server outlives its last client")
	}
}

func TestURLFaults(t *testing.T) {
	for url, names := range map[string]string{
		"mem://name":                             "root",
		"mem://name/":                            "root",
		"mem:///root":                            "name",
		"mem://a,b/root":                         "several",
		"mem://name/../root":                     "root",
		"mem://name/root?min_ttl=soon":           "min_ttl",
		"mem://name/root?min_ttl=-1s":            "positive",
		"mem://name/root?max_ttl=50ms":           "max_ttl=100ms or more",
		"mem://name/root?max_ttl=5s&min_ttl=10s": "max_ttl=10s or more",
		"mem://name/root?expiry_factor=.5":       "1 to 10",
		"mem://name/root?endpoints=0":            "1 to 99",
		"mem://name/root?no_rebind=maybe":        "no_rebind",
		"mem://name/root?color=red":              "color",
	} {
		s, err := dcs.Open(context.Background(), url, dcs.Options{})
		if dcs.KindOf(err) != dcs.ErrInvalid || !strings.Contains(err.Error(), names) {
			t.Errorf("%s: got %v, want it to name %q", url, err, names)
		}
		if s != nil {
			_ = s.Close()
		}
	}
	if Shared("name") != nil {
		t.Error("a refused Open left a server behind")
	}
}
