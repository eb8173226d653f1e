package etcd3

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/kvtree"
	"github.com/holdfast-dcs/holdfast/internal/watchcache"
)

// source returns the functions from which the watch cache is built.
func (b *Backend) source() watchcache.Source {
	return watchcache.Source{
		Backend: backendName, Budget: b.c.Timing.RetryTimeout, Life: b.hooks.named(b.life, "Wait"), Pool: b.pool,
		Read: func(ctx context.Context) (dcs.Snapshot, error) {
			s, _, err := b.snapshot(ctx, "")
			return watchcache.Visible("", s), err
		},
		Snapshot: b.Snapshot, Raise: b.minRevision.Raise, NoDeletesSince: b.noDeletesSince, Stream: b.view,
	}
}

// Wait implements [dcs.Backend].
func (b *Backend) Wait(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
	return b.copy.Wait(ctx, prefix, since)
}

// noDeletesSince reports whether no key under prefix was deleted after since. It compares
// present with the keys at since. A revision that has been compacted counts as changed.
func (b *Backend) noDeletesSince(ctx context.Context, prefix string, since dcs.Revision, present map[string]bool) bool {
	ranges := b.ranges(prefix)
	for _, r := range ranges {
		r.KeysOnly, r.Revision = true, int64(since)
	}
	a, err := do(ctx, b, endpoint.List, func(ctx context.Context, c *conn) ([]*pb.RangeResponse, error) {
		r, _, err := b.read(ctx, c, ranges...)
		return r, err
	})
	if err != nil {
		return false
	}
	for _, e := range watchcache.Visible("", dcs.Snapshot{Entries: b.entries(a.Value)}).Entries {
		if !present[e.Key] {
			return false
		}
	}
	return true
}

// A view is the watch at one member.
type view struct {
	b        *Backend
	w        *watchcache.Watch
	c        *conn // set by Follow
	from     dcs.Revision
	events   []*mvccpb.Event // received parts of a fragmented message
	answered chan struct{}   // receives a value after each message
	rereads  bool            // the tree is read instead of asking for progress

	mu     sync.Mutex
	stream pb.Watch_WatchClient
}

// view returns a watch that is not open yet.
func (b *Backend) view(w *watchcache.Watch) watchcache.Stream {
	return &view{b: b, w: w, from: b.copy.Tree.Revision(), answered: make(chan struct{}, 1)}
}

// Follow watches until the watch fails. If the token had expired, it watches again
// with a new one. Some releases end a watch with an expired token as one that the user
// has no permission for, so that only the denial of a new token counts.
func (v *view) Follow(ctx context.Context) error {
	c, err := v.b.admitted(ctx, v.w.Endpoint())
	if err != nil {
		return err
	}
	v.c = c
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

// watch opens the watch and applies its messages. It begins at the revision of the
// cache and drops the events that the cache has. If it began at the next revision, an
// idle member would not answer progress requests.
func (v *view) watch(ctx context.Context, token authToken) error {
	c := v.c
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.watch.Watch(outgoing(ctx, token))
	if err != nil {
		return c.notSent(ctx, err)
	}
	v.events = nil
	v.mu.Lock()
	v.stream = stream
	v.mu.Unlock()
	root := v.b.root
	create := &pb.WatchCreateRequest{Key: []byte(root), RangeEnd: below(root), StartRevision: int64(v.from), Fragment: true}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		return c.failed(ctx, err, false)
	}
	// The version is read after the stream was opened, so that both use one connection.
	v.rereads = !c.answersProgress(ctx)
	for {
		r, err := stream.Recv()
		if err != nil {
			return c.failed(ctx, err, true)
		}
		if err := v.take(r); err != nil {
			return err
		}
	}
}

// Probe sends a progress request. A member answers it only when the watch has caught
// up with the revision of the member itself.
func (v *view) Probe(ctx context.Context) error {
	if v.rereads {
		return v.reread(ctx)
	}
	select {
	case <-v.answered: // received before the request
	default:
	}
	v.mu.Lock()
	stream := v.stream
	v.mu.Unlock()
	err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
	if err == nil {
		select {
		case <-v.answered:
			return nil
		case <-ctx.Done():
		}
	}
	<-ctx.Done() // Follow reports the end of the stream
	return ctx.Err()
}

// reread reads the whole tree from the member. Events that arrive later are dropped if
// the tree has them already.
func (v *view) reread(ctx context.Context) error {
	ranges, header, err := v.b.read(ctx, v.c, v.b.ranges("")...)
	if err != nil {
		return err
	}
	s := watchcache.Visible("", dcs.Snapshot{Revision: revision(header.Revision), Entries: v.b.entries(ranges)})
	return v.w.TakeNewer(s.Revision, s.Entries)
}

// take applies one message.
func (v *view) take(r *pb.WatchResponse) error {
	if err := v.b.seen(v.c, r.Header); err != nil {
		return err
	}
	if r.Canceled {
		return v.canceled(r)
	}
	if v.events = append(v.events, r.Events...); r.Fragment {
		v.w.Heard()
		return nil
	}
	events, at := v.events, revision(r.Header.Revision)
	v.events = nil
	switch {
	case len(events) > 0:
		v.apply(events)
	case !r.Created && at < v.from:
		return watchcache.ErrBehind
	case !r.Created:
		if err := v.w.Apply(at, nil, nil); err != nil {
			return err
		}
	}
	v.w.Heard()
	if !r.Created {
		select {
		case v.answered <- struct{}{}:
		default:
		}
	}
	return nil
}

// canceled returns the error of a watch that etcd has ended.
func (v *view) canceled(r *pb.WatchResponse) error {
	f := &backend.Failure{Endpoint: v.c.addr}
	switch {
	case r.CompactRevision > 0:
		v.b.copy.Forget()
		f.Err = fmt.Errorf("the watch fell behind a compaction at revision %d; reading the tree again", r.CompactRevision)
	case strings.Contains(r.CancelReason, "permission denied"):
		f.Err, f.Kind, f.Unconfirmed = errDenied, dcs.ErrUnauthorized, true
	default:
		f.Err, f.Blame = fmt.Errorf("the member ended the watch: %s", r.CancelReason), true
	}
	return f
}

// apply applies the events that the cache does not have, one whole revision after the
// other, so that every Snapshot is consistent.
func (v *view) apply(events []*mvccpb.Event) {
	for len(events) > 0 {
		rev, n := events[0].Kv.ModRevision, 0
		var wrote []dcs.Entry
		var deleted []string
		for n < len(events) && events[n].Kv.ModRevision == rev {
			e := v.b.entry(events[n].Kv)
			switch {
			case kvtree.Hidden(e.Key):
			case events[n].Type == mvccpb.Event_DELETE:
				deleted = append(deleted, e.Key)
			default:
				wrote = append(wrote, e)
			}
			n++
		}
		events = events[n:]
		v.w.ApplyNewer(revision(rev), wrote, deleted)
	}
}
