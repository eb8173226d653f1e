package conformance

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var waitCases = []spec{
	{Case: Case{
		Name:       "Wait/LastStateNeverMissed",
		Rule:       "After 500 random writes (slow profile: 5,000) every follower gets the final state, from any start and however far it fell behind.",
		Motivation: "Edge-triggered watches lose the last event in a reconnect, and nothing repairs that.",
	}, run: lastStateNeverMissed},
	{Case: Case{
		Name:       "Wait/NeverBackwards",
		Rule:       "A snapshot that Wait returns is newer than since, and no later snapshot has an older entry.",
		Motivation: "A watch that was re-opened at a lagging member replays the past.",
	}, run: neverBackwards},
	{Case: Case{
		Name:       "Wait/Delete",
		Rule:       "A deletion wakes Wait: by Txn, of the last key under the prefix, and at the end of a lease.",
		Motivation: "The deletion of the leader key is the change that all members wait for.",
	}, run: waitDelete},
	{Case: Case{
		Name:       "Wait/OwnWrite",
		Rule:       "A client's own write wakes its own Wait, and Wait since its revision does not return that write again.",
		Motivation: "A client reads its own write with Get, but not from its watch cache.",
	}, run: waitOwnWrite},
	{Case: Case{
		Name:       "Wait/SinceZero",
		Rule:       "Wait since revision 0 returns a tree at once, if keys exist, if none does and if all were deleted. No Snapshot is at revision 0.",
		Motivation: "A follower that starts without a state and gets none before the next change waits for a leader that exists already.",
	}, run: waitSinceZero},
	{Case: Case{
		Name:       "Wait/CtxEnds",
		Rule:       "While the store answers, the context ends Wait with the context's bare error, at once.",
		Motivation: "A caller that cannot distinguish its own cancellation from a silent store counts outages that did not happen.",
	}, sleeps: true, run: waitCtxEnds},
	{Case: Case{
		Name:       "Wait/ManyWaiters",
		Rule:       "1,000 waiters on one client wake for one write.",
		Motivation: "A connection or a session for each watcher exhausts one end or the other.",
	}, alone: true, run: manyWaiters},
	{Case: Case{
		Name:       "Wait/LargeTree",
		Rule:       "In a tree of 2,000 keys (slow profile: 5,000), of which two come and go 20 times a second, every Snapshot succeeds, and Wait returns each change within B + ε. Both return the state at their revision. When all keys are deleted, Wait returns the empty tree within B + ε.",
		Motivation: "With 10,000 keys on ZooKeeper, one of which came and went five times a second, Snapshots failed and no Wait was answered for 12 s.",
	}, alone: true, run: waitLargeTree},
	{Case: Case{
		Name:       "Wait/NotAPoll",
		Rule:       "While nothing changes, a Wait costs at most one probe in min(2.5 s, RetryTimeout/4) and a handful of requests a minute.",
		Motivation: "A watch that degrades to a loop of Gets passes every other test.",
	}, alone: true, run: notAPoll}, // other cases cause requests of a client that hears of every change
}

// follow waits for ever newer snapshots and calls check for each, until done reports true.
func (c *client) follow(prefix string, since dcs.Revision, limit time.Duration, check func(dcs.Snapshot), done func(dcs.Snapshot) bool) {
	ctx, cancel := context.WithTimeout(c.e.ctx, limit)
	defer cancel()
	for {
		s, err := c.Wait(ctx, prefix, since)
		// A context that ends Wait yields its bare error. An error of the store
		// may hold a timeout too, and is the store's failure.
		if dcs.KindOf(err) == nil && errors.Is(err, context.DeadlineExceeded) {
			c.e.Fatalf("after %v Wait(since %d) has not delivered the last state", limit, since)
		}
		require.NoError(c.e, err, "Wait")
		c.e.wellFormed(prefix, s)
		if s.Revision <= since {
			c.e.Fatalf("Wait(since %d) returned revision %d", since, s.Revision)
		}
		since = s.Revision
		if check != nil {
			check(s)
		}
		if done(s) {
			return
		}
	}
}

// randomWrites makes n random changes under the case's prefix, in bursts, and returns the
// resulting tree.
func (e *env) randomWrites(c *client, n int) map[string]string {
	want := map[string]string{}
	for i := range n {
		k := e.key("k" + strconv.Itoa(e.intn(10)))
		if _, there := want[k]; there && e.intn(3) == 0 {
			c.del(k)
			delete(want, k)
		} else {
			want[k] = strconv.Itoa(i)
			c.put(k, want[k])
		}
		if e.intn(10) == 0 {
			e.pause()
		}
	}
	return want
}

