package conformance

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

const rotateRule = "no call fails, the slowest takes the store's election (if that server led) + 500 ms, and p95 is soon as before. The lock is kept, changes by other clients are seen within min(RetryTimeout, 2 s), and an event names the server and the reason."

func rotateCase(name, what, learnt string, verb ServerFaultVerb) spec {
	return spec{Case: Case{Name: name, Rule: what + ": " + rotateRule, Motivation: learnt}, run: func(e *env) { e.rotate(verb) }}
}

var rotateCases = faultCases([]spec{
	rotateCase("Rotate/Frozen", "One server after the other is frozen for 3 s",
		"A frozen server's kernel still acknowledges, so that TCP detects nothing. With one of three servers frozen, etcd's own client fails a third of its calls until it is restarted.", Frozen),
	rotateCase("Rotate/Silent", "The server in use accepts connections and answers nothing",
		"A load balancer in front of a dead server, or a proxy that lost it.", Silent),
	rotateCase("Rotate/Blackholed", "Packets to and from the server in use are dropped",
		"A firewall rule or a pulled cable: no reset, no refusal, only silence.", Blackholed),
	rotateCase("Rotate/Refused", "The server in use refuses connections",
		"This is easy to detect, but some clients fail the call instead of asking the next server.", Refused),
	rotateCase("Rotate/Reset", "The server in use resets every connection",
		"A proxy that is being restarted.", ResetAll),
	{Case: Case{
		Name:       "Rotate/DNS",
		Rule:       "The name of the server in use cannot be resolved any more: " + rotateRule + " A client that keeps using the known address need not leave the server.",
		Motivation: "Connections end one by one, and none can be made again.",
	}, run: func(e *env) { e.rotate(Unresolved) }},
	rotateCase("Rotate/HalfHealthy", "One server after the other is cut off from its peers and still answers clients",
		"The incident: an etcd member cut off from its peers; lease keepalives timed out with \"request timed out\", the client never left it, and healthy primaries were demoted.", Partitioned),
	{Case: Case{
		Name:       "Rotate/DeadAddress",
		Rule:       "The name of each server has two addresses, and nothing answers at the first one: a client opens, no call fails, a lock is acquired and kept, and changes by other clients are seen within B.",
		Motivation: "A client that connects to the first address of a name alone never left a dead one: all calls failed on etcd, Consul and ZooKeeper.",
	}, run: deadAddress},
	{Case: Case{
		Name:       "Rotate/OneRefuses",
		Rule:       "The server in use refuses every request, with an answer that no other server gives: no call fails, the lock is kept, the server is left, changes by other clients are seen within B, and an event names the server and the reason.",
		Motivation: "An etcd member that was added again, and a Consul agent to which the token had not been replicated, refused requests that the others served, and every third call failed.",
	}, run: oneRefuses},
	{Case: Case{
		Name:       "Rotate/Slow",
		Rule:       "If the server in use answers 500 ms later, traffic leaves it, and the median is as without that server.",
		Motivation: "A slow server is worse than a dead one for clients that judge by connectivity.",
	}, run: rotateSlow},
	{Case: Case{
		Name:       "Rotate/FarEndpoint",
		Rule:       "A server that is permanently 80 ms away, even the one that leads the store, does not delay calls.",
		Motivation: "A member in another region that happens to be first in the list, or to lead.",
	}, run: rotateFar},
	{Case: Case{
		Name:       "Rotate/ComesBack",
		Rule:       "After the fault ends the server is used again within 30 s, without a failed call.",
		Motivation: "Clients that never return gather on one server, and fail together with it.",
	}, run: rotateBack},
	{Case: Case{
		Name:       "Rotate/AllReplaced",
		Rule:       "Every server is replaced, one by one, by one with a new address: the client is still connected (the fast profile replaces one).",
		Motivation: "Addresses that are read once from a file are all wrong after a year of rolling replacements.",
	}, run: rotateReplaced, limit: 5 * time.Minute},
	{Case: Case{
		Name:       "Rotate/SeedDownAtOpen",
		Rule:       "With the first seed down Open succeeds within B + ε. With all down it fails by then with ErrUnavailable, or waits if requested.",
		Motivation: "A manager that starts while one server of three is rebooted must not fail; one that starts before the store must be able to wait.",
	}, run: seedDown},
})

// faultTime is the time for which a server has a fault. In the fast profile it is long
// enough for the first calls to rotate, for the hundred calls of a percentile, and for the
// watch.
func (e *env) faultTime() time.Duration {
	if slowProfile() {
		return 3 * time.Second
	}
	return 2 * time.Second
}

// rotationTime is the time that the first calls may take to leave a server.
const rotationTime = 500 * time.Millisecond

// minCalls is the number of calls that a percentile needs.
const minCalls = 100

