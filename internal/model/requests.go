package model

// requestRules are the rules by which members take the lock under pauses, switchovers
// and keepers.
type requestRules struct {
	conditional    bool // E10: an acquisition is conditional on the records by which it was decided
	readsAgain     bool // E10: the records are read again before Promote
	pauseWaits     bool // E11: a pause is refused while a switchover is accepted
	acceptsOnRead  bool // E11: an acceptance is conditional on the configuration that was read
	oldByToken     bool // E13: a lock is the own one of an earlier time only by its token, not by its name
	ownToken       bool // E15: a leader obeys only a request with its own token
	judges         bool // E15: the candidate is judged before anything stops
	reserves       bool // E15: only the candidate takes the lock that was given up for it
	comparesOthers bool // E14: a member that is behind another one does not lead
	keeperBlocks   bool // section 6: nobody acquires while a keeper names another member
	keeperGuarded  bool // section 6: the keeper record is written under the guard of the lock
}

// requestModel is a lock, the records of operators and members that decide by copies of
// them, which may be old. A demotion takes no time. The lock of a leader may be lost, and
// the leader then demotes unless it is the keeper.
type requestModel struct {
	requestRules
	members  int
	writes   uint8 // of the records
	tokens   uint8
	maySpoil bool // members may become unfit and fall behind
}

// records are the keys on which an acquisition is decided.
type records struct {
	revision  uint8 // of their last change
	isPaused  bool
	candidate uint8 // of the switchover; 0: there is none
	token     uint8 // under which it was accepted; 0: it is not
	keeper    uint8
}

type voter struct {
	seen    records
	decided uint8 // the revision of the decision to acquire, plus one; 0: there is none
	token   uint8 // of the lock that it has, or had as a keeper; 0: it follows
	leads   bool  // Promote was called
	kept    bool  // its keeper record was confirmed
}

type requestState struct {
	records
	holder  uint8
	tokens  uint8
	members [electors]voter
	gaveUp  bool // the lock is free because of the accepted switchover
	isUnfit bool // the candidate of the switchover cannot lead
	lags    bool // C is behind the others
	fault   requestFault
}

type requestFault uint8

const (
	noRequestFault requestFault = iota
	ledInAPause
	tookReserved
	obeyedAnother
	obeyedUnfit
	decidedBehind
)

func (s *requestState) change(f func(*records)) {
	f(&s.records)
	s.revision++
}

// next returns the possible steps in s.
func (m requestModel) next(s requestState) []step[requestState] {
	c := choices[requestState]{state: s}
	mayWrite := s.revision < m.writes
	c.add(mayWrite && !s.isPaused && (s.token == 0 || !m.pauseWaits), "an operator pauses the cluster", func(n *requestState) {
		n.change(func(r *records) { r.isPaused = true })
	})
	c.add(mayWrite && s.isPaused, "an operator ends the pause", func(n *requestState) { n.change(func(r *records) { r.isPaused = false }) })
	c.add(mayWrite && s.candidate == 0, "an operator asks for B to lead", func(n *requestState) { n.change(func(r *records) { r.candidate = 2 }) })
	c.add(m.maySpoil && !s.isUnfit, "B becomes unfit to lead", func(n *requestState) { n.isUnfit = true })
	c.add(m.maySpoil && !s.lags, "C falls behind", func(n *requestState) { n.lags = true })
	c.add(s.gaveUp && s.holder == 0, "a LoopWait passes without a leader", func(n *requestState) { n.gaveUp = false })
	for i := range m.members {
		m.decide(&c, i)
		m.lead(&c, i)
	}
	return c.steps
}

