package consul

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/remote"
)

// source is what the copy of the tree is made from.
func (b *Backend) source() remote.Source {
	return remote.Source{
		Backend: backendName, Budget: b.c.Timing.RetryTimeout, Life: b.c.name(b.life, "Wait"),
		Read: func(ctx context.Context) (dcs.Snapshot, error) {
			s, _, err := b.snapshot(ctx, "")
			return remote.Visible("", s), err
		},
		Snapshot: b.Snapshot, Raise: b.floor.Raise, Still: b.still, Follow: b.follow,
		Blame: func(endpoint, reason string) { b.pool.Blame(endpoint, reason) },
	}
}

// Wait implements [dcs.Backend].
func (b *Backend) Wait(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
	return b.copy.Wait(ctx, prefix, since)
}

// still asks for the index below prefix, which deletions move too, until Consul
// forgets them after some 15 minutes and the index is the whole store's: then
// it counts as changed.
func (b *Backend) still(ctx context.Context, prefix string, since dcs.Revision, _ map[string]bool) bool {
	a, err := do(ctx, b, endpoint.Read, func(ctx context.Context, c *conn) (listed, error) { return b.list(ctx, c, prefix) })
	return err == nil && a.Value.index <= since
}

// blocking is how long a blocking query waits for a change. A server that is
// silent is found by the questions beside it.
const blocking = time.Minute

// view is one blocking query after the other at one endpoint.
type view struct {
	b       *Backend
	copy    *remote.Replica
	c       *conn
	at      *endpoint.Attempt // until the endpoint has answered
	index   dcs.Revision      // that the next query waits on
	answers chan polled
	told    chan answered
	blame   bool
	asking  bool         // a question is on its way
	wanted  dcs.Revision // that the view must reach; 0: none
}

type polled struct {
	listed
	rev dcs.Revision // of the tree that was read
	err error
}

type answered struct {
	index dcs.Revision
	err   error
}

