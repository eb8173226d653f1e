package dcs

import (
	"context"
	"testing"
	"time"
)

// The cost of a Store for each call: with a context that has no deadline, with one that
// is the budget already, and with an observer.
func BenchmarkStoreGet(b *testing.B) {
	backend := &scripted{get: func(context.Context, string) (Entry, error) { return Entry{}, nil }}
	within, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	none := context.Background()
	bench := func(ctx context.Context, o Options) func(*testing.B) {
		return func(b *testing.B) {
			s := newStore(b, backend, o)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Get(ctx, "members/a"); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	b.Run("budget", bench(none, Options{}))
	b.Run("deadline", bench(within, Options{Timing: Timing{TTL: time.Hour, LoopWait: time.Minute, RetryTimeout: 20 * time.Minute}}))
	b.Run("observed", bench(none, Options{Observer: Observer{Call: func(CallEvent) {}}}))
}

func BenchmarkStoreCommit(b *testing.B) {
	backend := &scripted{commit: func(context.Context, Txn) (Revision, error) { return 1, nil }}
	s := newStore(b, backend, Options{})
	txn := Txn{If: []Cond{CreatedAt("leader", 7), ModifiedAt("status", 9)}, Then: []Write{Put("status", []byte("x")), Put("members/a", nil)}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Commit(context.Background(), txn); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStoreNotFound(b *testing.B) {
	answer := &Error{Backend: "scripted", Op: "Get", Key: "k", Kind: ErrNotFound}
	s := newStore(b, &scripted{get: func(context.Context, string) (Entry, error) { return Entry{}, answer }}, Options{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Get(context.Background(), "k"); err == nil {
			b.Fatal("found")
		}
	}
}