func lastStateNeverMissed(e *env) {
	writer := e.open()
	followers := []*client{writer, e.open(), e.open()}
	start := writer.put(e.key("k0"), "begin")
	for round := range e.rounds(2, 10) {
		// The end of a round is a write like any other, not a separate signal.
		end := e.key("end")
		last := strconv.Itoa(round)
		views := make([]dcs.Snapshot, len(followers))
		var dones []<-chan struct{}
		for i, c := range followers {
			dones = append(dones, e.start(func() {
				since := dcs.Revision(0)
				if i == 1 {
					since = start
				}
				c.follow(e.prefix, since, 30*time.Second, nil, func(s dcs.Snapshot) bool {
					views[i] = s
					en, _ := s.Get(end)
					return string(en.Value) == last
				})
			}))
		}
		want := e.randomWrites(writer, e.rounds(250, 500))
		want[end] = last
		writer.put(end, last)
		for i, done := range dones {
			e.within(e.budget()+slack, done, fmt.Sprintf("follower %d has the final state", i))
			if e.Failed() {
				e.FailNow()
			}
			require.Equal(e, want, tree(views[i]), "follower %d's last state", i)
		}
		for k := range want {
			writer.del(k)
		}
	}
}

func neverBackwards(e *env) {
	a, b := e.pair()
	const n = 200
	followers := []*client{a, b, b}
	var dones []<-chan struct{}
	for i, c := range followers {
		dones = append(dones, e.start(func() {
			at, rev := -1, map[string]dcs.Revision{}
			c.follow(e.prefix, 0, 30*time.Second, func(s dcs.Snapshot) {
				for _, en := range s.Entries {
					if en.Modified < rev[en.Key] {
						e.Fatalf("follower %d: %q went back from %d to %d", i, en.Key, rev[en.Key], en.Modified)
					}
					rev[en.Key] = en.Modified
				}
				for k := range rev {
					if _, there := s.Get(k); !there {
						e.Fatalf("follower %d: %q is missing at %d, and nothing was deleted", i, k, s.Revision)
					}
				}
				if en, ok := s.Get(e.key("count")); ok {
					now, err := strconv.Atoi(string(en.Value))
					require.NoError(e, err)
					if now < at {
						e.Fatalf("follower %d: the counter went back from %d to %d", i, at, now)
					}
					at = now
				}
			}, func(dcs.Snapshot) bool { return at == n })
		}))
	}
	for i := range n + 1 {
		[]*client{a, b}[i%2].commit(dcs.Txn{Then: []dcs.Write{
			dcs.Put(e.key("count"), []byte(strconv.Itoa(i))), dcs.Put(e.key("k"+strconv.Itoa(i%5)), nil),
		}})
		if i%20 == 0 {
			e.pause()
		}
	}
	for i, done := range dones {
		e.within(e.budget()+slack, done, fmt.Sprintf("follower %d has the last count", i))
	}
}

// waking starts a Wait on c. The snapshot is its result once done is closed.
func (e *env) waking(c *client, prefix string, since dcs.Revision) (got *dcs.Snapshot, done <-chan struct{}) {
	got = new(dcs.Snapshot)
	done = e.start(func() {
		s, err := c.Wait(e.ctx, prefix, since)
		require.NoError(e, err, "Wait %q since %d", prefix, since)
		*got = s
	})
	return got, done
}

func waitDelete(e *env) {
	a, b := e.pair()
	k, leased := e.key("tree", "k"), e.key("leased", "k")
	l, _ := a.grant()
	a.put(k, "v")
	a.put(e.key("tree", "other"), "v")
	a.bind(leased, "v", l)
	steps := []struct {
		what, prefix string
		do           func()
		left         int
	}{
		{"a key is deleted", e.key("tree"), func() { a.del(k) }, 1},
		{"the last key is deleted", e.key("tree"), func() { a.del(e.key("tree", "other")) }, 0},
		{"a lease ends", e.key("leased"), func() { a.revoke(l) }, 0},
	}
	for _, step := range steps {
		since := b.snapshot(step.prefix)
		gotA, doneA := e.waking(a, step.prefix, since.Revision)
		gotB, doneB := e.waking(b, step.prefix, since.Revision)
		step.do()
		e.within(e.budget()+slack, doneA, step.what+": the same client wakes")
		e.within(e.budget()+slack, doneB, step.what+": another client wakes")
		for _, got := range []*dcs.Snapshot{gotA, gotB} {
			require.Len(e, got.Entries, step.left, step.what)
			if got.Revision <= since.Revision {
				e.Fatalf("%s: woke at %d, had %d", step.what, got.Revision, since.Revision)
			}
		}
	}
}

