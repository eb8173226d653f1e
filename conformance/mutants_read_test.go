package conformance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// stale returns the first read state of a key from every Get, until forget.
func (b *broken) stale() (forget func()) {
	var cache sync.Map
	b.get = func(ctx context.Context, key string) (dcs.Entry, error) {
		if en, ok := cache.Load(key); ok {
			return en.(dcs.Entry), nil
		}
		en, err := b.Backend.Get(ctx, key)
		if err == nil {
			cache.Store(key, en)
		}
		return en, err
	}
	return cache.Clear
}

var readMutants = []mutant{
	{"reads come from a cache", "KV/ReadYourWrite", func(_ testing.TB, b *broken) { b.stale() }},
	{"a cache that knows its own writes only", "KV/LinearizableAcrossClients", func(_ testing.TB, b *broken) {
		forget := b.stale()
		b.commit = func(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
			defer forget()
			return b.Backend.Commit(ctx, t)
		}
	}},
	{"a prefix does not end at a slash", "KV/HostileKeys", func(_ testing.TB, b *broken) {
		b.snapshot = func(ctx context.Context, prefix string) (dcs.Snapshot, error) {
			s, err := b.Backend.Snapshot(ctx, "")
			var below []dcs.Entry
			for _, en := range s.Entries {
				if strings.HasPrefix(en.Key, prefix) {
					below = append(below, en)
				}
			}
			s.Entries = below
			return s, err
		}
	}},
	{"a percent sign is decoded", "KV/HostileKeys", func(_ testing.TB, b *broken) {
		b.rewriting(func(_ context.Context, t *dcs.Txn) {
			for i := range t.Then {
				t.Then[i].Key = strings.ReplaceAll(t.Then[i].Key, "%2F", "/")
			}
		})
	}},
	{"markers show", "Txn/BookkeepingHidden", func(_ testing.TB, b *broken) {
		b.snapshot = func(ctx context.Context, prefix string) (dcs.Snapshot, error) {
			s, err := b.Backend.Snapshot(ctx, prefix)
			if prefix == "" && s.Revision > 0 {
				marker := dcs.Entry{Key: ".op/1", Created: 1, Modified: 1}
				s.Entries = append([]dcs.Entry{marker}, s.Entries...)
			}
			return s, err
		}
	}},
	{"a torn snapshot", "Snapshot/Atomic", func(_ testing.TB, b *broken) {
		b.snapshot = func(ctx context.Context, prefix string) (dcs.Snapshot, error) {
			first, err := b.Backend.Snapshot(ctx, prefix)
			if err != nil {
				return first, err
			}
			time.Sleep(time.Millisecond) // between the two reads
			second, err := b.Backend.Snapshot(ctx, prefix)
			torn := dcs.Snapshot{Revision: second.Revision}
			for _, en := range first.Entries {
				if strings.HasSuffix(en.Key, "/a") {
					torn.Entries = append(torn.Entries, en)
				}
			}
			for _, en := range second.Entries {
				if strings.HasSuffix(en.Key, "/z") {
					torn.Entries = append(torn.Entries, en)
				}
			}
			sortEntries(torn.Entries)
			return torn, err
		}
	}},
	{"every other snapshot is an old one", "Snapshot/RevisionNeverFalls", func(_ testing.TB, b *broken) {
		var n atomic.Int64
		var mu sync.Mutex
		old := map[string]dcs.Snapshot{}
		b.snapshot = func(ctx context.Context, prefix string) (dcs.Snapshot, error) {
			s, err := b.Backend.Snapshot(ctx, prefix)
			mu.Lock()
			defer mu.Unlock()
			if before, ok := old[prefix]; ok && n.Add(1)%2 == 0 {
				return before, err
			}
			old[prefix] = s
			return s, err
		}
	}},
	{"reading a key writes it", "Member/UnchangedNotRewritten", func(_ testing.TB, b *broken) {
		b.get = func(ctx context.Context, key string) (dcs.Entry, error) {
			en, err := b.Backend.Get(ctx, key)
			if err == nil {
				_, err = b.Backend.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.PutLeased(key, en.Value, en.Lease)}})
			}
			return en, err
		}
	}},
	{"an Open that writes", "Member/ReadOnlyClientTouchesNothing", func(tb testing.TB, b *broken) {
		txn := dcs.Txn{Then: []dcs.Write{dcs.Put("clients/"+b.ClientName(), nil)}}
		if _, err := b.Backend.Commit(tb.Context(), txn); err != nil {
			tb.Error(err)
		}
	}},
	{"a reader takes a lease", "Member/ReadOnlyClientTouchesNothing", func(_ testing.TB, b *broken) {
		b.snapshot = func(ctx context.Context, prefix string) (dcs.Snapshot, error) {
			if _, _, err := b.Backend.Grant(ctx, time.Minute); err != nil {
				return dcs.Snapshot{}, err
			}
			return b.Backend.Snapshot(ctx, prefix)
		}
	}},
}

