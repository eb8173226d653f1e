package endpoint

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Pool chooses among the endpoints of one store. It is safe for concurrent use.
type Pool struct {
	o      Options
	epoch  time.Time
	life   context.Context //nolint:containedctx // its life is that of the Pool
	cancel context.CancelCauseFunc
	wake   chan struct{}
	done   sync.WaitGroup

	mu       sync.Mutex
	members  []*member // in the order in which they became known
	names    []*name
	added    int // number of members added so far
	current  *member
	answered [classes]time.Duration // when the latest request that was answered had been sent
	hedges   float64                // tokens
	throttle throttle
	dials    bucket
	probes   bucket
	listAt   time.Duration // when Topology is called next
	listing  bool
	lookAt   time.Duration // when the names are looked up next
	drops    []string      // endpoints whose connections unlock must drop
}

// New returns a Pool that is ready for calls. [Pool.Start] starts its background
// work. Options.Seeds must not be empty.
func New(o Options) *Pool {
	p := &Pool{
		o: o.withDefaults(), epoch: start(), wake: make(chan struct{}, 1), hedges: hedgeBurst,
		dials:  bucket{tokens: dialBurst, burst: dialBurst, perSecond: dialsPerSecond},
		probes: bucket{tokens: probeBurst, burst: probeBurst, perSecond: probesPerSecond},
	}
	if n := float64(o.DialsPerSecond); n > 0 {
		p.dials = bucket{tokens: n, burst: n, perSecond: n}
	}
	p.life, p.cancel = context.WithCancelCause(context.Background())
	for _, addr := range o.Seeds {
		if p.find(addr) != nil {
			continue
		}
		n := p.newName(addr)
		if n != nil {
			n.seed = true
			p.names = append(p.names, n)
		}
		p.add(&member{addr: addr, name: n, seed: true})
	}
	p.current = p.members[p.o.Rand(int64(len(p.members)))]
	return p
}

// Start starts the background work, which begins with a probe of every endpoint. It
// may call Probe and Topology at once. The caller must call Close to end it.
func (p *Pool) Start() {
	p.done.Add(1)
	go p.background()
}

// start returns the time at which the clock of a Pool starts.
func start() time.Time { return time.Now() } //nolint:forbidigo // only its monotonic reading is used

func (p *Pool) now() time.Duration { return time.Since(p.epoch) + 1 }

// Close ends the background work and waits for it. Calls in flight return
// [dcs.ErrClosed].
func (p *Pool) Close() {
	p.mu.Lock() // no lookup starts after this
	p.cancel(dcs.ErrClosed)
	p.mu.Unlock()
	p.done.Wait()
}

// add adds m to the endpoints. Under p.mu.
func (p *Pool) add(m *member) {
	p.added++
	if m.rank = p.added; !m.seed {
		m.rank += afterSeeds
	}
	p.members = append(p.members, m)
}

// afterSeeds is added to the rank of a member that is not a seed.
const afterSeeds = 1 << 30

// Knows reports whether connections to an endpoint may be kept. The endpoint must be
// in the Pool, and no other endpoint of its server may be in use instead.
func (p *Pool) Knows(endpoint string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.find(endpoint)
	return m != nil && !p.isIdle(m)
}

func (p *Pool) find(addr string) *member {
	for _, m := range p.members {
		if m.addr == addr {
			return m
		}
	}
	return nil
}

// Pick chooses an endpoint for a copy that is sent now. It is the one in use, unless
// that is in avoid, silent, busy or ejected. Pick always returns an endpoint, even if
// all are ejected. The caller must call End exactly once.
func (p *Pool) Pick(c Class, avoid ...string) *Attempt { return p.PickAt(c, "", avoid...) }

// PickAt is Pick with a preferred endpoint, such as that of a session, which moves
// only if necessary. It chooses at while that is healthy and not much slower than the
// endpoint in use. If at is empty, there is no preference.
func (p *Pool) PickAt(c Class, at string, avoid ...string) *Attempt {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	m := p.find(at)
	if m == nil || m.shadowed || m.ejected || m.failures > 0 || p.isSilent(m, now) || slices.Contains(avoid, at) || slower(m, p.current) {
		m = p.best(c, now, avoid)
	}
	if len(avoid) == 0 {
		p.hedges = min(hedgeBurst, p.hedges+1.0/hedgeShare)
	}
	m.triedAt = now
	a := &Attempt{p: p, m: m, class: c, start: now}
	m.open = append(m.open, a)
	return a
}

