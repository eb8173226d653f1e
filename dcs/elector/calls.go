package elector

import (
	"context"
	"fmt"
	"sync"

	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

// calls bounds the calls of a transport that may ignore its context. One call for each
// address runs at a time, so that at most one that was abandoned is left.
type calls struct {
	mu   sync.Mutex
	open map[string]chan struct{} // closed when the call has returned
}

// enter waits until no call for url runs. The caller must call leave when its own call
// has returned.
func (c *calls) enter(ctx context.Context, url string) (leave func(), err error) {
	for {
		c.mu.Lock()
		earlier := c.open[url]
		if earlier == nil {
			break
		}
		c.mu.Unlock()
		select {
		case <-earlier:
		case <-ctx.Done():
			return nil, fmt.Errorf("an earlier question to this address has not returned, and must by the deadline of its context: %w", ctx.Err())
		}
	}
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[string]chan struct{}{}
	}
	returned := make(chan struct{})
	c.open[url] = returned
	return func() {
		c.mu.Lock()
		delete(c.open, url)
		c.mu.Unlock()
		close(returned)
	}, nil
}

// call returns the result of f, or an error when ctx ends (E7). A panic of f is an error.
func call[T any](ctx context.Context, c *calls, name, url string, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	leave, err := c.enter(ctx, url)
	if err != nil {
		return none, err
	}
	answer := make(chan result, 1) // a late answer blocks no goroutine
	go func() {                    // ends with f
		var r result
		protect(name, func() (err error) { r.value, err = f(); return err }, func(err error) {
			r.err = err
			leave()
			answer <- r
		})
	}()
	select {
	case r := <-answer:
		return r.value, r.err
	case <-ctx.Done():
		return none, fmt.Errorf("no answer in time: %w", ctx.Err())
	}
}

// boundedAsker is an Asker that returns with its context.
type boundedAsker struct {
	cluster.Asker
	calls calls
}

// Ask implements [cluster.Asker].
func (a *boundedAsker) Ask(ctx context.Context, apiURL string) (cluster.Identity, error) {
	return call(ctx, &a.calls, "Ask", apiURL, func() (cluster.Identity, error) { return a.Asker.Ask(ctx, apiURL) })
}

// boundedTransport is a FailsafeTransport that returns with its context.
type boundedTransport struct {
	FailsafeTransport
	calls calls
}

// AskFailsafe implements [FailsafeTransport].
func (t *boundedTransport) AskFailsafe(ctx context.Context, apiURL string, r FailsafeRequest) (FailsafeAnswer, error) {
	return call(ctx, &t.calls, "AskFailsafe", apiURL, func() (FailsafeAnswer, error) { return t.FailsafeTransport.AskFailsafe(ctx, apiURL, r) })
}