// lagTime is the time for which a Wait may stay with a server that lags behind while calls
// are frequent.
const lagTime = 2 * time.Second

// rotate injects the fault into the server in use. If the effect depends on the leader, it
// injects it into the leader and a follower, and in the slow profile into each server.
func (e *env) rotate(verb ServerFaultVerb) {
	c := e.cluster()
	targets := []int{-1}
	switch leader := c.Leader(e); {
	case slowProfile() || (verb == Frozen || verb == Partitioned) && leader < 0:
		targets = targets[:0]
		for i := range c.Endpoints {
			targets = append(targets, i)
		}
	case verb == Frozen || verb == Partitioned:
		targets = []int{leader, (leader + 1) % len(c.Endpoints)}
	}
	for _, i := range targets {
		if e.rotateOne(i, verb); e.Failed() {
			return
		}
	}
}

// rotateOne injects the fault into server i, or into the one in use for i < 0.
func (e *env) rotateOne(i int, verb ServerFaultVerb) {
	d, decided := e.drive(Opening{})
	healthy := d.load(time.Second / 2).after(0)
	p99 := quantile(healthy, 0.99)
	before := decided.count() // the server may be left before the fault
	used := e.inUse(d.c)
	if i < 0 {
		i = used
	}
	writer, _ := e.opened(Opening{Endpoints: e.others(i)})
	stop := e.moves(d.c, writer)
	at, extra := e.s.Cluster.Endpoints[i], e.election(i, verb)

	restore := e.injectFault(i, ServerFault{Do: verb})
	seenBy := max(min(e.budget(), lagTime), extra+rotationTime)
	rotated := extra + rotationTime
	t := d.loadUntil(max(e.faultTime(), seenBy+e.faultTime()/4, rotated+e.faultTime()/2), rotated, minCalls)
	view := stop()
	restore()
	e.s.Cluster.Healthy(e)

	all, later := t.after(0), t.after(rotated)
	e.Logf("%s %v (in use: %v, leads: %v): %d calls, %d failed, slowest %v, p95 %v later on; healthy p99 %v; a change was seen after %v at most",
		at, verb, i == used, extra > 0, len(all), len(t.failed()), quantile(all, 1).Round(time.Millisecond),
		quantile(later, 0.95).Round(10*time.Microsecond), p99.Round(10*time.Microsecond), view.slow.Round(time.Millisecond))
	for _, f := range t.failed() {
		e.Errorf("%s %v: a call failed: %s", at, verb, f)
	}
	if len(later) < minCalls {
		e.Errorf("only %d calls were made once the first had rotated", len(later))
	}
	e.asFastAs(view.writes, t, extra, p99)
	e.atMost(view.slow, seenBy, t.began, "the time until a change by another client is seen")
	e.stillHeld(writer, d.hold, "after a server was "+verb.String())
	if events := decided.of(at, before, dcs.Switched, dcs.Ejected); i == used && (verb != Unresolved || len(events) > 0 || e.inUse(d.c) != i) {
		e.explained(events, at)
	}
	require.NoError(e, d.hold.Release(e.ctx))
}

// asFastAs bounds the latency of the calls t. The control is the time that the machine
// took, or the latency of a client that uses only the healthy servers.
func (e *env) asFastAs(witness, t *tally, election, p99 time.Duration) {
	rotated := election + rotationTime
	slowest := quantile(t.after(0), 1)
	e.bounded(latency{
		what: "the slowest call", figure: slowest, bound: rotated,
		control: max(e.allowed(slowest, rotated, t.began), quantile(witness.after(0), 1)-election),
	})
	e.bounded(latency{
		what: "p95", figure: quantile(t.after(rotated), 0.95), bound: max(3*p99, 25*time.Millisecond),
		control: max(e.delayedAt(0.95, t.began.Add(rotated), t.ended), quantile(witness.after(rotated), 0.95)),
	})
}

// explained requires that the decision against a server was reported, once or a few
// times, with a reason.
func (e *env) explained(events []dcs.EndpointEvent, at string) {
	switch {
	case len(events) == 0:
		e.Errorf("no event names %s, which was left", at)
	case len(events) > 6:
		e.Errorf("%d events about %s: too many", len(events), at)
	}
	for _, ev := range events {
		if ev.Reason == "" {
			e.Errorf("%s was %v without a reason", at, ev.Change)
		}
		e.Logf("%v %s: %s", ev.Change, at, ev.Reason)
	}
}

