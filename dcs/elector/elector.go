package elector

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

// Elector takes, keeps and gives up leadership for one Service. All methods are
// safe for concurrent use.
type Elector struct {
	c        Config
	log      *slog.Logger
	key      string // of the lock
	instance string

	wake    chan struct{}
	beat    atomic.Pointer[dcs.Instant] // E7: when the loop ran last
	limit   atomic.Int64                // E7: how long the loop may hang
	timer   atomic.Pointer[fenceTimer]  // of the present leadership or demotion
	began   atomic.Bool
	tasks   sync.WaitGroup
	life    context.Context //nolint:containedctx // it bounds the background work of Run, which ends it
	endLife context.CancelFunc
	stopped chan struct{} // closed when Run has returned

	mu      sync.Mutex
	queue   []func() // for the loop
	status  Status
	seen    *cluster.View // by the loop
	changed chan struct{} // closed at the next change of status
	leading *Leadership

	loop loop // belongs to the goroutine of Run
}

// loop is the state of the driver. Only the goroutine of Run touches it.
type loop struct {
	state  State
	timing Timing // on the granted TTL
	table  Table
	next   dcs.Instant // when the loop must run again
	busy   map[task]bool
	fatal  error // Run returns it

	session      *dcs.Session
	publisher    *cluster.Publisher
	sessionTries int
	sessionAfter dcs.Instant

	view      *cluster.View
	freeSince dcs.Instant // since when the lock is free under the present failover record
	freeKey   dcs.Revision

	service     service
	generation  int // of the service's role: reports from before a change do not count
	report      cluster.Member
	reportOf    int // the generation of the last report
	reportErr   error
	reportAt    dcs.Instant // when the next report is due
	reportBy    dcs.Instant // when the report that is under way is given up
	publishAt   dcs.Instant
	unpublished bool // the record has changed

	hold      *dcs.Hold
	lead      *Leadership
	lastToken dcs.Revision // E13: of the last lock that was given back or lost
	early     <-chan struct{}
	decision  *cluster.View // E10: the view by which the acquisition was decided
	approved  bool          // the decision is in favour
	decideAt  dcs.Instant   // when the next decision is due
	refusal   error

	acquire, confirm, promote, demote, follow outcome

	began       dcs.Instant // when Run began
	keeperGone  bool        // the keeper record is being removed: it confirms nothing
	keeperSent  bool        // this process has written a keeper record
	keeperAt    dcs.Instant // when the next write of it is due
	adoptedFrom string      // the instance whose keeper record this process has adopted
	adopted     bool        // Promote was not called since
	leftRunning bool        // the service, to its keeper
	retake      outcome
	retaken     *dcs.Hold // the lock that was taken again, until it is used or given back
	retakeAt    dcs.Instant

	fs      failsafe
	history history

	promoteBy  dcs.Instant
	promoteErr error
	last       <-chan struct{} // closed when the last callback has returned
	failed     bool            // E9: the last promotion failed
	penalty    time.Duration
	notBefore  dcs.Instant
	accepted   dcs.Revision // E15: the token under which a switchover was accepted
	judgeAt    dcs.Instant  // when a request in the present View is judged again
	unhealthy  bool
	shutdown   bool

	followed, following string // the leader that Follow was called for
	endFollow           context.CancelFunc
	followAt            dcs.Instant
	statusAt, configAt  dcs.Instant
}

// task is a kind of background work, of which one runs at a time.
type task string

const (
	taskSession  task = "session"
	taskReport   task = "report"
	taskPublish  task = "publish"
	taskDecide   task = "decide"
	taskAcquire  task = "acquire"
	taskRelease  task = "release"
	taskFailover task = "failover"
	taskStatus   task = "status"
	taskHistory  task = "history"
	taskConfig   task = "config"
	taskKeeper   task = "keeper"
	taskFailsafe task = "failsafe"
	taskAsk      task = "ask"
	taskReach    task = "reach"
)