func waitOwnWrite(e *env) {
	a, b := e.pair()
	k := e.key("k")
	since := a.snapshot(e.prefix).Revision
	for i := range 20 {
		v := strconv.Itoa(i)
		r := a.put(k, v)
		var s dcs.Snapshot
		e.promptly(e.budget()+slack, "Wait for the client's own write", func() {
			var err error
			s, err = a.Wait(e.ctx, e.prefix, since)
			require.NoError(e, err)
		})
		en, _ := s.Get(k)
		require.Equal(e, v, string(en.Value), "Wait after the client's own write")
		if s.Revision < r {
			e.Fatalf("Wait returned revision %d, which lacks the client's own write at %d", s.Revision, r)
		}
		since = s.Revision
	}
	// Nothing has changed since the revision of the client's own write.
	r := a.put(k, "last")
	got, done := e.waking(a, e.prefix, r)
	e.pass(200 * time.Millisecond)
	select {
	case <-done:
		if got.Revision <= r {
			e.Fatalf("Wait(since %d) returned revision %d", r, got.Revision)
		}
	default:
		b.put(k, "news")
		e.within(e.budget()+slack, done, "the next write wakes")
		en, _ := got.Get(k)
		require.Equal(e, "news", string(en.Value))
	}
}

func waitCtxEnds(e *env) {
	a, b := e.pair()
	since := a.put(e.key("k"), "v")
	for _, c := range []*client{a, b} {
		ctx, cancel := context.WithCancel(e.ctx)
		var err error
		since := max(since, c.snapshot(e.prefix).Revision)
		done := e.start(func() { _, err = c.Wait(ctx, e.prefix, since) })
		e.pass(50 * time.Millisecond)
		cancel()
		e.within(slack, done, "Wait ends with its context")
		bare(e, err, context.Canceled)

		limit := e.budget() + e.budget()/4 // a context may be longer than a budget
		since = c.snapshot(e.prefix).Revision
		begin := time.Now()
		ctx, cancel = context.WithTimeout(e.ctx, limit)
		_, err = c.Wait(ctx, e.prefix, since)
		cancel()
		bare(e, err, context.DeadlineExceeded)
		if took := time.Since(begin); took < limit {
			e.Fatalf("Wait with a context of %v returned after %v", limit, took)
		}
		e.atMost(time.Since(begin), limit+slack, begin, fmt.Sprintf("Wait with a context of %v", limit))

		ctx, cancel = context.WithCancel(e.ctx)
		cancel()
		at := c.snapshot(e.prefix).Revision
		e.promptly(slack, "Wait with a context that has ended", func() {
			_, err = c.Wait(ctx, e.prefix, at)
			bare(e, err, context.Canceled)
		})
	}
}

// bare requires that err is the context's own error, without a kind.
func bare(e *env, err, want error) {
	if !errors.Is(err, want) || dcs.KindOf(err) != nil {
		e.Fatalf("Wait returned %v, want the bare %v", err, want)
	}
}

func manyWaiters(e *env) {
	a, b := e.pair()
	k := e.key("k")
	a.put(k, "before")
	since := b.snapshot(k).Revision
	const n = 1000
	var dones []<-chan struct{}
	for range n {
		dones = append(dones, e.start(func() {
			b.follow(k, since, 30*time.Second, nil, func(s dcs.Snapshot) bool {
				en, _ := s.Get(k)
				return string(en.Value) == "after"
			})
		}))
	}
	e.settle()
	e.pass(100 * time.Millisecond) // most of them are waiting by now, and the others return at once
	a.put(k, "after")
	begin := time.Now()
	for _, done := range dones {
		e.within(e.budget()+slack, done, "a waiter wakes")
	}
	e.Logf("%d waiters woke within %v", n, time.Since(begin))
}

func notAPoll(e *env) {
	e.needs(e.s.Requests != nil, "Requests")
	a, b := e.pair()
	a.put(e.key("k"), "v")
	since := b.snapshot(e.prefix).Revision
	got, done := e.waking(b, e.prefix, since)
	e.pass(time.Second) // connecting and the first round are not counted
	span := time.Duration(e.rounds(5, 10)) * time.Second
	before := e.s.Requests(b.raw)
	e.pass(span)
	sent := e.s.Requests(b.raw) - before
	probe := min(2500*time.Millisecond, e.budget()/4)
	allowed := int64(span/probe) + 1 + 5
	e.Logf("%d requests in %v of waiting; %d are allowed", sent, span, allowed)
	if sent > allowed {
		e.Fatalf("a Wait sent %d requests in %v while nothing changed; %d are allowed", sent, span, allowed)
	}
	select {
	case <-done:
		e.Fatalf("Wait(since %d) returned revision %d though nothing had changed", since, got.Revision)
	default:
	}
	begin := time.Now()
	a.put(e.key("k"), "news")
	e.within(e.budget()+slack, done, "the waiter wakes")
	e.Logf("woke after %v", time.Since(begin))
}
