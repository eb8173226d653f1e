package backend

import (
	"context"
	"sync"
	"time"
)

// Flight shares one call among the callers that need its result at the same time. Each
// caller waits by its own context, and the call goes on when the caller that began it has
// left. The zero value is ready to use.
type Flight[T any] struct {
	mu      sync.Mutex
	running *flightCall[T]
}

// flightCall is one call.
type flightCall[T any] struct {
	ctx   context.Context //nolint:containedctx // the context of the call
	done  chan struct{}
	value T
	err   error
}

// Do returns the value of ready, if there is one. Otherwise it waits for the call under way,
// or begins one. The context of the call ends with life or after limit. ready must find the
// result of a call that has succeeded. It is called under a lock and must not block.
func (f *Flight[T]) Do(ctx, life context.Context, limit time.Duration, ready func() (T, bool), call func(ctx context.Context) (T, error)) (T, error) {
	f.mu.Lock()
	if v, ok := ready(); ok {
		f.mu.Unlock()
		return v, nil
	}
	r := f.running
	if r == nil {
		callCtx, cancel := context.WithTimeout(life, limit)
		r = &flightCall[T]{ctx: callCtx, done: make(chan struct{})}
		f.running = r
		go func() {
			defer cancel()
			r.value, r.err = call(r.ctx)
			f.mu.Lock()
			f.running = nil
			f.mu.Unlock()
			close(r.done)
		}()
	}
	f.mu.Unlock()
	select {
	case <-r.done:
		return r.value, r.err
	case <-ctx.Done():
	}
	var zero T
	if deadline, _ := r.ctx.Deadline(); time.Until(deadline) > grace {
		return zero, ctx.Err()
	}
	// The call ends now too, and returns the reason for its failure in a moment.
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-r.done:
		return r.value, r.err
	case <-t.C:
		return zero, ctx.Err()
	}
}

// grace is how long Do waits, after the caller's context has ended, for a call that ends at
// the same time.
const grace = 20 * time.Millisecond
