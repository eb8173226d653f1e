package raftstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/watchcache"
)

// mostClientBeat bounds the time between two beats that a client asks for.
const mostClientBeat = time.Second

// leastBeatTimeout is the shortest time for which a client waits for a beat, within
// half of RetryTimeout.
const leastBeatTimeout = time.Second

// source returns the source of the client's copy of the tree.
func (c *Client) source() watchcache.Source {
	return watchcache.Source{
		Backend: backendName, Budget: c.retryTimeout, Life: c.life, Pool: c.pool,
		Read:     func(ctx context.Context) (dcs.Snapshot, error) { return c.Snapshot(ctx, "") },
		Snapshot: c.Snapshot, Raise: c.minRevision.Raise, NoDeletesSince: c.unchanged, Follow: c.follow,
	}
}

// Wait blocks until the tree under prefix moved past since. All Waits are served
// from a tree in memory, which one stream from one node keeps up to date.
func (c *Client) Wait(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
	return c.copy.Wait(ctx, prefix, since)
}

// Commit applies t if all its conditions hold, as [Backend.Commit] does.
func (c *Client) Commit(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
	r, err := c.frontend.Commit(ctx, t)
	if err == nil {
		c.copy.Saw(r)
	}
	return r, err
}

// unchanged reports whether the store confirms that nothing under prefix moved past
// since.
func (c *Client) unchanged(ctx context.Context, prefix string, since dcs.Revision, _ map[string]bool) bool {
	o := c.ask(ctx, &request{op: opRead, prefix: prefix, since: since})
	return o.err == nil && !o.reply.moved
}

// treeSince reads the tree at or below prefix in parts.
func (c *Client) treeSince(ctx context.Context, r dcs.Revision, prefix string) (dcs.Snapshot, error) {
	body := feedRequest{kind: feedTree, revision: r, prefix: prefix}.encode()
	a, err := endpoint.Do(ctx, c.pool, endpoint.List, func(ctx context.Context, addr string) (dcs.Snapshot, error) {
		in, err := c.net.Open(ctx, addr, body)
		if err != nil {
			return dcs.Snapshot{}, clientFailure(addr, err)
		}
		defer in.Close()
		var s dcs.Snapshot
		for {
			m, err := receive(ctx, in)
			if err != nil {
				return s, clientFailure(addr, err)
			}
			s.Revision, s.Entries = m.revision, append(s.Entries, m.entries...)
			if m.last {
				return s, nil
			}
		}
	})
	return a.Value, err
}

func receive(ctx context.Context, in stream) (feedMessage, error) {
	body, err := in.Recv(ctx)
	if err != nil {
		return feedMessage{}, err
	}
	return decodeFeedMessage(body)
}

// follow receives one stream from one node, until it fails. The next stream is from
// another node, because a node without a quorum may answer for a while.
func (c *Client) follow(ctx context.Context) error {
	f := &follower{
		c: c, addr: c.streamFrom(), every: min(mostClientBeat, c.retryTimeout/8),
		messages: make(chan feedMessage), lastBeat: dcs.Now(),
	}
	err := f.run(ctx)
	if ctx.Err() != nil {
		return err
	}
	c.mu.Lock()
	c.left = f.addr
	c.mu.Unlock()
	if f.blame {
		c.pool.Blame(f.addr, err.Error())
	}
	// The refusal of one node counts for that node only. If all nodes refuse this
	// client, the calls report that.
	return errors.New(f.addr + ": " + err.Error())
}

// streamFrom returns the address of the best node except the one whose stream
// failed last.
func (c *Client) streamFrom() string {
	c.mu.Lock()
	left := c.left
	c.mu.Unlock()
	known := c.pool.Endpoints()
	if at := slices.IndexFunc(known, func(addr string) bool { return addr != left }); at >= 0 {
		return known[at]
	}
	return left
}

// follower receives one stream.
type follower struct {
	c        *Client
	addr     string
	every    time.Duration // between two beats
	messages chan feedMessage
	blame    bool // the node is at fault

	lastBeat dcs.Instant  // the last beat, or the beginning
	part     []dcs.Entry  // of a tree that comes in parts
	behind   dcs.Instant  // since when wanted is missing; zero if it is not
	wanted   dcs.Revision // that another answer named
}

// beatTimeout returns the time after which a stream without a beat has failed.
func (f *follower) beatTimeout() time.Duration {
	return max(2*f.every+f.every/4, min(leastBeatTimeout, f.c.retryTimeout/2))
}

func (f *follower) run(ctx context.Context) error {
	body := feedRequest{kind: feedChange, revision: f.c.copy.Tree.Revision(), every: f.every}.encode()
	open, cancel := context.WithTimeout(ctx, f.beatTimeout())
	in, err := f.c.net.Open(open, f.addr, body)
	cancel()
	if err != nil {
		f.blame = true
		return err
	}
	defer in.Close()
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	var receiving sync.WaitGroup
	defer receiving.Wait()
	defer stop()
	receiving.Go(func() { ended <- f.receive(ctx, in) })
	return f.loop(ctx, ended)
}

// receive passes messages on until the stream or ctx ends.
func (f *follower) receive(ctx context.Context, in stream) error {
	for {
		m, err := receive(ctx, in)
		if err != nil {
			return err
		}
		select {
		case f.messages <- m:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (f *follower) loop(ctx context.Context, ended <-chan error) error {
	r := &f.c.copy
	tick := time.NewTicker(max(min(f.every, r.Limit)/4, 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-ended:
			return err
		case m := <-f.messages:
			if err := f.take(m); err != nil {
				return err
			}
		case <-r.Behind:
			if f.behind.IsZero() {
				f.behind, f.wanted = dcs.Now(), r.Latest()
			}
		case <-tick.C:
			if err := f.check(); err != nil {
				return err
			}
		case addr := <-r.Left:
			if addr == f.addr {
				return fmt.Errorf("endpoint %s was ejected", addr)
			}
		}
	}
}

// check returns an error if the stream is silent, or if its node lags behind the
// revisions of other answers. A node without contact to the quorum sends no beats.
func (f *follower) check() error {
	r := &f.c.copy
	if r.Tree.Revision() >= f.wanted {
		f.behind = dcs.Instant{}
	}
	switch {
	case f.lastBeat.Elapsed() > f.beatTimeout():
		return fmt.Errorf("no beat on the stream for %v", f.lastBeat.Elapsed().Round(time.Millisecond))
	case !f.behind.IsZero() && f.behind.Elapsed() > r.Limit:
		f.blame = true
		return errors.New("the stream lags behind the store")
	}
	return nil
}

// take applies one message.
func (f *follower) take(m feedMessage) error {
	tree := f.c.copy.Tree
	switch m.kind {
	case feedChange:
		for _, ch := range m.changes {
			// Changes that the tree has already are the same.
			if rev := dcs.Revision(ch.index); rev > tree.Revision() {
				tree.Follow(rev, detached(ch.wrote), ch.deleted)
			}
		}
	case feedTree:
		if f.part = append(f.part, detached(m.entries)...); m.last {
			part := f.part
			f.part = nil
			if m.revision > tree.Revision() {
				return f.c.copy.Take(m.revision, part)
			}
		}
	case feedBeat:
		f.lastBeat = dcs.Now()
		tree.Advance(m.revision)
		f.c.copy.Alive()
	}
	return nil
}

// detached returns entries whose values do not keep the message alive.
func detached(entries []dcs.Entry) []dcs.Entry {
	for i := range entries {
		entries[i].Value = bytes.Clone(entries[i].Value)
	}
	return entries
}
