package watchcache

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
)

// Forget makes the Cache read the tree again before the next watch. The backend must
// call it when a watch may have missed changes.
func (c *Cache) Forget() { c.set(func() { c.synced = false }) }

// betweenWatches is the pause before the next watch.
var betweenWatches = backoff.Exponential{First: 5 * time.Millisecond, Most: 250 * time.Millisecond}

// run keeps a watch open until the Store is closed.
func (c *Cache) run() {
	defer c.done.Done()
	ctx := c.Life
	for n := 0; ctx.Err() == nil; n++ {
		began := dcs.Now()
		err := c.sync(ctx)
		final := isFinal(err) || isRefusal(err) // the read has tried every server that can be reached
		if err == nil {
			c.forgetLeft()
			err = c.follow(ctx)
			final = isFinal(err)
			if isRefusal(err) {
				err, final = c.confirm(ctx, err)
			}
		}
		if ctx.Err() != nil {
			break
		}
		c.set(func() { c.fault, c.final = err, final })
		if began.Elapsed() > time.Second {
			n = 0
		}
		betweenWatches.Wait(ctx, n)
	}
	c.set(func() { c.fault = dcs.ErrClosed })
}

// follow watches at one endpoint until the watch fails.
func (c *Cache) follow(ctx context.Context) error {
	if c.Follow != nil {
		return c.Follow(ctx)
	}
	return c.watch(ctx)
}

// forgetLeft drops the servers that the Pool ejected before a watch started, because
// the server of the new watch may be one of them and serve again.
func (c *Cache) forgetLeft() {
	for {
		select {
		case <-c.Left:
		default:
			return
		}
	}
}

// sync reads the tree if the Tree is not a copy.
func (c *Cache) sync(ctx context.Context) error {
	if c.isCopy() || c.Read == nil {
		return nil
	}
	one, cancel := context.WithTimeout(ctx, c.Budget)
	defer cancel()
	s, err := c.Read(one)
	if err != nil {
		return err
	}
	c.begin(s.Revision, s.Entries)
	return nil
}

// begin makes the Tree a copy of the tree that was read at rev.
func (c *Cache) begin(rev dcs.Revision, entries []dcs.Entry) {
	c.Tree.CopyFrom(rev, entries)
	c.set(func() { c.synced, c.base, c.servedAt, c.fault, c.final = true, rev, dcs.Now(), nil, false })
}

func (c *Cache) isCopy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.synced
}

// isFinal reports whether err is a definite answer of the store.
func isFinal(err error) bool {
	var f *backend.Failure
	return errors.As(err, &f) && f.IsFinal()
}

// isRefusal reports whether err is the refusal of one server that another one may
// contradict.
func isRefusal(err error) bool {
	var f *backend.Failure
	return errors.As(err, &f) && f.Unconfirmed
}

// confirm reads the tree after the server of the watch has refused. final reports
// whether all servers refuse. If the read succeeds, the server of the watch is at
// fault.
func (c *Cache) confirm(ctx context.Context, refusal error) (err error, final bool) {
	if c.Read == nil {
		return refusal, false
	}
	one, cancel := context.WithTimeout(ctx, c.Budget)
	defer cancel()
	_, err = c.Read(one)
	if isRefusal(err) || isFinal(err) {
		return err, true
	}
	var f *backend.Failure
	if errors.As(refusal, &f) && err == nil {
		c.Pool.Blame(f.Endpoint, f.Error())
	}
	return refusal, false
}