func (m requestModel) decide(c *choices[requestState], i int) {
	s, e, name := c.state, c.state.members[i], electorNames[i]
	me := uint8(i + 1)
	isFree := e.token == 0
	c.add(e.seen != s.records, name+" reads the records", func(n *requestState) { n.members[i].seen = n.records })
	isReserved := e.seen.candidate != 0 && e.seen.token != 0 && e.seen.candidate != me && s.gaveUp
	isBlocked := e.seen.keeper != 0 && e.seen.keeper != me
	isBehind := s.lags && i == electors-1
	mayDecide := !e.seen.isPaused && (!isReserved || !m.reserves) && (!isBlocked || !m.keeperBlocks) && (!isBehind || !m.comparesOthers)
	c.add(isFree && e.decided == 0 && s.holder == 0 && mayDecide, name+" decides to take the lock", func(n *requestState) {
		n.members[i].decided = e.seen.revision + 1
		if isBehind {
			n.fault = decidedBehind
		}
	})
	isUnchanged := e.decided == s.revision+1
	c.add(e.decided != 0 && !isUnchanged && m.conditional, name+"'s acquisition is refused because the records have changed", func(n *requestState) {
		n.members[i].decided = 0
	})
	c.add(e.decided != 0 && s.holder == 0 && s.tokens < m.tokens && (isUnchanged || !m.conditional), name+" takes the lock", func(n *requestState) {
		n.tokens++
		if n.gaveUp && n.token != 0 && n.candidate != me {
			n.fault = tookReserved
		}
		n.holder, n.members[i].token, n.gaveUp = me, n.tokens, false
	})
	isTwin := i == 1 && isFree && s.holder == 1
	c.add(isTwin && !m.oldByToken, "B, which was started under the name of A, deletes A's lock as its own old one", func(n *requestState) { n.holder = 0 })
	isHeld := s.holder == me && e.token != 0 && !e.leads
	c.add(isHeld && (isUnchanged || !m.readsAgain), name+" reads the records again and promotes its service", func(n *requestState) {
		if n.isPaused {
			n.fault = ledInAPause
		}
		n.members[i].leads, n.members[i].decided = true, 0
	})
	c.add(isHeld && !isUnchanged && m.readsAgain, name+" finds the records changed and gives the lock back", func(n *requestState) {
		n.holder = 0
		n.members[i] = voter{seen: n.records}
	})
}

func (m requestModel) lead(c *choices[requestState], i int) {
	s, e, name := c.state, c.state.members[i], electorNames[i]
	me := uint8(i + 1)
	isHolder := e.leads && s.holder == me
	stop := func(n *requestState) { n.members[i] = voter{seen: n.members[i].seen} }
	mayAccept := isHolder && e.seen.candidate != 0 && e.seen.candidate != me && e.seen.token == 0 && !e.seen.isPaused
	isRead := e.seen == s.records || !m.acceptsOnRead && e.seen.candidate == s.candidate && e.seen.token == s.token
	c.add(mayAccept && isRead && (!s.isUnfit || !m.judges), name+" accepts the switchover", func(n *requestState) {
		if n.isUnfit {
			n.fault = obeyedUnfit
		}
		n.change(func(r *records) { r.token = e.token })
	})
	isOrder := e.seen.token != 0 && (e.seen.token == e.token || !m.ownToken)
	c.add(isHolder && isOrder, name+" demotes and gives the lock up for the candidate", func(n *requestState) {
		if e.seen.token != e.token {
			n.fault = obeyedAnother
		}
		stop(n)
		n.holder, n.gaveUp = 0, true
	})
	c.add(isHolder && s.token != 0 && s.token != e.token && e.seen == s.records, name+" clears the request of an earlier leader", func(n *requestState) {
		n.change(func(r *records) { r.token, r.candidate = 0, 0 })
	})
	// The lock ends without the leader, which demotes in time unless it is the keeper.
	c.add(isHolder && !e.kept, name+" loses the lock and demotes", func(n *requestState) {
		stop(n)
		n.holder = 0
	})
	c.add(isHolder && e.kept, name+"'s lock ends, and its service goes on under the keeper", func(n *requestState) { n.holder = 0 })
	mayKeep := e.leads && !e.kept && e.seen.isPaused && s.keeper == 0 && s.isPaused
	c.add(mayKeep && (isHolder || !m.keeperGuarded), name+" writes the keeper record", func(n *requestState) {
		n.change(func(r *records) { r.keeper = me })
		n.members[i].kept = true
	})
	c.add(isHolder && !e.kept && !m.keeperGuarded && e.seen.isPaused, name+"'s lock ends while its keeper record is under way", func(n *requestState) { n.holder = 0 })
	c.add(isHolder && e.kept && !s.isPaused, name+" leads under its lock and removes the keeper record", func(n *requestState) {
		n.change(func(r *records) { r.keeper = 0 })
		n.members[i].kept = false
	})
}

// checkPrimaries reports two primaries.
func (s requestState) checkPrimaries() string {
	primaries := 0
	for _, e := range s.members {
		if e.leads {
			primaries++
		}
	}
	if primaries > 1 {
		return "two services are primary"
	}
	return ""
}

// checkSteps reports steps that are wrong by themselves.
func (s requestState) checkSteps() string {
	if s.isPaused && s.gaveUp && s.holder == 0 {
		return "a pause has left the cluster without a leader in a switchover"
	}
	return [...]string{
		noRequestFault: "",
		ledInAPause:    "a member was promoted in a pause",
		tookReserved:   "a member took the lock that was given up for another one",
		obeyedAnother:  "a leader gave the lock up for a request that another leader had accepted",
		obeyedUnfit:    "a leader accepted a candidate that cannot lead",
		decidedBehind:  "a member that is behind takes the lock",
	}[s.fault]
}
