package etcd3

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/kv"
)

// watcher keeps a copy of the tree by one watch at one member, which feeds
// every Wait of the Store. It is started by the first Wait.
type watcher struct {
	b     *Backend
	tree  *kv.Tree
	start sync.Once
	done  sync.WaitGroup
	every time.Duration // between two probes of a quiet member
	limit time.Duration // how long a member's view may lag behind

	latest  atomic.Int64 // the largest revision that any answer named
	running atomic.Bool
	behind  chan struct{} // told when latest is ahead of the tree
	left    chan string   // members that the Pool left out

	mu     sync.Mutex
	synced bool          // the tree is a copy
	base   dcs.Revision  // what was before is not in it
	heard  dcs.Instant   // when the watch last knew that the store serves
	fault  error         // why it does not
	change chan struct{} // closed when any of these changes
}

func (w *watcher) init(b *Backend) {
	budget := b.c.Timing.RetryTimeout
	w.b, w.tree = b, kv.New()
	w.every = min(2500*time.Millisecond, budget/4)
	w.limit = min(500*time.Millisecond, budget/6)
	w.behind, w.left, w.change = make(chan struct{}, 1), make(chan string, 16), make(chan struct{})
}

func (w *watcher) close() {
	w.start.Do(func() {}) // none is started any more
	w.done.Wait()
}

// saw is told of the revision in every answer.
func (w *watcher) saw(rev int64) {
	for {
		latest := w.latest.Load()
		if rev <= latest {
			return
		}
		if w.latest.CompareAndSwap(latest, rev) {
			break
		}
	}
	if w.running.Load() && w.tree.Revision() < revision(rev) {
		select {
		case w.behind <- struct{}{}:
		default:
		}
	}
}

// leave tells the watch that a member was left out.
func (w *watcher) leave(addr string) {
	select {
	case w.left <- addr:
	default:
	}
}

// Wait implements [dcs.Backend].
func (b *Backend) Wait(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
	w := &b.watcher
	w.start.Do(func() {
		w.mu.Lock()
		w.heard = dcs.Now()
		w.mu.Unlock()
		w.running.Store(true)
		w.done.Add(1)
		go w.run()
	})
	began := dcs.Now()
	for {
		moved := w.tree.Moved(prefix)
		synced, change, silent, fault := w.state(began)
		if err := w.over(ctx, prefix, silent, fault); err != nil {
			return dcs.Snapshot{}, err
		}
		if synced && since < w.begins() {
			next, err := w.before(ctx, prefix, since)
			if err != nil {
				return dcs.Snapshot{}, err
			}
			since = next
		}
		if synced && w.tree.MovedSince(prefix, since) {
			s, ok, err := w.answer(ctx, prefix, since)
			if ok || err != nil {
				return s, err
			}
		}
		w.sleep(ctx, moved, change, b.c.Timing.RetryTimeout-silent)
	}
}

// begins is the revision from which on the copy knows what changed.
func (w *watcher) begins() dcs.Revision {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.base
}

// before finds out whether anything changed between since and the copy's
// beginning, which the copy cannot tell. It returns the beginning if nothing
// did, else since.
func (w *watcher) before(ctx context.Context, prefix string, since dcs.Revision) (dcs.Revision, error) {
	base := w.begins()
	now := map[string]bool{}
	for _, e := range w.tree.Snapshot(prefix).Entries {
		if e.Modified > since {
			return since, nil
		}
		now[e.Key] = true
	}
	if since == 0 {
		return since, nil
	}
	one, cancel := context.WithTimeout(ctx, w.b.c.Timing.RetryTimeout)
	defer cancel()
	ranges := w.b.ranges(prefix)
	for _, r := range ranges {
		r.KeysOnly, r.Revision = true, int64(since) //nolint:gosec // G115: it was etcd's
	}
	a, err := do(one, w.b, endpoint.Read, func(ctx context.Context, c *conn) ([]*pb.RangeResponse, error) {
		r, _, err := w.b.read(ctx, c, ranges...)
		return r, err
	})
	if ctx.Err() != nil {
		return since, ctx.Err()
	}
	if err != nil {
		return since, nil //nolint:nilerr // it may have been compacted: then it counts as changed
	}
	then := visible("", dcs.Snapshot{Entries: w.b.entries(a.Value)}).Entries
	for _, e := range then {
		if !now[e.Key] {
			return since, nil
		}
	}
	return base, nil
}

// state is what a Wait that began at began has to know.
func (w *watcher) state(began dcs.Instant) (synced bool, change <-chan struct{}, silent time.Duration, fault error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	heard := w.heard
	if heard.Before(began) {
		heard = began
	}
	return w.synced, w.change, heard.Elapsed(), w.fault
}

