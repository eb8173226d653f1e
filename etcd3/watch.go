package etcd3

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/kv"
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

// still reads what was there at an older revision: it may have been compacted,
// and then it counts as changed.
func (b *Backend) still(ctx context.Context, prefix string, since dcs.Revision, now map[string]bool) bool {
	ranges := b.ranges(prefix)
	for _, r := range ranges {
		r.KeysOnly, r.Revision = true, int64(since) //nolint:gosec // G115: it was etcd's
	}
	a, err := do(ctx, b, endpoint.Read, func(ctx context.Context, c *conn) ([]*pb.RangeResponse, error) {
		r, _, err := b.read(ctx, c, ranges...)
		return r, err
	})
	if err != nil {
		return false
	}
	for _, e := range remote.Visible("", dcs.Snapshot{Entries: b.entries(a.Value)}).Entries {
		if !now[e.Key] {
			return false
		}
	}
	return true
}

// follow is one watch at one member, until it fails.
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
	defer cancel()
	v := &view{b: b, copy: &b.copy, c: c, from: b.copy.Tree.Revision(), at: at}
	err = v.follow(ctx)
	v.opened(err)
	if err != nil && ctx.Err() == nil && v.blame {
		b.pool.Blame(c.addr, text(err))
	}
	return err
}

// watched is one message of the stream, or its end.
type watched struct {
	*pb.WatchResponse
	err error
}

// view is one watch at one member.
type view struct {
	b       *Backend
	copy    *remote.Replica
	c       *conn
	from    dcs.Revision
	answers chan watched
	stream  pb.Watch_WatchClient
	at      *endpoint.Attempt // until the member has answered
	blame   bool
	rereads bool // the tree is read instead of asking for progress

	events []*mvccpb.Event // of a message that came in parts
	probed dcs.Instant     // when progress was asked for; zero once anything came
	asked  dcs.Instant     // the same; zero once the view has reached wanted
	wanted dcs.Revision
}

// opened ends the Pool's attempt, once.
func (v *view) opened(err error) {
	if v.at != nil {
		v.at.End(err)
		v.at = nil
	}
}

// follow watches until that fails, with a new token where the old one had
// expired. Some releases end such a watch as one that the user has no right to,
// so that the denial is believed of a new token only.
func (v *view) follow(ctx context.Context) error {
	c := v.c
	token, err := c.token(ctx)
	for n := 1; err == nil; n++ {
		err = v.watch(ctx, token)
		denied := errors.Is(err, errDenied)
		if denied && (n > 1 || c.denied.Load() == token.login) {
			c.denied.Store(token.login)
			return err
		}
		if n == maxLogins || !denied && !c.staleToken(err) {
			return err
		}
		token, err = c.login(ctx, token)
	}
	return c.failed(ctx, err, false)
}

// watch opens the watch and applies its messages. It begins at the copy's own
// revision and drops what the copy has: from the one after it an idle member
// would answer no question about progress.
func (v *view) watch(ctx context.Context, token authToken) (err error) {
	c := v.c
	v.answers, v.events, v.probed, v.asked = make(chan watched, 16), nil, dcs.Instant{}, dcs.Instant{}
	timeout := v.b.pool.AttemptTimeout(endpoint.Read, v.b.c.Timing.RetryTimeout, 0)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	late := time.AfterFunc(timeout, cancel)
	defer late.Stop()
	if v.stream, err = c.watch.Watch(outgoing(ctx, token)); err != nil {
		return c.failed(ctx, err, false)
	}
	root := v.b.root
	create := &pb.WatchCreateRequest{Key: []byte(root), RangeEnd: below(root), StartRevision: int64(v.from), Fragment: true} //nolint:gosec // G115: etcd's
	if err := v.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		return c.failed(ctx, err, false)
	}
	// Asked once the stream is open, because both go through one connection then.
	v.rereads = !c.answersProgress(ctx)
	var reader sync.WaitGroup
	reader.Add(1)
	go func() { defer reader.Done(); v.read(ctx) }()
	defer reader.Wait()
	defer cancel()
	return v.loop(ctx, late)
}

func (v *view) send(r *pb.WatchRequest) error { return v.stream.Send(r) }

