package memstore

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Op is a kind of request, or a set of them: combine with |.
type Op uint16

// The kinds of request that clients send.
const (
	// OpGet and OpSnapshot are Backend's.
	OpGet Op = 1 << iota
	OpSnapshot
	// OpWait is the beginning of a watch, and the watch itself: a fault on it
	// holds back what the server would push.
	OpWait
	// OpProbe asks whether the server behind a quiet watch is still there.
	OpProbe
	// OpCommit is a copy of a Commit.
	OpCommit
	// OpMark makes the marker of an attempt slot (docs/protocol.md P8).
	OpMark
	// OpSettle wins a marker, so that an unclear Commit can not land (P11).
	OpSettle
	// OpRead is a read in the course of a Commit.
	OpRead
	// OpGrant, OpRenew and OpRevoke are a Lease's.
	OpGrant
	OpRenew
	OpRevoke

	// OpWatch is all of a Wait.
	OpWatch = OpWait | OpProbe
	// OpWrites is all that changes the store, a renewal included.
	OpWrites = OpCommit | OpMark | OpSettle | OpGrant | OpRenew | OpRevoke
	// OpAll is everything, like the zero Op in a Match.
	OpAll = OpGet | OpSnapshot | OpWatch | OpRead | OpWrites
)

// Call is one copy of a request as the network sees it.
type Call struct {
	Op       Op
	Client   string
	Root     string
	Endpoint string
	Copy     int         // of a request that is sent several times, from 0
	Keys     []string    // what it names, markers included
	Lease    dcs.LeaseID // of a Renew or Revoke, or of a Commit's puts
}

// Match says which calls a fault is for. An empty field matches all.
type Match struct {
	Op       Op
	Client   string
	Endpoint string
	// Key matches calls that name it or a key below it.
	Key   string
	Lease dcs.LeaseID
	// When is asked last, under the server's lock: it must not call the
	// server.
	When func(Call) bool
}

func (m Match) matches(c Call) bool {
	return (m.Op == 0 || m.Op&c.Op != 0) &&
		(m.Client == "" || m.Client == c.Client) &&
		(m.Endpoint == "" || m.Endpoint == c.Endpoint) &&
		(m.Lease == "" || m.Lease == c.Lease) &&
		(m.Key == "" || slices.ContainsFunc(c.Keys, func(k string) bool { return dcs.Under(m.Key, k) })) &&
		(m.When == nil || m.When(c))
}

// Fault is one verb of the injector. Faults combine: those of one Inject with
// each other, and those of several Injects that match one call.
type Fault struct {
	apply  func(*Injection, *plan)
	times  int  // > 0: not a verb, but for how many calls
	random bool // says nothing about a watch that is going on
}

func newFault(apply func(*Injection, *plan)) Fault { return Fault{apply: apply} }

// plan is what is going to happen to one call.
type plan struct {
	refuse    error // not sent
	fail      error // answered by the server instead of being done
	silent    bool  // never arrives
	lost      bool  // the answer never arrives
	reset     bool  // silence is heard as a broken connection, at once
	delay     time.Duration
	late      time.Duration // of the answer
	twice     bool          // done twice, the second answer counts
	again     []time.Duration
	hold      *Injection
	holdReply *Injection
}

// Refuse fails the call outright: nothing was sent, and the error is definite.
// With a *[dcs.Error] the client takes its Kind and does not try again.
func Refuse(err error) Fault { return newFault(func(_ *Injection, p *plan) { p.refuse = err }) }

// Full refuses what a full store refuses: with ErrUnavailable, and nothing
// written (P14). Match it with OpWrites.
func Full() Fault {
	return Refuse(&dcs.Error{Backend: name, Kind: dcs.ErrUnavailable, Err: errors.New("no space left in the store")})
}

// Fail answers the call with err instead of doing it; the client can not know
// that it was not done.
func Fail(err error) Fault { return newFault(func(_ *Injection, p *plan) { p.fail = err }) }

// Hang swallows the call: it never arrives, and nothing is heard of it.
func Hang() Fault { return newFault(func(_ *Injection, p *plan) { p.silent = true }) }

// DropReply does the call and swallows its answer.
func DropReply() Fault { return newFault(func(_ *Injection, p *plan) { p.lost = true }) }

// Reset goes with Hang or DropReply: the client hears at once that the
// connection broke, instead of nothing.
func Reset() Fault { return newFault(func(_ *Injection, p *plan) { p.reset = true }) }

// Delay lets the call travel for d longer. It arrives even if the client has
// given up by then.
func Delay(d time.Duration) Fault { return newFault(func(_ *Injection, p *plan) { p.delay += d }) }

// DelayReply does the call and lets its answer travel for d longer.
func DelayReply(d time.Duration) Fault { return newFault(func(_ *Injection, p *plan) { p.late += d }) }

// Duplicate lets the call arrive a second time, after d; that arrival's answer
// is lost. For a Commit see Options.Duplicating.
func Duplicate(d time.Duration) Fault {
	return newFault(func(_ *Injection, p *plan) { p.again = append(p.again, d) })
}