// over returns what ends a Wait, or nil.
func (w *watcher) over(ctx context.Context, prefix string, silent time.Duration, fault error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if w.b.life.Err() != nil {
		return &dcs.Error{Backend: backendName, Op: "Wait", Key: prefix, Kind: dcs.ErrClosed}
	}
	var f *failure
	if errors.As(fault, &f) && f.kind != nil || silent >= w.b.c.Timing.RetryTimeout {
		if fault == nil {
			fault = errors.New("the watch is silent")
		}
		return kinded("Wait", prefix, "", fault)
	}
	return nil
}

func (w *watcher) sleep(ctx context.Context, moved, change <-chan struct{}, d time.Duration) {
	t := time.NewTimer(max(d, time.Millisecond))
	defer t.Stop()
	select {
	case <-moved:
	case <-change:
	case <-t.C:
	case <-ctx.Done():
	case <-w.b.life.Done():
	}
}

// answer is the Snapshot that ends a Wait: the copy's, or, where the Store has
// returned a later one already, the store's own.
func (w *watcher) answer(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, bool, error) {
	s := w.tree.Snapshot(prefix)
	if s.Revision > since && w.b.raise(s.Revision) {
		return visible(prefix, s), true, nil
	}
	if s.Revision <= since {
		return s, false, nil
	}
	one, cancel := context.WithTimeout(ctx, w.b.c.Timing.RetryTimeout)
	defer cancel()
	s, err := w.b.Snapshot(one, prefix)
	if err != nil && ctx.Err() != nil {
		return s, false, ctx.Err()
	}
	return s, err == nil && s.Revision > since, err
}

// set changes what Waits see.
func (w *watcher) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.change)
	w.change = make(chan struct{})
}

// alive notes that the store was heard of.
func (w *watcher) alive() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard, w.fault = dcs.Now(), nil
}