func rotateSlow(e *env) {
	e.cluster()
	d, _ := e.drive(Opening{})
	p50 := quantile(d.load(time.Second/2).after(0), 0.5)
	i := e.inUse(d.c)
	const delay = 500 * time.Millisecond
	restore := e.injectFault(i, ServerFault{Do: Delayed, Delay: delay})
	t := d.load(e.faultTime())
	restore()
	later := t.after(delay)
	e.Logf("healthy p50 %v; with %s slow: %v, slowest %v", p50, e.s.Cluster.Endpoints[i], quantile(later, 0.5), quantile(t.after(0), 1))
	require.Empty(e, t.failed())
	// Every call that waits for the slow server takes longer than either bound.
	from := t.began.Add(delay)
	e.bounded(latency{"the median once the slow server was left", quantile(later, 0.5), delay / 10, e.delayedAt(0.5, from, t.ended)})
	e.bounded(latency{"p95 once the slow server was left", quantile(later, 0.95), delay / 2, e.delayedAt(0.95, from, t.ended)})
}

func rotateFar(e *env) {
	c := e.cluster()
	near, _ := e.drive(Opening{})
	p50 := quantile(near.load(time.Second/2).after(0), 0.5)
	const away = 80 * time.Millisecond
	for i := range c.Endpoints {
		leads := c.Leader(e) == i
		if !slowProfile() && !leads && c.Leader(e) >= 0 {
			continue // only the leader is difficult
		}
		restore := e.injectFault(i, ServerFault{Do: Delayed, Delay: away})
		d, _ := e.drive(Opening{})
		d.load(500 * time.Millisecond) // the client learns which server is far
		t := d.load(e.faultTime() / 2)
		restore()
		e.Logf("healthy p50 %v; with %s 80 ms away (it leads: %v): p50 %v, p95 %v", p50, c.Endpoints[i], leads, quantile(t.after(0), 0.5), quantile(t.after(0), 0.95))
		require.Empty(e, t.failed())
		// Every call that waits for the far server takes longer.
		e.bounded(latency{"the median with one server far away", quantile(t.after(0), 0.5), away / 2, e.delayedAt(0.5, t.began, t.ended)})
	}
}

func rotateBack(e *env) {
	c := e.cluster()
	d, decided := e.drive(Opening{})
	d.load(500 * time.Millisecond)
	i := e.inUse(d.c)
	at := c.Endpoints[i]
	restore := e.injectFault(i, ServerFault{Do: Refused})
	t := d.load(time.Second)
	require.Empty(e, t.failed())
	require.NotEqual(e, i, e.inUse(d.c))
	restore()
	restored := time.Now()
	back := func() bool {
		left, restored := decided.of(at, 0, dcs.Ejected), decided.of(at, 0, dcs.Restored)
		return len(restored) >= len(left)
	}
	for !back() && time.Since(restored) < 30*time.Second {
		require.Empty(e, d.load(250*time.Millisecond).failed(), "a call failed while the server came back")
	}
	if !back() {
		e.Fatalf("%s was ejected and not used again within 30 s", at)
	}
	e.Logf("used again after %v", time.Since(restored).Round(time.Millisecond))
	only, _ := e.opened(Opening{Endpoints: []string{at}})
	only.put(e.key("back"), "v")
}

func rotateReplaced(e *env) {
	c := e.cluster()
	e.needs(c.Replace != nil, "Cluster.Replace")
	d, _ := e.drive(Opening{Endpoints: append([]string(nil), c.Endpoints...)})
	for i := range e.rounds(1, len(c.Endpoints)) {
		if i > 0 {
			e.pass(5 * e.budget()) // operators do not replace all of them at once
		}
		c.Replace(e, i)
		t := d.load(time.Second)
		require.Empty(e, t.failed(), "after server %d was replaced", i)
	}
	observer, _ := e.opened(Opening{})
	e.stillHeld(observer, d.hold, "after servers were replaced")
}

func seedDown(e *env) {
	c := e.cluster()
	restore := e.injectFault(0, ServerFault{Do: Refused})
	begin := time.Now()
	one, _, err := e.openWith(Opening{Endpoints: c.Endpoints})
	require.NoError(e, err, "Open with the first seed down")
	one.put(e.key("k"), "v")
	e.atMost(time.Since(begin), e.budget()+slack+c.Election, begin, "Open and a first commit with one seed down")
	restore()
	c.Healthy(e)

	restoreAll := e.injectFaultAll(ServerFault{Do: Refused})
	begin = time.Now()
	_, _, err = e.openWith(Opening{Endpoints: c.Endpoints})
	e.atMost(time.Since(begin), e.budget()+slack, begin, "Open with all seeds down")
	e.kind(err, dcs.ErrUnavailable, "Open with all seeds down")
	e.Logf("all seeds down: %v", err)

	var waited *client
	done := e.start(func() { waited, _, err = e.openWith(Opening{Endpoints: c.Endpoints, Wait: true}) })
	e.pass(e.budget() + slack)
	select {
	case <-done:
		e.Fatalf("an Open that waits returned while the store was down: %v", err)
	default:
	}
	restoreAll()
	e.within(30*time.Second, done, "an Open that waits returns when the store is back")
	require.NoError(e, err)
	waited.put(e.key("k"), "w")
}
