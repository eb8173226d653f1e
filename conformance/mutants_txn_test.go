package conformance

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var txnMutants = []mutant{
	{"a key below another one is dropped without an error", "KV/NestedKeys", func(_ testing.TB, b *broken) {
		b.commit = func(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
			r, err := b.Backend.Commit(ctx, t)
			if errors.Is(err, dcs.ErrInvalid) {
				s, serr := b.Backend.Snapshot(ctx, "")
				return s.Revision, serr
			}
			return r, err
		}
	}},
	{"the text of a conflict is taken for another error", "KV/HostileKeys", func(_ testing.TB, b *broken) {
		b.commit = func(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
			r, err := b.Backend.Commit(ctx, t)
			if errors.Is(err, dcs.ErrConflict) && strings.Contains(err.Error(), "invalid session") {
				err = &dcs.Error{Kind: dcs.ErrLost, Err: errors.New(err.Error())}
			}
			return r, err
		}
	}},
	{"two winners", "Hold/OneWinner", func(_ testing.TB, b *broken) {
		b.dropping(func(c dcs.Cond) bool { return c.Is == 0 })
	}},
	{"the result of an acquire is ignored", "Hold/OneWinner", func(_ testing.TB, b *broken) {
		b.commit = func(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
			r, err := b.Backend.Commit(ctx, t)
			if errors.Is(err, dcs.ErrConflict) && t.Lease() != "" {
				s, serr := b.Backend.Snapshot(ctx, "")
				return s.Revision, serr
			}
			return r, err
		}
	}},
	{"conditions on nothing hold always", "Txn/AbsentIsZero", func(_ testing.TB, b *broken) {
		b.dropping(func(c dcs.Cond) bool { return c.Is == 0 })
	}},
	{"compare-and-set at the first version is unconditional", "Txn/ReCreated", func(_ testing.TB, b *broken) {
		b.rewriting(func(ctx context.Context, t *dcs.Txn) {
			var kept []dcs.Cond
			for _, c := range t.If {
				en, err := b.Backend.Get(ctx, c.Key)
				if err != nil || en.Created != en.Modified || c.Is == 0 {
					kept = append(kept, c)
				}
			}
			t.If = kept
		})
	}},
	{"compare-and-set compares nothing", "Txn/ConcurrentCAS", func(_ testing.TB, b *broken) {
		b.dropping(func(c dcs.Cond) bool { return c.On == dcs.Modified && c.Is != 0 })
	}},
	{"one write after the other", "Txn/AllOrNothing", func(_ testing.TB, b *broken) {
		b.commit = func(ctx context.Context, t dcs.Txn) (r dcs.Revision, err error) {
			for i, w := range t.Then {
				one := dcs.Txn{Then: []dcs.Write{w}}
				if i == len(t.Then)-1 {
					one.If = t.If // the conditions are checked too late
				}
				if r, err = b.Backend.Commit(ctx, one); err != nil {
					return 0, err
				}
			}
			return r, nil
		}
	}},
	{"a value that does not change keeps its revision", "Txn/SameValue", func(_ testing.TB, b *broken) {
		b.commit = func(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
			if w := t.Then[0]; len(t.Then) == 1 && !w.Delete {
				en, err := b.Backend.Get(ctx, w.Key)
				if err == nil && bytes.Equal(en.Value, w.Value) && en.Lease == w.Lease && holdOn(t.If, en) {
					return en.Modified, nil
				}
			}
			return b.Backend.Commit(ctx, t)
		}
	}},
	{"a delete returns the entry's last revision", "Txn/RevisionReturned", func(_ testing.TB, b *broken) {
		b.commit = func(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
			en, _ := b.Backend.Get(ctx, t.Then[0].Key)
			r, err := b.Backend.Commit(ctx, t)
			if err == nil && t.Then[0].Delete && en.Modified != 0 {
				r = en.Modified
			}
			return r, err
		}
	}},
	{"a plain put keeps the binding", "Txn/BindingIsAsWritten", func(_ testing.TB, b *broken) {
		b.rewriting(func(ctx context.Context, t *dcs.Txn) {
			if w := &t.Then[0]; len(t.Then) == 1 && !w.Delete && w.Lease == "" {
				if en, err := b.Backend.Get(ctx, w.Key); err == nil {
					w.Lease = en.Lease
				}
			}
		})
	}},
	{"a guard is taken for the last modification", "Txn/Guarded", func(_ testing.TB, b *broken) {
		b.rewriting(func(_ context.Context, t *dcs.Txn) {
			for i := range t.If {
				t.If[i].On = dcs.Modified
			}
		})
	}},
	{"a changed key is overwritten", "Member/NotALock", func(_ testing.TB, b *broken) {
		b.dropping(func(c dcs.Cond) bool { return c.On == dcs.Modified && c.Is != 0 })
	}},
	{"release by name", "Hold/StaleRelease", func(_ testing.TB, b *broken) {
		b.rewriting(func(_ context.Context, t *dcs.Txn) {
			if t.Then[0].Delete {
				t.If = nil
			}
		})
	}},
	{"a put bound to a dead lease is written without it", "Txn/DeadLease", func(_ testing.TB, b *broken) {
		b.commit = func(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
			r, err := b.Backend.Commit(ctx, t)
			if errors.Is(err, dcs.ErrLost) {
				unbound := dcs.Txn{If: t.If}
				for _, w := range t.Then {
					w.Lease = ""
					unbound.Then = append(unbound.Then, w)
				}
				return b.Backend.Commit(ctx, unbound)
			}
			return r, err
		}
	}},
	{"a changed binding re-creates the entry, despite Caps", "Lease/Rebind", func(_ testing.TB, b *broken) {
		b.commit = func(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
			for _, w := range t.Then {
				if en, err := b.Backend.Get(ctx, w.Key); err != nil || w.Lease == "" || en.Lease == w.Lease {
					return b.Backend.Commit(ctx, t)
				}
			}
			anew := dcs.Txn{If: t.If}
			for _, w := range t.Then {
				anew.Then = append(anew.Then, dcs.Delete(w.Key))
			}
			if r, err := b.Backend.Commit(ctx, anew); err != nil {
				return r, err
			}
			return b.Backend.Commit(ctx, dcs.Txn{Then: t.Then})
		}
	}},
	{"a token that repeats", "Hold/TokenRises", func(_ testing.TB, b *broken) {
		var mu sync.Mutex
		firsts := map[string]dcs.Revision{}
		b.commit = func(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
			r, err := b.Backend.Commit(ctx, t)
			if err != nil || t.Lease() == "" {
				return r, err
			}
			mu.Lock()
			defer mu.Unlock()
			if seen, ok := firsts[t.Then[0].Key]; ok {
				return seen, nil
			}
			firsts[t.Then[0].Key] = r
			return r, nil
		}
	}},
	{"keys are bound to nothing", "Member/LeaseBound", func(_ testing.TB, b *broken) {
		b.rewriting(func(_ context.Context, t *dcs.Txn) {
			for i := range t.Then {
				t.Then[i].Lease = ""
			}
		})
	}},
	{"a limit that differs from Caps", "KV/Limits", func(_ testing.TB, b *broken) {
		b.rewriting(func(_ context.Context, t *dcs.Txn) {
			for i, w := range t.Then {
				if n := b.Caps().MaxValue; len(w.Value) == n {
					t.Then[i].Value = w.Value[:n-1]
				}
			}
		})
	}},
}

// holdOn reports whether the conditions hold for en and name no other key.
func holdOn(conds []dcs.Cond, en dcs.Entry) bool {
	for _, c := range conds {
		if c.Key != en.Key || c.On == dcs.Modified && c.Is != en.Modified || c.On == dcs.Created && c.Is != en.Created {
			return false
		}
	}
	return true
}