// run keeps the watch going until the Store is closed.
func (w *watcher) run() {
	defer w.done.Done()
	ctx := w.b.c.name(w.b.life, "Wait")
	for n := 0; ctx.Err() == nil; n++ {
		began := dcs.Now()
		err := w.session(ctx)
		if ctx.Err() != nil {
			break
		}
		w.set(func() { w.fault = err })
		if began.Elapsed() > time.Second {
			n = 0
		}
		pause(ctx, rand.N(min(5*time.Millisecond<<min(n, 10), 250*time.Millisecond))) //nolint:gosec // G404: jitter
	}
	w.set(func() { w.fault = dcs.ErrClosed })
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// session is one watch at one member, until it fails.
func (w *watcher) session(ctx context.Context) error {
	if err := w.sync(ctx); err != nil {
		return err
	}
	at := w.b.pool.Pick(endpoint.Read)
	c, err := w.b.connected(at.Endpoint())
	if err != nil {
		at.End(err)
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	v := &view{w: w, c: c, from: w.tree.Revision(), answers: make(chan watched, 16), at: at}
	err = v.follow(ctx)
	v.opened(err)
	if err != nil && ctx.Err() == nil && v.blame {
		w.b.pool.Blame(c.addr, text(err))
	}
	return err
}

// sync makes the tree a copy, if it is none.
func (w *watcher) sync(ctx context.Context) error {
	w.mu.Lock()
	synced := w.synced
	w.mu.Unlock()
	if synced {
		return nil
	}
	one, cancel := context.WithTimeout(ctx, w.b.c.Timing.RetryTimeout)
	defer cancel()
	s, _, err := w.b.snapshot(one, "")
	if err != nil {
		return err
	}
	w.tree.Become(s.Revision, visible("", s).Entries)
	w.set(func() { w.synced, w.base, w.heard, w.fault = true, s.Revision, dcs.Now(), nil })
	return nil
}

// watched is one message of the stream, or its end.
type watched struct {
	*pb.WatchResponse
	err error
}

// view is one watch at one member.
type view struct {
	w       *watcher
	c       *conn
	from    dcs.Revision
	answers chan watched
	stream  pb.Watch_WatchClient
	at      *endpoint.Attempt // until the member has answered
	blame   bool

	events []*mvccpb.Event // of a message that came in parts
	probed dcs.Instant     // when progress was asked for; zero once anything came
	asked  dcs.Instant     // the same; zero once the view has reached wanted
	wanted int64
}

// opened ends the Pool's attempt, once.
func (v *view) opened(err error) {
	if v.at != nil {
		v.at.End(err)
		v.at = nil
	}
}

// follow opens the watch and passes on what it tells. It begins at the copy's
// own revision and drops what the copy has: from the one after it an idle
// member would answer no question about progress.
func (v *view) follow(ctx context.Context) error {
	c := v.c
	timeout := v.w.b.pool.AttemptTimeout(endpoint.Read, v.w.b.c.Timing.RetryTimeout, 0)
	token, err := c.login(ctx, "")
	if err != nil {
		return c.failed(ctx, err, false)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	late := time.AfterFunc(timeout, cancel)
	defer late.Stop()
	if v.stream, err = c.watch.Watch(c.outgoing(ctx, token)); err != nil {
		return c.failed(ctx, err, false)
	}
	root := v.w.b.root
	create := &pb.WatchCreateRequest{Key: []byte(root), RangeEnd: below(root), StartRevision: int64(v.from), Fragment: true} //nolint:gosec // G115: etcd's
	if err := v.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		return c.failed(ctx, err, false)
	}
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
	probe := time.NewTimer(v.w.every)
	defer probe.Stop()
	check := time.NewTimer(time.Hour) // for a view that may lag
	check.Stop()
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			if v.w.b.life.Err() != nil {
				return context.Cause(v.w.b.life)
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
			probe.Reset(v.w.every)
		case <-v.w.behind:
			check.Reset(v.w.limit / 2)
		case <-check.C:
			if err := v.lagging(check); err != nil {
				return err
			}
		case <-probe.C:
			if err := v.quiet(); err != nil {
				return err
			}
			probe.Reset(v.w.every)
		case addr := <-v.w.left:
			if addr == c.addr {
				return fmt.Errorf("%s was left out", addr)
			}
		}
	}
}

// quiet asks a member that has told nothing for a while whether it is there.
func (v *view) quiet() error {
	if !v.probed.IsZero() && v.probed.Elapsed() >= v.w.every*9/10 {
		v.blame = true
		return fmt.Errorf("its watch is silent for %v", v.probed.Elapsed().Round(time.Millisecond))
	}
	return v.ask()
}

// ask asks for progress. A member answers only when its watch has caught up.
func (v *view) ask() error {
	if v.probed.IsZero() {
		v.probed = dcs.Now()
	}
	if v.asked.IsZero() {
		v.asked, v.wanted = dcs.Now(), v.w.latest.Load()
	}
	return v.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

// lagging finds a member whose view stays behind what other answers have
// named: one that is cut off goes on answering for seconds, with an old view.
func (v *view) lagging(check *time.Timer) error {
	if int64(v.w.tree.Revision()) >= v.w.latest.Load() { //nolint:gosec // G115: etcd's
		v.asked = dcs.Instant{}
		return nil
	}
	if !v.asked.IsZero() && v.asked.Elapsed() >= v.w.limit && int64(v.w.tree.Revision()) < v.wanted { //nolint:gosec // G115: etcd's
		v.blame = true
		return errBehind
	}
	check.Reset(v.w.limit / 2)
	return v.ask()
}

// take applies one message.
func (v *view) take(r *pb.WatchResponse) error {
	w := v.w
	v.probed = dcs.Instant{}
	if err := w.b.seen(v.c, r.Header); err != nil {
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
		w.tree.Advance(revision(r.Header.Revision))
		if r.Header.Revision < v.wanted {
			return nil // it answers, but not for the store: a question stays open
		}
		v.asked = dcs.Instant{}
	}
	w.alive()
	return nil
}

// canceled is etcd's end of a watch.
func (v *view) canceled(r *pb.WatchResponse) error {
	if r.CompactRevision > 0 {
		v.w.set(func() { v.w.synced = false })
		return fmt.Errorf("the watch fell behind a compaction at revision %d: reading the tree again", r.CompactRevision)
	}
	if strings.Contains(r.CancelReason, "permission denied") {
		return &failure{endpoint: v.c.addr, kind: dcs.ErrUnauthorized, err: errors.New(r.CancelReason)}
	}
	v.blame = true
	return fmt.Errorf("the member ended the watch: %s", r.CancelReason)
}

// apply passes events on that the copy does not have, one revision after the
// other, so that no Snapshot is torn.
func (v *view) apply(events []*mvccpb.Event) {
	tree := v.w.tree
	for len(events) > 0 {
		rev, n := events[0].Kv.ModRevision, 0
		var wrote []dcs.Entry
		var deleted []string
		for n < len(events) && events[n].Kv.ModRevision == rev {
			e := v.w.b.entry(events[n].Kv)
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
