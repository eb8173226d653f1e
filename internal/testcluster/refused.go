package testcluster

import (
	"context"
	"sync"
	"testing"
)

// StartRefused makes each of calls again and again until ctx ends, three at a time. The
// servers must refuse all of them. The caller must wait for the end.
func StartRefused(ctx context.Context, tb testing.TB, calls ...func() error) *sync.WaitGroup {
	var callers sync.WaitGroup
	for _, call := range calls {
		for range 3 {
			callers.Go(func() {
				for ctx.Err() == nil {
					if call() == nil {
						tb.Error("a refused call succeeded")
					}
				}
			})
		}
	}
	return &callers
}
