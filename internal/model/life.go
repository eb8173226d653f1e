package model

// lifeRules are the rules by which the answer to a renewal moves the deadline of a
// session, and the duty of the store on which they depend.
type lifeRules struct {
	laterSets           bool // P3: a renewal that was sent later sets the deadline, also to an earlier time
	earlierNeverBack    bool // P3: a renewal that was sent earlier never moves the deadline back
	earlierNeverForward bool // P3: nor forward
	equalTakesEarlier   bool // P3: of two renewals with the same From the earlier deadline counts
	shortensOnAnswer    bool // the store: a shorter life begins when the client has the answer that grants it
}

// lifeModel is a session on a store that grants a long or a short life with each renewal.
// Time is in whole ticks and the margin is 0. Requests and answers overtake each other, and
// one that is lost never arrives. As soon as the lease has ended, another session may
// acquire the lock.
type lifeModel struct {
	lifeRules
	long, short uint8
	renewals    int   // the greatest number of renewals, at most maxRenewals
	ticks       uint8 // the number of ticks
}

const maxRenewals = 3

var renewalNames = [maxRenewals + 1]string{"the Grant", "renewal 1", "renewal 2", "renewal 3"}

// renewal is a renewal that was sent.
type renewal struct {
	sent, arrived uint8
	life          uint8 // granted by the store; 0 before the arrival
	isAnswered    bool  // the client has the answer
}

func (r renewal) deadline() uint8 { return r.sent + r.life }

type lifeState struct {
	now            uint8
	count          int
	renewals       [maxRenewals + 1]renewal // in the order of sending, the Grant first
	from, deadline uint8
	isLost         bool // the session has passed its deadline
	isTaken        bool // the lease has ended, and another session has the lock
}

func (m lifeModel) start() lifeState {
	s := lifeState{count: 1, deadline: m.long}
	s.renewals[0] = renewal{life: m.long, isAnswered: true}
	return s
}

// next returns the possible steps in s.
func (m lifeModel) next(s lifeState) []step[lifeState] {
	c := choices[lifeState]{state: s}
	c.add(s.now < m.ticks, "a tick passes", func(n *lifeState) {
		n.now++
		n.isLost = n.isLost || n.deadline <= n.now // P4
	})
	c.add(!s.isLost && s.count <= m.renewals, "a renewal is sent", func(n *lifeState) {
		n.renewals[n.count].sent = n.now
		n.count++
	})
	c.add(!s.isTaken && m.end(s) <= s.now, "the lease ends, and another session acquires the lock", func(n *lifeState) { n.isTaken = true })
	for i, r := range s.renewals[:s.count] {
		grant := func(life uint8) func(*lifeState) {
			return func(n *lifeState) { n.renewals[i].arrived, n.renewals[i].life = n.now, life }
		}
		c.add(r.life == 0 && !s.isTaken, renewalNames[i]+" arrives and gets the long life", grant(m.long))
		c.add(r.life == 0 && !s.isTaken, renewalNames[i]+" arrives and gets the short life", grant(m.short))
		c.add(r.life != 0 && !r.isAnswered && !s.isLost, renewalNames[i]+" is answered", func(n *lifeState) {
			n.renewals[i].isAnswered = true
			m.confirm(n, r)
		})
	}
	return c.steps
}

// confirm applies the answer to r.
func (m lifeModel) confirm(s *lifeState, r renewal) {
	isEarlier := r.deadline() < s.deadline
	switch {
	case r.sent > s.from && isEarlier && !m.laterSets:
		return
	case r.sent == s.from && !isEarlier && m.equalTakesEarlier:
		return
	case r.sent < s.from && isEarlier && m.earlierNeverBack:
		return
	case r.sent < s.from && !isEarlier && m.earlierNeverForward:
		return
	}
	s.from, s.deadline = max(s.from, r.sent), r.deadline()
	s.isLost = s.deadline <= s.now // P4
}

// end returns the tick at which the store may end the lease. The store owes the life of the
// last renewal whose answer the client has, and of the renewals that were sent after that
// one, because their answers may be under way. It owes no other.
func (m lifeModel) end(s lifeState) uint8 {
	first := 0
	for i, r := range s.renewals[:s.count] {
		if r.isAnswered || r.life != 0 && !m.shortensOnAnswer {
			first = i
		}
	}
	var end uint8
	for _, r := range s.renewals[first:s.count] {
		if r.life != 0 {
			end = max(end, r.arrived+r.life)
		}
	}
	return end
}

// checkSafety reports two holders.
func (s lifeState) checkSafety() string {
	if s.isTaken && !s.isLost {
		return "another session has the lock, and the first one is valid"
	}
	return ""
}

// checkDeadline reports a deadline before that of the newest proof.
func (s lifeState) checkDeadline() string {
	var newest renewal
	for _, r := range s.renewals[:s.count] {
		isNewer := r.sent > newest.sent || r.sent == newest.sent && (newest.life == 0 || r.life < newest.life)
		if r.isAnswered && isNewer {
			newest = r
		}
	}
	if s.deadline < newest.deadline() {
		return "the session ends before the deadline of its newest renewal"
	}
	return ""
}