func (v *view) read(ctx context.Context) {
	for {
		r, err := v.stream.Recv()
		select {
		case v.answers <- watched{r, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

func (v *view) loop(ctx context.Context, late *time.Timer) error {
	c := v.c
	probe := time.NewTimer(v.copy.Every)
	defer probe.Stop()
	check := time.NewTimer(time.Hour) // for a view that may lag
	check.Stop()
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			if v.b.life.Err() != nil {
				return context.Cause(v.b.life)
			}
			return context.DeadlineExceeded // it was not even opened
		case a := <-v.answers:
			if a.err != nil {
				v.blame = true
				return c.failed(ctx, a.err, true)
			}
			late.Stop()
			if err := v.take(a.WatchResponse); err != nil {
				return err
			}
			probe.Reset(v.copy.Every)
		case <-v.copy.Behind:
			check.Reset(v.copy.Limit / 2)
		case <-check.C:
			if err := v.lagging(ctx, check); err != nil {
				return err
			}
		case <-probe.C:
			if err := v.quiet(ctx); err != nil {
				return err
			}
			probe.Reset(v.copy.Every)
		case addr := <-v.copy.Left:
			if addr == c.addr {
				return fmt.Errorf("%s was left out", addr)
			}
		}
	}
}

// quiet asks a member that has told nothing for a while whether it is there.
func (v *view) quiet(ctx context.Context) error {
	if !v.probed.IsZero() && v.probed.Elapsed() >= v.copy.Every*9/10 {
		v.blame = true
		return fmt.Errorf("its watch is silent for %v", v.probed.Elapsed().Round(time.Millisecond))
	}
	return v.ask(ctx)
}

// ask asks for progress. A member answers only when its watch has caught up.
func (v *view) ask(ctx context.Context) error {
	if v.rereads {
		return v.reread(ctx)
	}
	if v.probed.IsZero() {
		v.probed = dcs.Now()
	}
	if v.asked.IsZero() {
		v.asked, v.wanted = dcs.Now(), v.copy.Latest()
	}
	return v.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

// lagging finds a member whose view stays behind what other answers have
// named: one that is cut off goes on answering for seconds, with an old view.
func (v *view) lagging(ctx context.Context, check *time.Timer) error {
	if v.copy.Tree.Revision() >= v.copy.Latest() {
		v.asked = dcs.Instant{}
		return nil
	}
	if !v.asked.IsZero() && v.asked.Elapsed() >= v.copy.Limit && v.copy.Tree.Revision() < v.wanted {
		v.blame = true
		return errBehind
	}
	check.Reset(v.copy.Limit / 2)
	return v.ask(ctx)
}

// reread takes the whole tree from the member. Events that come later are then
// dropped as far as the tree has them already.
func (v *view) reread(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, v.copy.Every)
	defer cancel()
	ranges, header, err := v.b.read(ctx, v.c, v.b.ranges("")...)
	if err != nil {
		v.blame = true
		return err
	}
	s := remote.Visible("", dcs.Snapshot{Revision: revision(header.Revision), Entries: v.b.entries(ranges)})
	return v.copy.Take(s.Revision, s.Entries)
}

// take applies one message.
func (v *view) take(r *pb.WatchResponse) error {
	w := v.copy
	v.probed = dcs.Instant{}
	if err := v.b.seen(v.c, r.Header); err != nil {
		v.blame = true
		return err
	}
	if r.Canceled {
		return v.canceled(r)
	}
	if r.Created {
		v.opened(nil)
	}
	if v.events = append(v.events, r.Events...); r.Fragment {
		return nil
	}
	events := v.events
	v.events = nil
	switch {
	case len(events) > 0:
		v.apply(events)
	case !r.Created:
		if revision(r.Header.Revision) < v.from {
			return errBehind
		}
		w.Tree.Advance(revision(r.Header.Revision))
		if revision(r.Header.Revision) < v.wanted {
			return nil // it answers, but not for the store: a question stays open
		}
		v.asked = dcs.Instant{}
	}
	w.Alive()
	return nil
}

// canceled is etcd's end of a watch.
func (v *view) canceled(r *pb.WatchResponse) error {
	if r.CompactRevision > 0 {
		v.copy.Forget()
		return fmt.Errorf("the watch fell behind a compaction at revision %d: reading the tree again", r.CompactRevision)
	}
	if strings.Contains(r.CancelReason, "permission denied") {
		return &remote.Failure{Endpoint: v.c.addr, Kind: dcs.ErrUnauthorized, Unconfirmed: true, Err: errDenied}
	}
	v.blame = true
	return fmt.Errorf("the member ended the watch: %s", r.CancelReason)
}

// apply passes events on that the copy does not have, one revision after the
// other, so that no Snapshot is torn.
func (v *view) apply(events []*mvccpb.Event) {
	tree := v.copy.Tree
	for len(events) > 0 {
		rev, n := events[0].Kv.ModRevision, 0
		var wrote []dcs.Entry
		var deleted []string
		for n < len(events) && events[n].Kv.ModRevision == rev {
			e := v.b.entry(events[n].Kv)
			switch {
			case kv.Hidden(e.Key):
			case events[n].Type == mvccpb.Event_DELETE:
				deleted = append(deleted, e.Key)
			default:
				wrote = append(wrote, e)
			}
			n++
		}
		events = events[n:]
		if revision(rev) > tree.Revision() {
			tree.Follow(revision(rev), wrote, deleted)
		}
	}
}
