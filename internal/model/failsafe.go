package model

// failsafeRules are the rules by which a leader goes on without the store (P23).
type failsafeRules struct {
	confirmsList  bool // F1: a leader asks only after its own list was confirmed
	dropsOnChange bool // F1: a list with a new member ends acceptances and open rounds
	needsAll      bool // F2: all members of the list must accept
	oneRound      bool // F2: in one round
	fromSending   bool // F2: the leadership lasts from the first sending of the round
	idleAccepts   bool // F3: a member with an acquisition under way does not accept
	acceptorWaits bool // F4: a member that accepted does not acquire while the block lasts
	starterWaits  bool // F4: nobody acquires within a TTL of its start while the list is not empty
	strangersWait bool // F4: a member that is not in the list does not acquire
}

const failsafeTTL = 2

// failsafeModel is a leader A with two other members, all of which know of each other
// only through the store and A's questions. A cannot reach the store any more, and its
// lock ends. Time is in whole ticks.
type failsafeModel struct {
	failsafeRules
	ticks    uint8
	restarts uint8
}

// list is a set of members, a bit each.
type list uint8

func (l list) has(i int) bool { return l>>i&1 == 1 }

type participant struct {
	started   uint8 // the tick of its start, plus one; 0: long ago
	blocked   uint8 // until when its acceptance binds it
	isTrying  bool  // an acquisition is decided, and may land
	isPrimary bool
}

type failsafeState struct {
	now       uint8
	lockUntil uint8 // the life of A's lock; it is free from then on
	isTaken   bool  // by another member than A
	until     uint8 // until when A leads
	stored    list  // the members in the store's list
	known     list  // the members of the list that A believes to be stored
	isUnclear bool  // A's last write of the list
	round     uint8 // the tick of the sending, plus one; 0: no round is open
	asked     list  // in the round: not delivered yet
	accepted  list
	answers   list // under way to A
	restarts  uint8
	members   [electors]participant
}

func (m failsafeModel) start() failsafeState {
	s := failsafeState{lockUntil: failsafeTTL, until: failsafeTTL, stored: 0b010, known: 0b010}
	s.members[0].isPrimary = true
	return s
}

// next returns the possible steps in s.
func (m failsafeModel) next(s failsafeState) []step[failsafeState] {
	c := choices[failsafeState]{state: s}
	c.add(s.now < m.ticks, "a tick passes", func(n *failsafeState) {
		n.now++
		if n.now >= n.until {
			n.members[0].isPrimary = false // E2
			n.round, n.asked, n.accepted, n.answers = 0, 0, 0, 0
		}
	})
	m.write(&c)
	m.ask(&c)
	for i := 1; i < electors; i++ {
		m.answer(&c, i)
		m.acquire(&c, i)
	}
	return c.steps
}

// write adds the write of a list with C, whose answer may be lost.
func (m failsafeModel) write(c *choices[failsafeState]) {
	s := c.state
	mayWrite := s.members[0].isPrimary && s.now < s.lockUntil && s.stored == 0b010 && !s.isUnclear
	drop := func(n *failsafeState) {
		if m.dropsOnChange {
			n.round, n.asked, n.accepted, n.answers = 0, 0, 0, 0
			n.until = n.lockUntil
		}
	}
	c.add(mayWrite, "A adds C to the list", func(n *failsafeState) {
		drop(n)
		n.stored, n.known = 0b110, 0b110
	})
	c.add(mayWrite, "A adds C to the list and gets no answer", func(n *failsafeState) {
		drop(n)
		n.stored, n.isUnclear = 0b110, true
		if m.confirmsList {
			n.known = 0b110 // it asks every list that may be stored
		}
	})
}

func (m failsafeModel) ask(c *choices[failsafeState]) {
	s := c.state
	leads := s.members[0].isPrimary
	c.add(leads && s.round != s.now+1, "A asks the members of its list", func(n *failsafeState) {
		n.round, n.asked = n.now+1, n.known
		if m.oneRound {
			n.accepted, n.answers = 0, 0
		}
	})
	for i := 1; i < electors; i++ {
		c.add(leads && s.answers.has(i), "A gets the acceptance of "+electorNames[i], func(n *failsafeState) {
			n.answers &^= 1 << i
			n.accepted |= 1 << i
		})
	}
	isEnough := s.accepted&s.known == s.known || !m.needsAll && s.accepted != 0
	c.add(leads && s.round != 0 && isEnough, "A goes on to lead by the acceptances", func(n *failsafeState) {
		from := n.round - 1
		if !m.fromSending {
			from = n.now
		}
		n.until = max(n.until, from+failsafeTTL)
		n.round, n.asked, n.answers = 0, 0, 0
		if m.oneRound {
			n.accepted = 0
		}
	})
}

func (m failsafeModel) answer(c *choices[failsafeState], i int) {
	s, e, name := c.state, c.state.members[i], electorNames[i]
	mayAccept := !e.isPrimary && (!e.isTrying || !m.idleAccepts)
	c.add(s.asked.has(i) && mayAccept, name+" accepts that A goes on", func(n *failsafeState) {
		n.asked &^= 1 << i
		n.answers |= 1 << i
		n.members[i].blocked = n.now + failsafeTTL
	})
	c.add(s.restarts < m.restarts && !e.isPrimary && !e.isTrying, name+" restarts and forgets its acceptance", func(n *failsafeState) {
		n.restarts++
		n.members[i] = participant{started: n.now + 1}
	})
}

func (m failsafeModel) acquire(c *choices[failsafeState], i int) {
	s, e, name := c.state, c.state.members[i], electorNames[i]
	isBlocked := s.now < e.blocked
	isNew := e.started != 0 && s.now < e.started-1+failsafeTTL
	mayTry := (!isBlocked || !m.acceptorWaits) && (!isNew || !m.starterWaits) && (s.stored.has(i) || !m.strangersWait)
	c.add(!e.isTrying && !e.isPrimary && mayTry, name+" decides to acquire the lock", func(n *failsafeState) { n.members[i].isTrying = true })
	// The acquisition is conditional on the list by which it was decided (E10): the list
	// does not change once A cannot reach the store.
	c.add(e.isTrying && !s.isTaken && s.now >= s.lockUntil && (s.stored.has(i) || !m.strangersWait), name+"'s acquisition takes effect", func(n *failsafeState) {
		n.isTaken = true
		n.members[i].isTrying, n.members[i].isPrimary = false, true
	})
	c.add(e.isTrying, name+" gives its acquisition up for good", func(n *failsafeState) { n.members[i].isTrying = false })
}

// check reports two primaries.
func (s failsafeState) check() string {
	for _, e := range s.members[1:] {
		if e.isPrimary && s.members[0].isPrimary {
			return "two services are primary"
		}
	}
	return ""
}
