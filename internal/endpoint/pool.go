package endpoint

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Pool chooses among the endpoints of one store. Safe for concurrent use.
type Pool struct {
	o      Options
	epoch  time.Time
	life   context.Context //nolint:containedctx // the Pool's own, for probes
	cancel context.CancelCauseFunc
	wake   chan struct{}
	done   sync.WaitGroup

	mu       sync.Mutex
	members  []*member // in the order in which they became known
	names    []*name
	known    int // members so far
	current  *member
	answered [classes]time.Duration // the latest sending that was answered
	hedges   float64                // tokens
	throttle throttle
	dials    bucket
	probes   bucket
	listAt   time.Duration // when Topology is asked next
	listing  bool
	lookAt   time.Duration       // when the names are looked up next
	events   []dcs.EndpointEvent // decided, not told yet
	drops    []string            // endpoints whose connections are to be given up
	telling  bool
}

// New returns a Pool that works already; [Pool.Start] begins what it does by
// itself.
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

// Start begins the background work: one goroutine, which asks every endpoint
// once. It may call Probe and Topology at once. Close ends it.
func (p *Pool) Start() {
	p.done.Add(1)
	go p.background()
}

// start is when a Pool's own clock begins.
func start() time.Time { return time.Now() } //nolint:forbidigo // only its monotonic reading is used

func (p *Pool) now() time.Duration { return time.Since(p.epoch) + 1 }

// Close ends the background work and the calls under way, which return
// [dcs.ErrClosed].
func (p *Pool) Close() {
	p.mu.Lock() // no lookup begins from here on
	p.cancel(dcs.ErrClosed)
	p.mu.Unlock()
	p.done.Wait()
}

// add makes m an endpoint. Under p.mu.
func (p *Pool) add(m *member) {
	p.known++
	if m.rank = p.known; !m.seed {
		m.rank += afterSeeds
	}
	p.members = append(p.members, m)
}

// afterSeeds is added to the rank of a member that is no seed.
const afterSeeds = 1 << 30

// Knows reports whether connections to an endpoint are of use: it is one of the
// Pool's, and no other one stands for it.
func (p *Pool) Knows(endpoint string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.find(endpoint)
	return m != nil && !p.idle(m)
}

func (p *Pool) find(addr string) *member {
	for _, m := range p.members {
		if m.addr == addr {
			return m
		}
	}
	return nil
}

// Pick chooses an endpoint for a copy that is sent now: the one in use, unless
// it is in avoid, silent, or left out. Whatever the state of the others, some
// endpoint is returned. End must be called, once.
func (p *Pool) Pick(c Class, avoid ...string) *Attempt { return p.PickAt(c, "", avoid...) }