// follow watches at one endpoint, until it fails.
func (b *Backend) follow(ctx context.Context) error {
	if err := b.pool.Admit(ctx); err != nil {
		return err
	}
	at := b.pool.Pick(endpoint.Read)
	c, err := b.connected(at.Endpoint())
	if err != nil {
		at.End(err)
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	v := &view{b: b, copy: &b.copy, c: c, at: at, answers: make(chan polled), told: make(chan answered, 1)}
	var loops sync.WaitGroup
	loops.Add(1)
	go func() { defer loops.Done(); v.poll(ctx) }()
	err = v.loop(ctx, &loops)
	cancel()
	loops.Wait()
	v.opened(err)
	if err != nil && b.life.Err() == nil && v.blame {
		b.pool.Blame(c.addr, err.Error())
	}
	return err
}

// opened ends the Pool's attempt, once.
func (v *view) opened(err error) {
	if v.at != nil {
		v.at.End(err)
		v.at = nil
	}
}

// poll reads the tree again and again, each time when it has changed.
func (v *view) poll(ctx context.Context) {
	read := v.current
	for ctx.Err() == nil {
		p := read(ctx)
		select {
		case v.answers <- p:
		case <-ctx.Done():
		}
		if p.err != nil {
			return
		}
		v.index, read = p.index, v.query
		remote.Pause(ctx, v.b.polls.pause(p.bytes()))
	}
}

// current reads the tree by the quorum's word. Consul forgets deletions, and the
// index below the root is then older than the tree: a tree that is not the
// copy's has the whole store's index, which every deletion has moved.
func (v *view) current(ctx context.Context) polled {
	ctx, cancel := context.WithTimeout(ctx, v.b.pool.AttemptTimeout(endpoint.Read, v.b.c.Timing.RetryTimeout, 0))
	defer cancel()
	l, err := v.b.list(ctx, v.c, "")
	if err != nil || l.index > v.copy.Tree.Revision() {
		return polled{l, l.index, err}
	}
	if wrote, deleted := v.copy.Changes(visible(l)); len(wrote)+len(deleted) == 0 {
		return polled{l, l.index, nil}
	}
	rev, err := v.b.storeIndex(ctx, v.c)
	if err == nil {
		l, err = v.b.list(ctx, v.c, "") // which is not older than rev
	}
	return polled{l, max(rev, l.index), err}
}

// query is one blocking query. It is answered by the leader without asking the
// others each time: the view of one that has been replaced is not wrong but
// old, which the questions beside it find.
func (v *view) query(ctx context.Context) polled {
	limit := blocking + blocking/16 + v.b.c.Timing.RetryTimeout // Consul adds up to a sixteenth
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	l, err := call(ctx, v.c, func(ctx context.Context, token string) (listed, error) {
		o := v.c.reading(ctx, token)
		o.RequireConsistent, o.WaitIndex, o.WaitTime = false, uint64(v.index), blocking
		pairs, meta, err := v.c.api.KV().List(v.b.root, o)
		if err != nil {
			return listed{}, err
		}
		return v.b.listing(pairs, meta)
	})
	return polled{l, l.index, err}
}

func (v *view) loop(ctx context.Context, loops *sync.WaitGroup) error {
	quiet := time.NewTimer(v.copy.Every)
	defer quiet.Stop()
	check := time.NewTimer(time.Hour) // for a view that may lag
	check.Stop()
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case a := <-v.answers:
			if a.err != nil {
				v.blame = remote.Judge(a.err).Blame
				return a.err
			}
			v.opened(nil)
			if err := v.take(a); err != nil {
				v.blame = true
				return err
			}
			quiet.Reset(v.copy.Every)
		case <-v.copy.Behind:
			v.late(check)
		case <-check.C:
			if err := v.lagging(check); err != nil {
				return err
			}
		case <-quiet.C:
			v.ask(ctx, loops)
			quiet.Reset(v.copy.Every)
		case a := <-v.told:
			v.asking = false
			if a.err != nil {
				v.blame = remote.Judge(a.err).Blame
				return a.err
			}
			v.copy.Alive()
			v.copy.Saw(a.index)
		case addr := <-v.copy.Left:
			if addr == v.c.addr {
				return fmt.Errorf("%s was left out", addr)
			}
		}
	}
}

// ask asks an endpoint that has told nothing for a while whether it is there,
// and how far the tree is.
func (v *view) ask(ctx context.Context, loops *sync.WaitGroup) {
	if v.asking {
		return // it has its own end
	}
	v.asking = true
	loops.Add(1)
	go func() {
		defer loops.Done()
		limit := v.b.pool.AttemptTimeout(endpoint.Read, v.b.c.Timing.RetryTimeout, 0)
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		index, err := v.b.top(ctx, v.c)
		v.told <- answered{index, err}
	}()
}

// late gives the view the time of a pause and of an answer to reach what another
// answer named. It is one revision: under many Commits the latest one is always
// ahead.
func (v *view) late(check *time.Timer) {
	if latest := v.copy.Latest(); v.wanted == 0 && v.copy.Tree.Revision() < latest {
		v.wanted = latest
		check.Reset(v.copy.Limit + longestPoll)
	}
}

// lagging finds an endpoint whose view has not reached what another answer named.
func (v *view) lagging(check *time.Timer) error {
	if v.copy.Tree.Revision() < v.wanted {
		v.blame = true
		return remote.ErrBehind
	}
	v.wanted = 0
	v.late(check)
	return nil
}

// take makes the copy what was read.
func (v *view) take(p polled) error { return v.copy.Take(p.rev, visible(p.listed)) }

// visible are the entries of a list of the whole tree, bookkeeping left out.
func visible(l listed) []dcs.Entry {
	return remote.Visible("", dcs.Snapshot{Entries: slices.Clone(l.entries)}).Entries
}