// New returns an Elector, or an ErrInvalid with every fault of c. It does no I/O.
func New(c Config) (*Elector, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	e := &Elector{
		c: c, log: c.Logger, key: cluster.Key(c.Scope, cluster.LeaderKey), instance: rand.Text(),
		wake: make(chan struct{}, 1), stopped: make(chan struct{}), changed: make(chan struct{}),
	}
	if c.Asker != nil {
		e.c.Asker = &boundedAsker{Asker: c.Asker}
	}
	if c.Failsafe != nil {
		e.c.Failsafe = &boundedTransport{FailsafeTransport: c.Failsafe}
	}
	e.life, e.endLife = context.WithCancel(context.Background())
	e.loop.busy = map[task]bool{}
	e.setTiming(c.Timing)
	return e, nil
}

// Run returns [New] and [Elector.Run] in one call.
func Run(ctx context.Context, c Config) error {
	e, err := New(c)
	if err != nil {
		return err
	}
	return e.Run(ctx)
}

// Run takes part in the election until ctx ends. It then demotes the service if it
// is primary, gives the lock back, removes the member's record, and returns nil
// (E12). It returns by HandoverTimeout, FenceTimeout and a few RetryTimeouts, also
// where a callback hangs.
//
// An error reports that the store was closed or refused the timing, that the end of
// the session could not be confirmed, or that the service was not stopped
// ([ErrNotStopped]). An Elector runs once.
func (e *Elector) Run(ctx context.Context) error {
	if e.began.Swap(true) {
		return &dcs.Error{Op: "Run", Kind: dcs.ErrInvalid, Err: errors.New("the Elector has run already: make another one")}
	}
	defer close(e.stopped)
	e.loop.began = dcs.Now()
	e.tasks.Go(e.watch)
	t := time.NewTimer(0)
	defer t.Stop()
	for end := ctx.Done(); e.loop.state != Stopped; {
		l := &e.loop
		var sessionDone, holdDone <-chan struct{}
		if l.session != nil && l.session.Err() == nil {
			sessionDone = l.session.Done()
		}
		if l.hold != nil && l.hold.Err() == nil {
			holdDone = l.hold.Done()
		}
		select {
		case <-end:
			l.shutdown, end = true, nil
		case <-l.early:
		case <-sessionDone:
		case <-holdDone:
		case <-e.wake:
		case <-t.C:
		}
		e.turn()
		t.Reset(max(-l.next.Elapsed(), 0))
	}
	return e.finish()
}

// turn does everything that can be done now.
func (e *Elector) turn() {
	l := &e.loop
	now := dcs.Now()
	e.beat.Store(&now)                 // E7
	l.next = now.Add(l.table.Gate / 2) // so that a loop that runs never closes the gate
	e.drain()
	if isClosed(l.early) {
		l.early = nil
	}
	for {
		r, ok := step(l.state, e.facts())
		if !ok {
			break
		}
		e.log.Info("state changes", "from", l.state.String(), "to", r.to.String(), "why", r.name)
		l.state = r.to
		e.act(r.do)
	}
	if l.state != Stopped {
		e.work()
	}
	e.publishStatus()
}

// drain runs the functions that background work has posted.
func (e *Elector) drain() {
	for {
		e.mu.Lock()
		queue := e.queue
		e.queue = nil
		e.mu.Unlock()
		if len(queue) == 0 {
			return
		}
		for _, f := range queue {
			f()
		}
	}
}

// post has f run by the loop.
func (e *Elector) post(f func()) {
	e.mu.Lock()
	e.queue = append(e.queue, f)
	e.mu.Unlock()
	e.notify()
}

// notify wakes the loop.
func (e *Elector) notify() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// begin runs f in the background, unless work of this kind is under way. The
// function that f returns is run by the loop.
func (e *Elector) begin(kind task, f func(ctx context.Context) func()) bool {
	if e.loop.busy[kind] {
		return false
	}
	e.loop.busy[kind] = true
	e.tasks.Go(func() {
		result := f(e.life)
		e.post(func() {
			delete(e.loop.busy, kind)
			result()
		})
	})
	return true
}

// due reports whether at has come. Otherwise the loop runs again then.
func (e *Elector) due(at dcs.Instant) bool {
	if at.Elapsed() >= 0 {
		return true
	}
	if at.Before(e.loop.next) {
		e.loop.next = at
	}
	return false
}