// PickAt is Pick for what is at one endpoint, such as a session, and moves only
// where it must: at is chosen while it is well and not much slower than the one
// in use. Empty means nowhere.
func (p *Pool) PickAt(c Class, at string, avoid ...string) *Attempt {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	m := p.find(at)
	if m == nil || m.shadowed || m.out || m.strikes > 0 || p.silent(m, now) || slices.Contains(avoid, at) || slower(m, p.current) {
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

// best is the endpoint to try next. Under p.mu.
func (p *Pool) best(c Class, now time.Duration, avoid []string) *member {
	if m := p.current; !m.out && !m.shadowed && !slices.Contains(avoid, m.addr) && !p.silent(m, now) && m.busyUntil <= now {
		return m
	}
	var best *member
	var rank int
	for _, m := range p.members {
		if m.shadowed {
			continue
		}
		// In avoid counts more than silent, left out more than both: a copy
		// beside one that is out must not go the same way.
		r := 0
		if p.silent(m, now) || m.busyUntil > now {
			r++
		}
		if slices.Contains(avoid, m.addr) {
			r += 2
		}
		if m.out {
			r += 4
		}
		if best == nil || r < rank || r == rank && p.before(m, best, c) {
			best, rank = m, r
		}
	}
	return best
}

// before orders endpoints of one rank: the one in use, the one that leads, by
// latency, by who has waited longest.
func (p *Pool) before(a, b *member, c Class) bool {
	switch {
	case a.out && b.out:
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

// strike counts a fault. A hard one leaves the endpoint out at once.
func (p *Pool) strike(m *member, now time.Duration, why string, hard bool) {
	if m.gone || m.shadowed {
		return
	}
	m.strikes++
	m.why, m.unreachable = why, false
	if m.silentAt == 0 {
		m.silentAt = now
	}
	if m.out {
		return
	}
	if !hard && m.strikes < strikesOut {
		p.probeSoon(m, now)
		if m == p.current {
			p.switchFrom(m, why)
		}
		return
	}
	m.out, m.proven, m.pause, m.dropped = true, 0, p.o.ProbeInterval, false
	m.probeAt = now + p.jitter(m.pause)
	p.decide(dcs.EndpointEvent{Change: dcs.Ejected, From: m.addr, Reason: why})
	p.dropSilent(m, now)
	p.ejectOthers(m)
	p.regroup()
	p.lookSoon(now)
	p.listAt = min(p.listAt, now+p.jitter(p.o.ProbeInterval))
	p.poke()
}

// probeSoon distinguishes a hiccup from a fault. Under p.mu.
func (p *Pool) probeSoon(m *member, now time.Duration) {
	m.probeAt = min(m.probeAt, now+p.jitter(p.o.ProbeInterval))
	p.poke()
}

func (p *Pool) restore(m *member, why string) {
	if m.gone {
		return
	}
	m.out, m.strikes, m.proven, m.why = false, 0, 0, ""
	if !m.shadowed {
		p.decide(dcs.EndpointEvent{Change: dcs.Restored, From: m.addr, Reason: why})
	}
	p.regroup()
}

// drop gives up the connections to m. Under p.mu.
func (p *Pool) drop(m *member) { p.drops = append(p.drops, m.addr) }

// dropSilent gives up the connections to m, which was ejected, if nothing has been
// answered for as long as a call may take. Not those to a server that is only slow:
// connecting again is more work for it. Under p.mu.
func (p *Pool) dropSilent(m *member, now time.Duration) {
	if !m.dropped && m.silentAt > 0 && now-m.silentAt >= p.o.Budget {
		m.dropped = true
		p.drop(m)
	}
}

// switchFrom moves calls to another endpoint that is well, if there is one.
func (p *Pool) switchFrom(m *member, why string) {
	var best *member
	now := p.now()
	for _, o := range p.members {
		if o != m && !o.out && !o.shadowed && !p.silent(o, now) && o.busyUntil <= now && (best == nil || p.before(o, best, Read)) {
			best = o
		}
	}
	if best != nil {
		p.use(best, why)
	}
}

func (p *Pool) use(m *member, why string) {
	p.decide(dcs.EndpointEvent{Change: dcs.Switched, From: p.current.addr, To: m.addr, Reason: why})
	p.current = m
}

// reconsider looks whether calls should go elsewhere: away from what is left
// out, to what leads the store, to what is much faster.
func (p *Pool) reconsider() {
	cur, now := p.current, p.now()
	switch {
	case cur.out:
		p.switchFrom(cur, cur.why)
		return
	case cur.shadowed:
		p.use(p.first(cur), "the same server")
		return
	}
	if cur.busyUntil > now {
		p.switchFrom(cur, cur.busyWhy)
		return
	}
	for _, m := range p.members {
		if m == cur || m.out || m.shadowed || m.strikes > 0 || m.busyUntil > now {
			continue
		}
		switch {
		case slower(cur, m):
			p.use(m, "it is much faster")
		case m.leads && !cur.leads && !slower(m, cur) && m.usual(Read) > 0:
			p.use(m, "it leads the store")
		default:
			continue
		}
		return
	}
}

// Blame says that a backend found the endpoint at fault by other means: a
// watch that went silent, or lags behind.
func (p *Pool) Blame(endpoint, reason string) {
	p.mu.Lock()
	if m := p.find(endpoint); m != nil {
		p.strike(m, p.now(), reason, false)
		p.reconsider()
	}
	p.mu.Unlock()
	p.tell()
}

// Failed judges the failure of something at endpoint that had been answered before,
// such as a watch, as if it had been sent now.
func (p *Pool) Failed(endpoint string, err error) {
	v := p.o.Judge(err)
	p.mu.Lock()
	if m := p.find(endpoint); m != nil {
		now := p.now()
		p.judge(m, now, now, v)
		p.reconsider()
	}
	p.mu.Unlock()
	p.tell()
}

// Leads notes that an answer named endpoint as the one that leads the store. Calls
// go there from now on, unless it is left out or far away.
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
	p.leads(m)
	p.reconsider()
	p.mu.Unlock()
	p.tell()
}

func (p *Pool) leads(m *member) {
	for _, o := range p.members {
		o.leads = o == m
	}
}

// Endpoints are all that are known, the best first.
func (p *Pool) Endpoints() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	first := p.best(Read, now, nil)
	rank := func(m *member) int {
		switch {
		case m == first:
			return 0
		case m.out:
			return 3
		case p.silent(m, now):
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

// AllowDial reports whether a connection may be made now, under the cap on
// dials of a whole process.
func (p *Pool) AllowDial() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dials.take(p.now())
}

// ErrDials is why a connection is not made now.
var ErrDials = errors.New("too many connections were made within a second")

// betweenDials is the usual pause of who waits for [Pool.AllowDial].
const betweenDials = 20 * time.Millisecond

// AwaitDial waits until a connection may be made. When ctx or the Pool ends
// before, it returns ErrDials.
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

// decide logs a decision and keeps it for the observer. Under p.mu.
func (p *Pool) decide(ev dcs.EndpointEvent) {
	ev.Backend = p.o.Backend
	p.events = append(p.events, ev)
}

// tell logs and tells what was decided, in order, with no lock held.
func (p *Pool) tell() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.telling {
		return // whoever does it takes ours along
	}
	p.telling = true
	for len(p.events)+len(p.drops) > 0 {
		events, drops := p.events, p.drops
		p.events, p.drops = nil, nil
		p.mu.Unlock()
		for _, at := range drops {
			if p.o.Drop != nil {
				p.o.Drop(at)
			}
		}
		for _, ev := range events {
			p.report(ev)
		}
		p.mu.Lock()
	}
	p.telling = false
}