// Repeat does the call twice in a row and gives the second answer, as a proxy
// does that retries by itself. Without Options.Duplicating a marker must not
// get lost at that moment.
func Repeat() Fault { return newFault(func(_ *Injection, p *plan) { p.twice = true }) }

// Hold keeps the call on its way until [Injection.Release]: it arrives then,
// even if the client has long given up.
func Hold() Fault { return newFault(func(i *Injection, p *plan) { p.hold = i }) }

// HoldReply does the call and keeps the answer until [Injection.Release].
func HoldReply() Fault { return newFault(func(i *Injection, p *plan) { p.holdReply = i }) }

// Loss says how bad a network is. The figures are probabilities from 0 to 1, for
// each call on its own.
type Loss struct {
	// Seed makes the same calls, in the same order, meet the same fate.
	Seed uint64
	// Request and Reply are lost on their way.
	Request, Reply float64
	// Duplicate arrives twice: see [Duplicate].
	Duplicate float64
	// Delay is late, there or back, by up to MaxDelay, and so is overtaken.
	Delay    float64
	MaxDelay time.Duration
}

// Lossy treats calls as a bad network does.
func Lossy(l Loss) Fault {
	rng := rand.New(rand.NewPCG(l.Seed, l.Seed)) //nolint:gosec // G404: it is to be repeatable
	late := func() time.Duration { return time.Duration(rng.Int64N(int64(max(l.MaxDelay, 1)))) + 1 }
	return Fault{random: true, apply: func(_ *Injection, p *plan) { // under the server's lock
		p.silent = p.silent || rng.Float64() < l.Request
		p.lost = p.lost || rng.Float64() < l.Reply
		if rng.Float64() < l.Duplicate {
			p.again = append(p.again, late())
		}
		if rng.Float64() < l.Delay {
			p.delay += late()
		}
		if rng.Float64() < l.Delay {
			p.late += late()
		}
	}}
}

// Once ends the injection after its first call.
func Once() Fault { return Times(1) }

// Times ends the injection after n calls; what it holds stays held.
func Times(n int) Fault { return Fault{times: max(n, 1)} }

// Injection is a fault in force.
type Injection struct {
	s      *Server
	match  Match
	faults []Fault
	left   int // calls until it ends, < 0 for ever
	hits   int
	held   []func()
}

// faults is the server's state of health. Under Server.mu.
type faults struct {
	down     bool
	readOnly bool
	active   []*Injection
	changed  chan struct{} // closed at every change, for watches
}

func newFaults() faults { return faults{changed: make(chan struct{})} }

func (f *faults) change() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// Inject puts faults in the way of the calls that match, from now until it is
// lifted (or for Once, Times). Of several injections that match, all are
// effective.
func (s *Server) Inject(m Match, faults ...Fault) *Injection {
	i := &Injection{s: s, match: m, left: -1}
	for _, v := range faults {
		if v.times > 0 {
			i.left = v.times
		} else if v.apply != nil {
			i.faults = append(i.faults, v)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.active = append(s.faults.active, i)
	s.faults.change()
	return i
}

// Lift ends the injection for further calls. What it holds stays held until
// Release or Drop.
func (i *Injection) Lift() {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	i.s.lift(i)
}

func (s *Server) lift(i *Injection) {
	s.faults.active = slices.DeleteFunc(s.faults.active, func(a *Injection) bool { return a == i })
	s.faults.change()
}

// Hits returns how many calls met the injection so far.
func (i *Injection) Hits() int {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	return i.hits
}

// Held returns how many calls or answers are held.
func (i *Injection) Held() int {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	return len(i.held)
}

// Release lets everything arrive that is held, in the order in which it was
// sent, before it returns. Later calls are held again unless the injection was
// lifted.
func (i *Injection) Release() {
	for _, deliver := range i.takeHeld() {
		deliver()
	}
}

// Drop throws away what is held: it never arrives.
func (i *Injection) Drop() { i.takeHeld() }

func (i *Injection) takeHeld() []func() {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	held := i.held
	i.held = nil
	return held
}

// plan returns what is going to happen to c, and counts it. Under s.mu.
func (s *Server) plan(c Call) *plan {
	if s.faults.down {
		return &plan{refuse: errDown}
	}
	var p *plan
	for _, i := range slices.Clone(s.faults.active) {
		if !i.match.matches(c) {
			continue
		}
		if p == nil {
			p = &plan{}
		}
		for _, v := range i.faults {
			v.apply(i, p)
		}
		i.hits++
		if i.left > 0 {
			if i.left--; i.left == 0 {
				s.lift(i)
			}
		}
	}
	return p
}

// mute reports whether what the server pushes to a watch does not arrive.
// Under s.mu.
func (s *Server) muted(c Call) bool {
	for _, i := range s.faults.active {
		if !i.match.matches(c) {
			continue
		}
		var p plan
		for _, v := range i.faults {
			if !v.random {
				v.apply(i, &p)
			}
		}
		if p.silent || p.lost || p.hold != nil || p.holdReply != nil {
			return true
		}
	}
	return false
}