// best returns the endpoint to try next. Under p.mu.
func (p *Pool) best(c Class, now time.Duration, avoid []string) *member {
	if m := p.current; !m.ejected && !m.shadowed && !slices.Contains(avoid, m.addr) && !p.isSilent(m, now) && m.busyUntil <= now {
		return m
	}
	var best *member
	var rank int
	for _, m := range p.members {
		if m.shadowed {
			continue
		}
		// An endpoint in avoid is worse than a silent one, and an ejected one is
		// worse than both. A hedge of a copy that was sent to an ejected endpoint
		// must not go to the same one.
		r := 0
		if p.isSilent(m, now) || m.busyUntil > now {
			r++
		}
		if slices.Contains(avoid, m.addr) {
			r += 2
		}
		if m.ejected {
			r += 4
		}
		if best == nil || r < rank || r == rank && p.before(m, best, c) {
			best, rank = m, r
		}
	}
	return best
}

// before reports whether a is better than b, of two endpoints of one rank. Of ejected
// ones the least recently picked is better. Otherwise these criteria decide in turn: b
// is much slower; a is in use; a is the leader; a has the lower latency; a was picked
// less recently. Under p.mu.
func (p *Pool) before(a, b *member, c Class) bool {
	switch {
	case a.ejected && b.ejected:
		return a.triedAt < b.triedAt
	case slower(a, b) != slower(b, a):
		return slower(b, a)
	case (a == p.current) != (b == p.current):
		return a == p.current
	case a.leads != b.leads:
		return a.leads
	}
	if x, y := a.lat[c].mean, b.lat[c].mean; x > 0 && y > 0 && x != y {
		return x < y
	}
	return a.triedAt < b.triedAt
}

// recordFailure counts a failure of m, and ejects it after ejectAfter in a row, or at
// once if hard is set. Under p.mu.
func (p *Pool) recordFailure(m *member, now time.Duration, why string, hard bool) {
	if m.gone || m.shadowed {
		return
	}
	m.failures++
	m.why, m.unreachable = why, false
	if m.silentAt == 0 {
		m.silentAt = now
	}
	if m.ejected {
		return
	}
	if !hard && m.failures < ejectAfter {
		p.probeSoon(m, now)
		if m == p.current {
			p.switchFrom(m, why)
		}
		return
	}
	m.ejected, m.proven, m.pause, m.dropped = true, 0, p.o.ProbeInterval, false
	m.probeAt = now + p.jitter(m.pause)
	p.report(dcs.EndpointEvent{Change: dcs.Ejected, From: m.addr, Reason: why})
	p.dropSilent(m, now)
	p.ejectOthers(m)
	p.regroup()
	p.scheduleLookups(now)
	p.listAt = min(p.listAt, now+p.jitter(p.o.ProbeInterval))
	p.wakeUp()
}

// probeSoon schedules a probe of m within a ProbeInterval, which shows whether a
// single failure is lasting. Under p.mu.
func (p *Pool) probeSoon(m *member, now time.Duration) {
	m.probeAt = min(m.probeAt, now+p.jitter(p.o.ProbeInterval))
	p.wakeUp()
}

// restore makes m usable again. Under p.mu.
func (p *Pool) restore(m *member, why string) {
	if m.gone {
		return
	}
	m.ejected, m.failures, m.proven, m.why = false, 0, 0, ""
	if !m.shadowed {
		p.report(dcs.EndpointEvent{Change: dcs.Restored, From: m.addr, Reason: why})
	}
	p.regroup()
}

// drop queues a call of Options.Drop for m. Under p.mu.
func (p *Pool) drop(m *member) { p.drops = append(p.drops, m.addr) }

// dropSilent drops the connections to m, which was ejected, if it has not answered for
// as long as a call may take. A server that is only slow keeps its connections,
// because new ones would be more work for it. Under p.mu.
func (p *Pool) dropSilent(m *member, now time.Duration) {
	if !m.dropped && m.silentAt > 0 && now-m.silentAt >= p.o.Budget {
		m.dropped = true
		p.drop(m)
	}
}

// switchFrom moves calls from m to the best healthy endpoint, if there is one.
// Under p.mu.
func (p *Pool) switchFrom(m *member, why string) {
	var best *member
	now := p.now()
	for _, o := range p.members {
		if o != m && !o.ejected && !o.shadowed && !p.isSilent(o, now) && o.busyUntil <= now && (best == nil || p.before(o, best, Read)) {
			best = o
		}
	}
	if best != nil {
		p.switchTo(best, why)
	}
}

// switchTo makes m the current endpoint. Under p.mu.
func (p *Pool) switchTo(m *member, why string) {
	p.report(dcs.EndpointEvent{Change: dcs.Switched, From: p.current.addr, To: m.addr, Reason: why})
	p.current = m
}

