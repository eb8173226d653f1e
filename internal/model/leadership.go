package model

// leadershipRules are the rules by which an elector leads and stops to lead.
type leadershipRules struct {
	confirmsFirst    bool // E1: Promote starts only after a Confirm, with time left to stop
	demotesInTime    bool // E2: a demotion begins before the deadline when renewals fail
	fixesFenceTime   bool // E3: the fence time of a demotion never moves
	fences           bool // E3: a demotion that misses its fence time is fenced
	keepsUntilStop   bool // E5: the lock is given back only after Demote or Fence has returned nil
	renewsOn         bool // E6: renewals go on during a demotion
	fencesWithoutRun bool // E7: the fence timer does not need the loop
	gatesRenewals    bool // E7: a loop that hangs ends the renewals
	demoteWaits      bool // E8: Demote waits until Promote has returned
	acquiresIdle     bool // E8: nothing is acquired while a callback runs
	othersFirst      bool // E9: a member whose promotion failed lets the others come first
	shutdownDemotes  bool // E12: a shutdown stops the service before the session ends
	guardian         bool // section 8: a guardian stops the service of a process that does not run
}

// Moments of a leadership in ticks, from the sending of the last renewal.
const (
	ticksToDemote = 1
	ticksToFence  = 2
	ticksToEnd    = 3 // the deadline, and the life of the lock in the store
)

const electors = 3

// leadershipModel is a lock with a life and members that lead under it. Time is in whole
// ticks. An action that a timer makes comes before the next tick, unless its process does
// not run. A renewal or its answer may be lost.
type leadershipModel struct {
	leadershipRules
	members int
	ticks   uint8
	faults  uint8 // of processes: loops that hang, processes that are stopped, Fence that fails
	tokens  uint8 // acquisitions
}

// phase is the state of an elector.
type phase uint8

const (
	following phase = iota
	acquired
	promoting
	leading
	demoting
	ended // the process
)

// callback is the state of Promote or Demote.
type callback uint8

const (
	notCalled callback = iota
	called
	returned
)

type elector struct {
	phase           phase
	isPrimary       bool
	isConfirmed     bool
	hasFailed       bool // the promotion
	hangs           bool // the loop
	isStopped       bool // the process
	promote, demote callback
	deadline        uint8
	fenceAt         uint8 // of a demotion
	began           uint8 // the tick at which the demotion or the hang began
	failedAt        uint8 // the tick after a promotion that failed; 0 is none
}

type leadershipState struct {
	now     uint8
	holder  uint8 // 1 and up; 0: the lock is free
	until   uint8 // when the store ends the lock
	tokens  uint8
	faults  uint8
	members [electors]elector
	fault   leadershipFault
}

// leadershipFault is a wrong step that leaves no trace in the state.
type leadershipFault uint8

const (
	noFault leadershipFault = iota
	releasedWhilePrimary
	fencedUndemoted
	triedFirst
)

var electorNames = [electors]string{"A", "B", "C"}

// next returns the possible steps in s.
func (m leadershipModel) next(s leadershipState) []step[leadershipState] {
	c := choices[leadershipState]{state: s}
	c.add(s.holder != 0 && s.now >= s.until, "the lock expires", func(n *leadershipState) { n.holder = 0 })
	for i := range m.members {
		if e := s.members[i]; !e.isStopped && e.phase != ended {
			m.acquire(&c, i)
			m.promote(&c, i)
			m.demote(&c, i)
			m.renew(&c, i)
			m.fence(&c, i)
			m.disturb(&c, i)
		}
		m.guard(&c, i)
	}
	c.add(s.now < m.ticks && !m.isDue(s), "a tick passes", func(n *leadershipState) { n.now++ })
	return c.steps
}

// holds reports whether the member may believe that it has the lock.
func (e elector) holds(now uint8) bool {
	return e.phase >= acquired && e.phase <= demoting && now < e.deadline
}

func (m leadershipModel) acquire(c *choices[leadershipState], i int) {
	s, e, name := c.state, c.state.members[i], electorNames[i]
	isIdle := e.promote != called && e.demote != called
	mayTry := e.phase == following && !e.hangs && (isIdle || !m.acquiresIdle) && s.tokens < m.tokens
	isAfterOthers := e.failedAt == 0 || s.now >= e.failedAt
	c.add(mayTry && s.holder == 0 && (isAfterOthers || !m.othersFirst), name+" acquires the lock", func(n *leadershipState) {
		if !isAfterOthers {
			n.fault = triedFirst
		}
		n.holder, n.until = uint8(i+1), n.now+ticksToEnd
		n.tokens++
		to := &n.members[i]
		*to = elector{phase: acquired, deadline: n.until, isPrimary: e.isPrimary}
		to.keepRunning(e)
	})
	c.add(e.phase == acquired && !e.hangs && s.holder == uint8(i+1), name+"'s Confirm succeeds", func(n *leadershipState) {
		n.until = n.now + ticksToEnd
		n.members[i].deadline, n.members[i].isConfirmed = n.until, true
	})
	c.add(e.phase == acquired && !e.hangs && !e.holds(s.now), name+" finds that the lock is lost before the promotion", func(n *leadershipState) {
		n.release(i, following)
	})
}