func sortEntries(entries []dcs.Entry) {
	for i := range entries {
		for j := i; j > 0 && entries[j].Key < entries[j-1].Key; j-- {
			entries[j], entries[j-1] = entries[j-1], entries[j]
		}
	}
}

// timingOut fails every Wait that has to wait, with a timeout of its own inside.
func (b *broken) timingOut() {
	b.wait = func(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
		one, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		s, err := b.Backend.Wait(one, prefix, since)
		if err != nil && ctx.Err() == nil {
			err = &dcs.Error{Kind: dcs.ErrUnavailable, Err: err}
		}
		return s, err
	}
}

// TestWaitsOwnErrorIsReported makes a store fail a Wait with an error that wraps a timeout.
// The suite must report that error, and not take it for the end of its own limit.
func TestWaitsOwnErrorIsReported(t *testing.T) {
	c, ok := find("Wait/LastStateNeverMissed")
	require.True(t, ok)
	o := runCase(t, brokenHarness("timing out", func(_ testing.TB, b *broken) { b.timingOut() }), c)
	require.Equal(t, failed, o.verdict)
	all := strings.Join(o.failures, "\n")
	require.Contains(t, all, dcs.ErrUnavailable.Error())
	require.NotContains(t, all, "has not delivered the last state")
}

// waiting calls f for each snapshot that Wait would return. If f returns false, Wait
// continues past it.
func (b *broken) waiting(f func(since dcs.Revision, s dcs.Snapshot) bool) {
	b.wait = func(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
		for past := since; ; {
			s, err := b.Backend.Wait(ctx, prefix, past)
			if err != nil || f(since, s) {
				return s, err
			}
			past = s.Revision
		}
	}
}