// reselect switches the current endpoint if it is ejected, shadowed or busy, or if the
// leader or a much faster endpoint is available. Under p.mu.
func (p *Pool) reselect() {
	cur, now := p.current, p.now()
	switch {
	case cur.ejected:
		p.switchFrom(cur, cur.why)
		return
	case cur.shadowed:
		p.switchTo(p.first(cur), "same server")
		return
	}
	if cur.busyUntil > now {
		p.switchFrom(cur, cur.busyWhy)
		return
	}
	for _, m := range p.members {
		if m == cur || m.ejected || m.shadowed || m.failures > 0 || m.busyUntil > now {
			continue
		}
		switch {
		case slower(cur, m):
			p.switchTo(m, "much faster")
		case m.leads && !cur.leads && !slower(m, cur) && m.usual(Read) > 0:
			p.switchTo(m, "leads the store")
		default:
			continue
		}
		return
	}
}

// Blame counts a failure that a backend has detected by other means than a call, such
// as a watch that is silent or lags behind.
func (p *Pool) Blame(endpoint, reason string) { p.blame(endpoint, reason, false) }

// Eject ejects an endpoint that a backend has found to be no server of the store. It
// is probed as any other ejected one.
func (p *Pool) Eject(endpoint, reason string) { p.blame(endpoint, reason, true) }

func (p *Pool) blame(endpoint, reason string, hard bool) {
	p.mu.Lock()
	if m := p.find(endpoint); m != nil {
		p.recordFailure(m, p.now(), reason, hard)
		p.reselect()
	}
	p.unlock()
}

// Failed judges the failure of a request that endpoint had answered before, such as a
// watch, as the failure of a request that was sent now.
func (p *Pool) Failed(endpoint string, err error) {
	v := p.o.Judge(err)
	p.mu.Lock()
	if m := p.find(endpoint); m != nil {
		now := p.now()
		p.judge(m, now, now, v)
		p.reselect()
	}
	p.unlock()
}

// Leads records that an answer named endpoint as the leader. Calls go there from now
// on, unless it is ejected or much slower.
func (p *Pool) Leads(endpoint string) {
	p.mu.Lock()
	m := p.find(endpoint)
	if m != nil {
		m = p.first(m)
	}
	if m == nil || m.leads {
		p.mu.Unlock()
		return
	}
	p.setLeader(m)
	p.reselect()
	p.unlock()
}

// setLeader makes m the only leader. Under p.mu.
func (p *Pool) setLeader(m *member) {
	for _, o := range p.members {
		o.leads = o == m
	}
}

// Endpoints returns all known endpoints, the best first. Of several endpoints of one
// server it returns the one in use.
func (p *Pool) Endpoints() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	first := p.best(Read, now, nil)
	rank := func(m *member) int {
		switch {
		case m == first:
			return 0
		case m.ejected:
			return 3
		case p.isSilent(m, now):
			return 2
		}
		return 1
	}
	list := slices.DeleteFunc(slices.Clone(p.members), func(m *member) bool { return m.shadowed })
	slices.SortStableFunc(list, func(a, b *member) int {
		switch x, y := rank(a), rank(b); {
		case x != y:
			return x - y
		case p.before(a, b, Read):
			return -1
		case p.before(b, a, Read):
			return 1
		}
		return 0
	})
	out := make([]string, len(list))
	for i, m := range list {
		out[i] = m.addr
	}
	return out
}

// AllowDial reports whether a connection may be made now, under the Pool's limit on
// dials, and counts it.
func (p *Pool) AllowDial() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dials.take(p.now())
}

// ErrDials reports that a connection was not made because of the limit on dials.
var ErrDials = errors.New("too many connections were made within a second")

// betweenDials is the average pause between two calls of [Pool.AllowDial] in
// AwaitDial.
const betweenDials = 20 * time.Millisecond

// AwaitDial waits until a connection may be made. It returns ErrDials if ctx or the
// Pool ends first.
func (p *Pool) AwaitDial(ctx context.Context) error {
	for !p.AllowDial() {
		if p.pause(ctx, 2*betweenDials); ctx.Err() != nil || p.life.Err() != nil {
			return ErrDials
		}
	}
	return nil
}

// jitter returns a random duration in (0, ceiling].
func (p *Pool) jitter(ceiling time.Duration) time.Duration {
	return time.Duration(p.o.Rand(int64(max(ceiling, 1)))) + 1
}

// unlock releases mu and then drops the connections that were queued while it was
// held.
func (p *Pool) unlock() {
	drops := p.drops
	p.drops = nil
	p.mu.Unlock()
	for _, at := range drops {
		if p.o.Drop != nil {
			p.o.Drop(at)
		}
	}
}
