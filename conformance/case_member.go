package conformance

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var memberCases = []spec{
	{Case: Case{
		Name:       "Member/LeaseBound",
		Rule:       "A published key is bound to the session's lease and is removed with it.",
		Motivation: "Member keys without a lease list machines that were scrapped last year.",
	}, run: memberLeaseBound},
	{Case: Case{
		Name:       "Member/UnchangedNotRewritten",
		Rule:       "Publishing the present value writes nothing. A changed value keeps the entry's Created.",
		Motivation: "Every write of a member key wakes every watcher of the cluster, once for each loop and member.",
	}, run: unchangedNotRewritten},
	{Case: Case{
		Name:       "Member/ReadOnlyClientTouchesNothing",
		Rule:       "A client that only lists creates no lease and no bookkeeping, and changes no lock, even under the holder's own name. From before it is open until it is closed it sends only reads.",
		Motivation: "A monitoring script that joined the cluster by reading it.",
	}, run: readOnlyTouchesNothing},
	{Case: Case{
		Name:       "Member/NotALock",
		Rule:       "A key is a member key if the last part but one of its name is \"members\". Publish of any other key, and TryAcquire and Acquire of a member key, are ErrInvalid with nothing sent. A member key that was deleted can be published again; one that another session published is ErrConflict while it exists (P19).",
		Motivation: "Publish took over a lock as if it were the record of a process that had restarted, and Acquire of a key that its own session had published waited for ever.",
	}, sleeps: true, run: memberIsNoLock},
}

func memberLeaseBound(e *env) {
	a, b := e.pair()
	s := a.session()
	for i := range 3 {
		displaced, err := s.Publish(e.ctx, e.key("members", fmt.Sprint(i)), []byte("v"))
		require.NoError(e, err)
		require.Empty(e, displaced)
	}
	b.put(e.key("members", "plain"), "v")
	snap := b.snapshot(e.key("members"))
	require.Len(e, snap.Entries, 4)
	for _, en := range snap.Entries[:3] {
		require.Equal(e, s.Lease(), en.Lease)
	}
	require.NoError(e, s.Close(e.ctx))
	require.Equal(e, map[string]string{e.key("members", "plain"): "v"}, tree(b.snapshot(e.key("members"))))
	_, err := s.Publish(e.ctx, e.key("members", "0"), []byte("v"))
	e.kind(err, dcs.ErrReleased, "Publish on a closed session")
}

func unchangedNotRewritten(e *env) {
	a, b := e.pair()
	s := a.session()
	k := e.key("members", "a")
	publish := func(v string) dcs.Entry {
		_, err := s.Publish(e.ctx, k, []byte(v))
		require.NoError(e, err)
		en := b.get(k)
		require.Equal(e, v, string(en.Value))
		return en
	}
	one := publish("one")
	for range 5 {
		require.Equal(e, one, publish("one"), "an unchanged value was written again")
	}
	two := publish("two")
	require.Equal(e, one.Created, two.Created)
	if two.Modified <= one.Modified {
		e.Fatal("a changed value was not written")
	}
	empty := publish("")
	require.Equal(e, empty, publish(""))
}

// reading has the names of requests that change nothing.
var reading = []string{"Get", "Snapshot", "Wait", "Probe", "Read", "Login"}

// requests has the names of the requests that a client has sent.
type requests struct {
	mu  sync.Mutex
	ops map[string]int
}

func (r *requests) count() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.ops)
}

// openWatched returns a client and the requests that it has sent, including those that
// opened it. Without the hooks for that nothing is counted, and sent is nil.
func (e *env) openWatched() (c *client, sent *requests) {
	if !e.has(e.s.OpenWith != nil, "OpenWith") || !e.hasInject() {
		return e.open(), nil
	}
	sent = &requests{ops: map[string]int{}}
	// An opening that may wait asks the store for an answer, as Open by URL does.
	c, _ = e.opened(Opening{Wait: true, Faults: []Fault{{Do: Pass, When: func(q Request) bool {
		sent.mu.Lock()
		defer sent.mu.Unlock()
		sent.ops[q.Op]++
		return false
	}}}})
	return c, sent
}