func (m leadershipModel) promote(c *choices[leadershipState], i int) {
	s, e, name := c.state, c.state.members[i], electorNames[i]
	mayPromote := e.isConfirmed && !m.expiring(s, e)
	c.add(e.phase == acquired && !e.hangs && e.promote != called && (mayPromote || !m.confirmsFirst), name+" calls Promote", func(n *leadershipState) {
		n.members[i].phase, n.members[i].promote = promoting, called
	})
	c.add(e.promote == called, name+"'s Promote takes effect and returns", func(n *leadershipState) {
		to := &n.members[i]
		to.isPrimary, to.promote = true, returned
		if to.phase == promoting && !to.hangs {
			to.phase = leading
		}
	})
	c.add(e.promote == called && e.phase == promoting && !e.hangs, name+"'s Promote fails halfway", func(n *leadershipState) {
		to := &n.members[i]
		to.isPrimary, to.promote, to.hasFailed = true, returned, true
		n.begin(i)
	})
}

// begin begins a demotion and fixes its fence time (E3).
func (s *leadershipState) begin(i int) {
	e := &s.members[i]
	e.phase, e.began = demoting, s.now
	e.fenceAt = e.deadline - ticksToEnd + ticksToFence
}

func (m leadershipModel) demote(c *choices[leadershipState], i int) {
	s, e, name := c.state, c.state.members[i], electorNames[i]
	isActive := (e.phase == promoting || e.phase == leading) && !e.hangs
	c.add(isActive && (m.demotesInTime || !m.expiring(s, e)), name+" begins a demotion", func(n *leadershipState) { n.begin(i) })
	c.add(isActive && !m.shutdownDemotes, name+" is shut down and closes its session", func(n *leadershipState) { n.release(i, ended) })
	mayCall := e.phase == demoting && !e.hangs && e.demote == notCalled && (e.promote != called || !m.demoteWaits)
	c.add(mayCall, name+" calls Demote", func(n *leadershipState) { n.members[i].demote = called })
	c.add(e.demote == called, name+"'s Demote takes effect and returns", func(n *leadershipState) {
		n.members[i].isPrimary, n.members[i].demote = false, returned
	})
	mayRelease := e.demote == returned || !m.keepsUntilStop
	c.add(e.phase == demoting && !e.hangs && mayRelease, name+" gives the lock back", func(n *leadershipState) { n.release(i, following) })
}

// release gives the lock back. A callback that runs goes on.
func (s *leadershipState) release(i int, to phase) {
	e := s.members[i]
	if e.isPrimary {
		s.fault = releasedWhilePrimary
	}
	if s.holder == uint8(i+1) {
		s.holder = 0
	}
	n := elector{phase: to, isPrimary: e.isPrimary}
	n.keepRunning(e)
	if e.hasFailed {
		n.failedAt = s.now + 1
	}
	s.members[i] = n
}

// keepRunning takes over the callbacks of e that run.
func (to *elector) keepRunning(e elector) {
	if e.promote == called {
		to.promote = called
	}
	if e.demote == called {
		to.demote = called
	}
}

// renew adds a renewal and its answer, and one whose answer is lost. Renewals go on
// during a demotion (E6).
func (m leadershipModel) renew(c *choices[leadershipState], i int) {
	s, e, name := c.state, c.state.members[i], electorNames[i]
	mayRenew := e.phase >= promoting && e.phase <= demoting && e.holds(s.now) && s.holder == uint8(i+1) && e.deadline < s.now+ticksToEnd
	isOpen := (!e.hangs || !m.gatesRenewals) && (e.phase != demoting || m.renewsOn)
	c.add(mayRenew && isOpen, name+" renews the lock", func(n *leadershipState) {
		n.until = n.now + ticksToEnd
		n.members[i].deadline = n.until
		if !m.fixesFenceTime {
			n.members[i].fenceAt = n.until - ticksToEnd + ticksToFence
		}
	})
	c.add(mayRenew && isOpen && s.until < s.now+ticksToEnd, name+" renews the lock and gets no answer", func(n *leadershipState) { n.until = n.now + ticksToEnd })
}

