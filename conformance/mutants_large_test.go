package conformance

import (
	"cmp"
	"context"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// largeMutants are stores that work until a tree is large.
var largeMutants = []mutant{
	{"a large tree is read in two parts", "Wait/LargeTree", func(_ testing.TB, b *broken) {
		b.readingTwice(func(first, second dcs.Snapshot) dcs.Snapshot {
			i := len(first.Entries) / 2
			j, _ := slices.BinarySearchFunc(second.Entries, first.Entries[i].Key, func(en dcs.Entry, key string) int { return cmp.Compare(en.Key, key) })
			second.Entries = slices.Concat(first.Entries[:i], second.Entries[j:])
			return second
		})
	}},
	{"a large tree is read until nothing changes", "Wait/LargeTree", func(_ testing.TB, b *broken) {
		b.snapshot = func(ctx context.Context, prefix string) (dcs.Snapshot, error) {
			before := dcs.Snapshot{}
			for {
				s, err := b.Backend.Snapshot(ctx, prefix)
				if err != nil || len(s.Entries) < isLarge || s.Revision == before.Revision {
					return s, err
				}
				before = s
				time.Sleep(30 * time.Millisecond)
			}
		}
	}},
	{"an old tree under a new revision", "Wait/LargeTree", func(_ testing.TB, b *broken) {
		b.readingTwice(func(first, second dcs.Snapshot) dcs.Snapshot {
			first.Revision = second.Revision
			return first
		})
	}},
	{"a list of a thousand keys", "Wait/LargeTree", func(_ testing.TB, b *broken) {
		b.snapshot = func(ctx context.Context, prefix string) (dcs.Snapshot, error) {
			s, err := b.Backend.Snapshot(ctx, prefix)
			s.Entries = s.Entries[:min(len(s.Entries), isLarge)]
			return s, err
		}
	}},
	{"a Wait that starts again at each change of a large tree", "Wait/LargeTree", func(_ testing.TB, b *broken) {
		b.wait = func(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
			for {
				s, err := b.Backend.Wait(ctx, prefix, since)
				if err != nil || len(s.Entries) < isLarge {
					return s, err
				}
				time.Sleep(30 * time.Millisecond) // it reads the tree
				if now, err := b.Backend.Snapshot(ctx, prefix); err != nil || now.Revision == s.Revision {
					return now, err
				}
			}
		}
	}},
}

// isLarge is the number of keys from which on a mutant breaks.
const isLarge = 1000

// readingTwice makes a Snapshot of a large tree two reads. f returns the result of both.
func (b *broken) readingTwice(f func(first, second dcs.Snapshot) dcs.Snapshot) {
	b.snapshot = func(ctx context.Context, prefix string) (dcs.Snapshot, error) {
		first, err := b.Backend.Snapshot(ctx, prefix)
		if err != nil || len(first.Entries) < isLarge {
			return first, err
		}
		time.Sleep(30 * time.Millisecond)
		second, err := b.Backend.Snapshot(ctx, prefix)
		if err != nil {
			return second, err
		}
		return f(first, second), nil
	}
}