var waitMutants = []mutant{
	{"the last event is dropped", "Wait/LastStateNeverMissed", func(_ testing.TB, b *broken) {
		// An event is delivered when the next one comes.
		b.wait = func(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
			s, err := b.Backend.Wait(ctx, prefix, since)
			if err != nil || since == 0 {
				return s, err
			}
			_, err = b.Backend.Wait(ctx, prefix, s.Revision)
			return s, err
		}
	}},
	{"a watch replays the past", "Wait/NeverBackwards", func(_ testing.TB, b *broken) {
		var mu sync.Mutex
		var first dcs.Snapshot
		n := 0
		b.wait = func(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
			s, err := b.Backend.Wait(ctx, prefix, since)
			mu.Lock()
			defer mu.Unlock()
			if n++; n == 1 {
				first = s
			}
			if n%20 == 0 && err == nil {
				s.Entries = first.Entries
			}
			return s, err
		}
	}},
	{"a watch that times out", "Wait/LastStateNeverMissed", func(_ testing.TB, b *broken) { b.timingOut() }},
	{"a watch that begins with the next change", "Wait/SinceZero", func(_ testing.TB, b *broken) {
		b.wait = func(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
			s, err := b.Backend.Snapshot(ctx, prefix)
			if err == nil && since == 0 && len(s.Entries) > 0 {
				since = s.Revision
			}
			return b.Backend.Wait(ctx, prefix, since)
		}
	}},
	{"a watch that begins with the first key", "Wait/SinceZero", func(_ testing.TB, b *broken) {
		b.waiting(func(since dcs.Revision, s dcs.Snapshot) bool { return since > 0 || len(s.Entries) > 0 })
	}},
	{"an empty store is at revision 0", "Wait/SinceZero", func(_ testing.TB, b *broken) {
		b.wait = func(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
			s, err := b.Backend.Wait(ctx, prefix, since)
			if err == nil && len(s.Entries) == 0 {
				s.Revision = 0
			}
			return s, err
		}
	}},
	{"deletions do not wake", "Wait/Delete", func(_ testing.TB, b *broken) {
		b.waiting(func(since dcs.Revision, s dcs.Snapshot) bool {
			for _, en := range s.Entries {
				if en.Modified > since {
					return true
				}
			}
			return since == 0
		})
	}},
	{"own writes do not wake", "Wait/OwnWrite", func(_ testing.TB, b *broken) {
		var own sync.Map
		b.commit = func(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
			r, err := b.Backend.Commit(ctx, t)
			own.Store(r, true)
			return r, err
		}
		b.waiting(func(_ dcs.Revision, s dcs.Snapshot) bool {
			_, mine := own.Load(s.Revision)
			return !mine
		})
	}},
	{"a context's end is an outage", "Wait/CtxEnds", func(_ testing.TB, b *broken) {
		b.wait = func(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
			s, err := b.Backend.Wait(ctx, prefix, since)
			if err != nil && dcs.KindOf(err) == nil {
				err = &dcs.Error{Kind: dcs.ErrUnavailable, Err: err}
			}
			return s, err
		}
	}},
	{"a hundred watches and no more", "Wait/ManyWaiters", func(_ testing.TB, b *broken) {
		slots := make(chan struct{}, 100)
		b.wait = func(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
			select {
			case slots <- struct{}{}:
				// A slot is kept by its watcher for a while.
				time.AfterFunc(10*time.Second, func() { <-slots })
				return b.Backend.Wait(ctx, prefix, since)
			case <-ctx.Done():
				return dcs.Snapshot{}, ctx.Err()
			}
		}
	}},
	{"polling disguised as watching", "Wait/NotAPoll", func(_ testing.TB, b *broken) {
		b.wait = func(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
			for {
				s, err := b.Backend.Snapshot(ctx, prefix)
				for _, en := range s.Entries {
					if en.Modified > since {
						return s, err
					}
				}
				if err != nil {
					return s, err
				}
				select {
				case <-time.After(100 * time.Millisecond):
				case <-ctx.Done():
					return s, ctx.Err()
				}
			}
		}
	}},
	{"a watch that hangs on a silent store", "Call/SilenceEnds", func(_ testing.TB, b *broken) {
		b.wait = func(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
			for {
				s, err := b.Backend.Wait(ctx, prefix, since)
				if err == nil || ctx.Err() != nil || errors.Is(err, dcs.ErrClosed) {
					return s, err
				}
			}
		}
	}},
	{"watches lag", "Hold/HandoverIsPrompt", func(_ testing.TB, b *broken) {
		b.wait = func(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
			s, err := b.Backend.Wait(ctx, prefix, since)
			time.Sleep(80 * time.Millisecond) // etcd's election, while its watcher is not in step
			return s, err
		}
	}},
	{"a watch ignores its context", "Hold/WaiterGivesUp", func(tb testing.TB, b *broken) {
		ended, end := context.WithCancel(context.Background())
		tb.Cleanup(end)
		b.wait = func(_ context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
			return b.Backend.Wait(ended, prefix, since)
		}
	}},
}

// errOf returns the error into which a broken store turns every unknown error.
func errOf(kind, err error) error {
	if err == nil || !errors.Is(err, dcs.ErrUnavailable) {
		return err
	}
	return &dcs.Error{Kind: kind, Err: fmt.Errorf("%v", err)} //nolint:errorlint // a broken store loses the kind
}
