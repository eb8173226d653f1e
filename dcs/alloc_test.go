package dcs

import (
	"context"
	"testing"
	"time"
)

// A Store adds only the timer of its budget to the allocations of a call, and not
// even that under a context that ends sooner.
func TestStoreAllocations(t *testing.T) {
	backend := &scripted{
		get:    func(context.Context, string) (Entry, error) { return Entry{}, nil },
		commit: func(context.Context, Txn) (Revision, error) { return 1, nil },
	}
	s := newStore(t, backend, Options{Timing: Timing{TTL: time.Hour, LoopWait: time.Minute, RetryTimeout: 20 * time.Minute}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	txn := Txn{If: []Cond{Absent("a")}, Then: []Write{Put("a", nil)}}
	for name, call := range map[string]func(){
		"Get":     func() { _, _ = s.Get(ctx, "members/a") },
		"Commit":  func() { _, _ = s.Commit(ctx, txn) },
		"Now":     func() { _ = Now() },
		"Elapsed": func() { _ = Deadline(Now(), time.Second).Elapsed() },
	} {
		if n := testing.AllocsPerRun(100, call); n != 0 {
			t.Errorf("%s under a sooner deadline: %v allocations", name, n)
		}
	}
}