func readOnlyTouchesNothing(e *env) {
	a := e.open()
	s := a.session()
	lock := e.key("leader")
	h := e.acquire(s, lock, "a")
	_, err := s.Publish(e.ctx, e.key("members", "a"), []byte("a"))
	require.NoError(e, err)
	before := a.snapshot(e.prefix)
	reader, sent := e.openWatched()
	for range 20 {
		require.Equal(e, before.Entries, reader.snapshot(e.prefix).Entries)
		require.Equal(e, "a", string(reader.get(lock).Value))
		reader.absent(e.key("members", "none"), "no client wrote it")
		got, err := reader.Wait(e.ctx, e.prefix, 0)
		require.NoError(e, err)
		require.Equal(e, before.Entries, got.Entries)
	}
	require.NoError(e, reader.Close())
	require.Equal(e, before.Entries, a.snapshot(e.prefix).Entries)
	require.NoError(e, h.Confirm(e.ctx))
	if sent != nil {
		e.onlyRead(sent.count())
	}
}

// onlyRead requires that requests of these names change nothing.
func (e *env) onlyRead(sent map[string]int) {
	e.Logf("a client that only reads sent %v", sent)
	if sent["Get"]+sent["Snapshot"] == 0 {
		e.Fatalf("OpenWith does not put Opening.Faults in force: a client that read 60 times sent %v", sent)
	}
	for op, n := range sent {
		if !slices.Contains(reading, op) {
			e.Errorf("a client that only reads sent %d requests %q; those that change nothing are %v", n, op, reading)
		}
	}
}

func memberIsNoLock(e *env) {
	c, calls := e.counting()
	b := e.open()
	s, other := c.session(), b.session()
	member := e.key("members", "a")
	h := e.acquire(s, e.key("lock"), "a")
	for _, k := range []string{h.Key(), e.key("free"), e.key("members"), e.key("members", "a", "b"), e.key("members-", "a")} {
		e.refused(calls, fmt.Sprintf("Publish(%q)", k), func() error { _, err := s.Publish(e.ctx, k, nil); return err })
	}
	_, err := other.Publish(e.ctx, h.Key(), []byte("b"))
	e.kind(err, dcs.ErrInvalid, "Publish of another session's lock")
	require.NoError(e, h.Confirm(e.ctx))
	e.stillHeld(b, h, "after Publish of its key was refused")

	_, err = s.Publish(e.ctx, member, []byte("a"))
	require.NoError(e, err)
	_, err = other.Publish(e.ctx, e.key("members", "b"), []byte("b"))
	require.NoError(e, err)
	for whose, k := range map[string]string{"its own": member, "another's": e.key("members", "b"), "an absent": e.key("members", "c")} {
		e.promptly(slack, "acquiring a member key", func() {
			e.refused(calls, "TryAcquire of "+whose+" member key", func() error { _, err := s.TryAcquire(e.ctx, k, nil); return err })
			e.refused(calls, "Acquire of "+whose+" member key", func() error { _, err := s.Acquire(e.ctx, k, nil); return err })
		})
	}
	e.publishedAgain(b, s, other, member)
	require.NoError(e, h.Confirm(e.ctx))
	e.stillHeld(b, h, "after the changes of a member key of its session")
}

// publishedAgain deletes and takes over a member key that the session s has published.
func (e *env) publishedAgain(b *client, s, other *dcs.Session, member string) {
	noticed := e.oneRenewal() // s has detected the change by then
	own := func(value, what string) {
		displaced, err := s.Publish(e.ctx, member, []byte(value))
		require.NoError(e, err, what)
		require.Empty(e, displaced, what)
		en := b.get(member)
		require.Equal(e, value, string(en.Value), what)
		require.Equal(e, s.Lease(), en.Lease, what)
	}
	b.del(member)
	own("again", "Publish of a member key just after it was deleted")
	b.del(member)
	e.pass(noticed)
	own("again", "Publish of a member key that was deleted")

	displaced, err := other.Publish(e.ctx, member, []byte("b"))
	require.NoError(e, err)
	require.Equal(e, s.Lease(), displaced, "the displaced lease")
	taken := b.get(member)
	for range 2 {
		_, err = s.Publish(e.ctx, member, []byte("mine"))
		e.kind(err, dcs.ErrConflict, "Publish of a member key that another session has published")
		require.Equal(e, taken, b.get(member), "another session's member key was overwritten")
		e.pass(noticed)
	}
	require.NoError(e, other.Close(e.ctx))
	own("mine", "Publish of a member key whose other publisher has ended")
}