// facts returns the facts of this moment.
func (e *Elector) facts() facts {
	l := &e.loop
	f := facts{
		session: l.session != nil && l.session.Err() == nil, treeRead: l.view != nil, service: l.service,
		locked: l.hold != nil || l.retaken != nil, acquire: l.acquire, confirm: l.confirm,
		promote: l.promote, demote: l.demote, follow: l.follow,
		shutdown: l.shutdown, unhealthy: l.unhealthy,
	}
	if h := l.hold; h != nil {
		f.held, f.enough = h.Valid(), h.Remaining() > l.timing.StopTimeout // E1
		f.handover = l.accepted != 0 && l.accepted == h.Token()
	}
	e.leadershipFacts(&f)
	if t := e.timer.Load(); t != nil {
		f.fence = t.outcome()
		f.unhealthy = f.unhealthy || t.guard.hasFired() && (l.view == nil || !l.view.Config.Pause) // E11
	}
	f.overdue = l.promote == running && e.due(l.promoteBy)
	if f.overdue && l.promoteErr == nil {
		l.promoteErr = fmt.Errorf("Promote has not returned within PromoteTimeout %v", l.timing.PromoteTimeout)
	}
	f.mayLead = l.approved && e.stands()
	return f
}

// leadershipFacts sets the facts about the present leadership, and those by which one
// is found at the start.
func (e *Elector) leadershipFacts(f *facts) {
	l := &e.loop
	if l.state == Starting && l.service == servicePrimary {
		f.keeper = l.view != nil && e.namesMember(l.view)
		f.unread = l.view == nil && !e.due(l.began.Add(l.timing.LostTimeout))
	}
	lead := l.lead
	if lead == nil {
		return
	}
	t := lead.term()
	if f.lost, f.kept = t.lost != nil, t.kept; !f.lost && !f.kept {
		e.due(t.deadline.Add(-l.timing.StopTimeout))
	}
	f.expiring, f.adopted, f.retake = lead.expire(l.timing.StopTimeout), l.adopted, l.retake
	if l.retake == done && !l.retaken.Valid() {
		f.retake = failed
	}
	f.mayRetake = e.mayRetake(f)
}

// act carries out the action of a row.
func (e *Elector) act(a action) {
	switch a {
	case startAcquire:
		e.startAcquire()
	case startPromote:
		e.startPromote()
	case startLeading:
		e.startLeading()
	case adopt:
		e.adopt()
	case startRetake:
		e.startRetake()
	case useRetaken:
		e.useRetaken()
	case dropRetaken:
		e.dropRetaken()
	case startDemote:
		e.startDemote()
	case startFence:
		e.tasks.Go(e.timer.Load().fire)
	case endLeadership:
		e.closeLeadership()
	case giveBack:
		e.giveBack()
	case forget:
		e.forget()
	case abandon:
		e.loop.fatal = e.notStopped()
	case leaveRunning:
		e.leaveRunning()
	case endSession, doNothing: // finish ends the session
	}
}

// gate is the Gate of the session. It refuses renewals when the loop hangs (E7), and
// while the service is fenced or could not be (E5).
func (e *Elector) gate() error {
	if t := e.timer.Load(); t != nil {
		if o := t.outcome(); o == running || o == failed {
			return errors.New("the service is being fenced")
		}
	}
	return e.Alive() // E7
}

// retryTime is the pause before a write to the store is tried again.
func (e *Elector) retryTime() time.Duration { return min(time.Second, e.loop.timing.LoopWait) }

func (e *Elector) setTiming(t Timing) {
	e.loop.timing = t.WithDefaults()
	e.loop.table = e.loop.timing.table()
	e.limit.Store(int64(e.loop.table.Gate))
}

// protect calls f and passes its error to then. A panic is an error.
func protect(name string, f func() error, then func(error)) {
	err := fmt.Errorf("%s ended its goroutine and has not returned", name)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s panicked: %v\n%s", name, p, debug.Stack())
		}
		then(err)
	}()
	err = f()
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
