package conformance

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// growthMutants are stores that keep something of each call, until they are closed.
var growthMutants = []mutant{
	{"a goroutine stays of each Wait that is given up", "Call/NoGrowth", func(_ testing.TB, b *broken) {
		closed := b.closing()
		b.wait = func(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
			s, err := b.Backend.Wait(ctx, prefix, since)
			if err != nil {
				go func() { <-closed }()
			}
			return s, err
		}
	}},
	{"a goroutine stays of each lease", "Call/NoGrowth", func(_ testing.TB, b *broken) {
		closed := b.closing()
		b.leases(func(*brokenLease, *dcs.Renewal) { go func() { <-closed }() })
	}},
	{"a goroutine stays of each lost request", "Call/NoGrowth", func(_ testing.TB, b *broken) {
		closed := b.closing()
		b.get = func(ctx context.Context, key string) (dcs.Entry, error) {
			began := time.Now()
			en, err := b.Backend.Get(ctx, key)
			if time.Since(began) > 0 { // the first copy was lost
				go func() { <-closed }()
			}
			return en, err
		}
	}},
	{"a descriptor stays of each lease", "Call/NoGrowth", func(tb testing.TB, b *broken) {
		b.leases(func(*brokenLease, *dcs.Renewal) {
			f, err := os.Open(os.DevNull)
			if err != nil {
				tb.Error(err)
				return
			}
			tb.Cleanup(func() { _ = f.Close() }) // it was only read
		})
	}},
}

// closing returns a channel that is closed with b.
func (b *broken) closing() <-chan struct{} {
	closed := make(chan struct{})
	end := sync.OnceFunc(func() { close(closed) })
	b.close = func() error {
		end()
		return b.Backend.Close()
	}
	return closed
}
