package elector

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// lead runs Lead on a client of its own.
func lead(t *testing.T, server *memstore.Server, name string, ctx context.Context, exit func(Reason), run func(context.Context, *Leadership) error) chan error {
	t.Helper()
	store, err := dcs.New(server.Open(memstore.ClientOptions{Name: name}), dcs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	answer := make(chan error, 1)
	go func() { // ends with Lead
		defer func() { _ = store.Close() }()
		answer <- Lead(ctx, Config{Store: store, Scope: scope, Name: name, Exit: exit}, run)
	}()
	return answer
}

// Lead calls run while this member leads, again after a loss, and gives the lock back
// at the end.
func TestLead(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		server := memstore.NewServer(memstore.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		runs := make(chan *Leadership, 8)
		answer := lead(t, server, "a", ctx, nil, func(ctx context.Context, l *Leadership) error {
			runs <- l
			<-ctx.Done()
			if l.Valid() || !isClosed(l.Done()) || l.Remaining() != 0 {
				t.Error("valid after its end")
			}
			return ctx.Err()
		})
		first := <-runs
		if !first.Valid() || first.Remaining() == 0 {
			t.Error("not valid")
		}
		if _, err := first.Commit(t.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put("x", nil)}}); err != nil {
			t.Error(err)
		}
		server.Delete("default", cluster.Key(scope, cluster.LeaderKey))
		second := <-runs
		if second.Token() <= first.Token() {
			t.Error("the token does not rise")
		}
		if _, err := first.Commit(t.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put("x", nil)}}); !errors.Is(err, dcs.ErrConflict) {
			t.Error("a write of a former leader:", err)
		}
		cancel()
		if err := <-answer; err != nil {
			t.Error(err)
		}
		if len(server.Leases()) > 0 {
			t.Error("a lease is left")
		}
	})
}

// A run that returns by itself ends Lead with its error, and the lock is given back.
func TestLeadReturns(t *testing.T) {
	for _, want := range []error{nil, errors.New("done")} {
		bubble.Test(t, func(t *testing.T) {
			server := memstore.NewServer(memstore.Options{})
			err := <-lead(t, server, "a", t.Context(), nil, func(context.Context, *Leadership) error { return want })
			if !errors.Is(err, want) || len(server.Leases()) > 0 {
				t.Errorf("%v, %d leases", err, len(server.Leases()))
			}
		})
	}
	bubble.Test(t, func(t *testing.T) {
		err := <-lead(t, memstore.NewServer(memstore.Options{}), "a", t.Context(), nil, func(context.Context, *Leadership) error { panic("x") })
		if err == nil || !strings.Contains(err.Error(), "panicked: x") {
			t.Error(err)
		}
	})
}

// A run that does not return ends the process before the lock runs out.
func TestLeadHangs(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		server := memstore.NewServer(memstore.Options{})
		end, exited := make(chan struct{}), make(chan time.Duration, 1)
		var l atomic.Pointer[Leadership]
		answer := lead(t, server, "a", t.Context(), func(Reason) {
			exited <- l.Load().hold.Deadline().Sub(dcs.Now())
		}, func(_ context.Context, lead *Leadership) error { l.Store(lead); <-end; return nil })
		time.Sleep(time.Second)
		cut := server.Inject(memstore.Match{}, memstore.Hang())
		if left := <-exited; left < 0 {
			t.Errorf("exits %v after the deadline", -left)
		}
		cut.Lift()
		close(end)
		if err := <-answer; !errors.Is(err, ErrNotStopped) {
			t.Error(err)
		}
	})
}

// Every fault of a Config is reported at once, before any I/O.
func TestConfigFaults(t *testing.T) {
	_, err := New(Config{Scope: "a//b", Name: "x/y"})
	for _, want := range []string{"Store is nil", "Service is nil", `"a//b"`, "byte 1 of the member name"} {
		if !errors.Is(err, dcs.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	store, err := dcs.New(memstore.New(memstore.Options{}), dcs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	c := Config{Store: store, Scope: scope, Name: "a", Service: struct{ Service }{}, Asker: asker{}}
	c.Timing.StopTimeout = time.Hour // leaves no time to demote
	c.Member.APIURL = ""
	_, err = New(c)
	for _, want := range []string{"is no Fencer, and Exit and Guardian are nil", "StopTimeout 1h0m0s", "Member.APIURL is empty"} {
		if !errors.Is(err, dcs.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	if err := Lead(t.Context(), Config{Service: &fake{}}, nil); !errors.Is(err, dcs.ErrInvalid) {
		t.Error(err)
	}
}

// E4: the rule holds for the TTL that the store grants.
func TestTimingOnTheGrantedTTL(t *testing.T) {
	server := memstore.NewServer(memstore.Options{MaxTTL: 15 * time.Second})
	store, err := dcs.New(server.Open(memstore.ClientOptions{}), dcs.Options{Timing: dcs.Timing{TTL: 15 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	c := Config{Store: store, Scope: scope, Name: "a", Service: &fake{}}
	c.Timing.Timing = dcs.Timing{TTL: 30 * time.Second, LoopWait: 5 * time.Second, RetryTimeout: 5 * time.Second}
	c.Timing.StopTimeout = 10 * time.Second // fits 30 s, and not 15 s
	if _, err := New(c); !errors.Is(err, dcs.ErrInvalid) {
		t.Error(err)
	}
}