// expiring reports whether the demotion is due because renewals fail.
func (m leadershipModel) expiring(s leadershipState, e elector) bool {
	return s.now+ticksToEnd >= e.deadline+ticksToDemote
}

// fenceIsDue reports whether the fence timer has to fire.
func (m leadershipModel) fenceIsDue(s leadershipState, e elector) bool {
	at := e.deadline - ticksToEnd + ticksToFence
	if e.phase == demoting {
		at = e.fenceAt
	}
	mayFire := m.fences && (m.fencesWithoutRun || !e.hangs)
	return mayFire && e.phase >= promoting && e.phase <= demoting && s.now >= at
}

func (m leadershipModel) fence(c *choices[leadershipState], i int) {
	s, e, name := c.state, c.state.members[i], electorNames[i]
	isDue := m.fenceIsDue(s, e)
	c.add(isDue, name+"'s service is fenced", func(n *leadershipState) {
		if e.phase != demoting && !e.hangs {
			n.fault = fencedUndemoted
		}
		to := &n.members[i]
		to.isPrimary, to.promote = false, notCalled // no earlier Promote has an effect
		hangs := to.hangs
		n.release(i, following)
		n.members[i].hangs = hangs
	})
	c.add(isDue && s.faults < m.faults, name+"'s Fence fails and the process ends", func(n *leadershipState) {
		n.faults++
		to := &n.members[i]
		*to = elector{phase: ended, isPrimary: to.isPrimary, deadline: to.deadline}
	})
}

// disturb adds the faults of a process.
func (m leadershipModel) disturb(c *choices[leadershipState], i int) {
	s, e, name := c.state, c.state.members[i], electorNames[i]
	mayFail := s.faults < m.faults && e.phase >= promoting && e.phase <= demoting
	c.add(mayFail && !e.hangs, name+"'s loop hangs", func(n *leadershipState) {
		n.faults++
		n.members[i].hangs, n.members[i].began = true, n.now
	})
	c.add(mayFail, name+"'s process is stopped", func(n *leadershipState) {
		n.faults++
		n.members[i].isStopped = true
	})
}

// guardIsDue reports whether the guardian has to stop the service: the process does not
// run, and the fence timer has not fired.
func (m leadershipModel) guardIsDue(s leadershipState, e elector) bool {
	isOut := e.isStopped || e.phase == ended
	return m.guardian && isOut && (e.isPrimary || e.promote == called) && s.now >= e.deadline-ticksToEnd+ticksToFence
}

func (m leadershipModel) guard(c *choices[leadershipState], i int) {
	s, e, name := c.state, c.state.members[i], electorNames[i]
	c.add(m.guardIsDue(s, e), name+"'s guardian kills the service", func(n *leadershipState) {
		n.members[i].isPrimary, n.members[i].promote = false, notCalled
	})
}

// isDue reports whether a timer has to act before the next tick.
func (m leadershipModel) isDue(s leadershipState) bool {
	for _, e := range s.members[:m.members] {
		runs := !e.isStopped && e.phase != ended
		begins := m.demotesInTime && !e.hangs && (e.phase == promoting || e.phase == leading) && m.expiring(s, e)
		if runs && (begins || m.fenceIsDue(s, e)) || m.guardIsDue(s, e) {
			return true
		}
	}
	return false
}

// checkPrimaries reports two primaries.
func (s leadershipState) checkPrimaries() string {
	primaries := 0
	for _, e := range s.members {
		if e.isPrimary {
			primaries++
		}
	}
	if primaries > 1 {
		return "two services are primary"
	}
	return ""
}

// checkSteps reports steps that are wrong by themselves.
func (s leadershipState) checkSteps() string {
	for _, e := range s.members {
		isLate := s.now > e.began+2*ticksToEnd && !e.isStopped
		switch {
		case isLate && e.phase == demoting:
			return "a demotion has outlasted the deadline at its beginning"
		case isLate && e.hangs && e.phase >= promoting && e.phase <= leading:
			return "a member whose loop hangs keeps the lock"
		case e.promote == called && e.demote == called:
			return "Promote and Demote overlap"
		}
	}
	return [...]string{
		noFault:              "",
		releasedWhilePrimary: "the lock was given back while the service was primary",
		fencedUndemoted:      "a service was fenced without a demotion before",
		triedFirst:           "a member whose promotion failed took the lock before the others could",
	}[s.fault]
}
