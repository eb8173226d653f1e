package conformance

import (
	"maps"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

func deadAddress(e *env) {
	c := e.cluster()
	e.needs(c.DeadAddresses != nil, "Cluster.DeadAddresses")
	began := time.Now()
	d, decided := e.drive(Opening{Resolver: c.DeadAddresses(e)})
	e.Logf("a lock was acquired after %v", time.Since(began).Round(time.Millisecond))
	writer, _ := e.opened(Opening{})
	stop := e.moves(d.c, writer)
	t := d.load(e.faultTime() / 2)
	view := stop()
	e.Logf("%d calls, %d failed, slowest %v, %d decisions about servers; a change was seen after %v at most",
		len(t.calls), len(t.failed()), quantile(t.after(0), 1).Round(time.Millisecond), decided.count(), view.slow.Round(time.Millisecond))
	for _, f := range t.failed() {
		e.Errorf("with a dead address of each server: a call failed: %s", f)
	}
	e.atMost(view.slow, e.budget(), t.began, "the time until a change by another client is seen")
	e.stillHeld(writer, d.hold, "with a dead address of each server")
	require.NoError(e, d.hold.Release(e.ctx))
}

func oneRefuses(e *env) {
	c := e.cluster()
	e.needs(len(c.Refusals) > 0, "Cluster.Refusals")
	for _, answer := range slices.Sorted(maps.Keys(c.Refusals)) {
		if e.refusedByOne(answer); e.Failed() {
			return
		}
	}
}

// refusedByOne makes the server in use give the answer. No bound on the latency of a call is
// checked, because a throttled client may pause.
func (e *env) refusedByOne(answer string) {
	c := e.s.Cluster
	d, decided := e.drive(Opening{})
	d.load(e.faultTime() / 8)
	i, before := e.inUse(d.c), decided.count()
	at := c.Endpoints[i]
	writer, _ := e.opened(Opening{Endpoints: e.others(i)})
	stop := e.moves(d.c, writer)
	restore := c.Refusals[answer](e, i)
	e.Cleanup(restore)
	t := d.load(max(e.faultTime()/2, rotationTime))
	used := e.inUse(d.c)
	view := stop()
	restore()

	e.Logf("%s refused requests (%s): %d calls, %d failed, slowest %v; a change was seen after %v at most",
		at, answer, len(t.calls), len(t.failed()), quantile(t.after(0), 1).Round(time.Millisecond), view.slow.Round(time.Millisecond))
	for _, f := range t.failed() {
		e.Errorf("%s refused requests (%s): a call failed: %s", at, answer, f)
	}
	if used == i {
		e.Errorf("%s refused all requests (%s), and was not left", at, answer)
	}
	e.atMost(view.slow, e.budget(), t.began, "the time until a change by another client is seen")
	e.stillHeld(writer, d.hold, "after a server refused all requests")
	e.explained(decided.of(at, before, dcs.Switched, dcs.Ejected), at)
	require.NoError(e, d.hold.Release(e.ctx))
}
