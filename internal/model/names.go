package model

// nameRules are the rules that keep locks and member keys apart.
type nameRules struct {
	disjoint       bool // P19: Publish refuses a key that is no member key, and Acquire refuses a member key
	firstTakesOver bool // P19: only a session's first Publish takes a key over; later ones replace its own write
	displacedStops bool // P19: a displaced session writes the key only if it is absent
}

// nameModel is one key that A acquires and that B and C publish. The three sessions never
// end.
type nameModel struct {
	nameRules
	isMember  bool  // the key has the name of a member key
	rebind    bool  // a takeover keeps the key's Created, as on a store that can rebind keys
	revisions uint8 // the greatest revision of the store
}

// session is the owner of a key.
type session uint8

const (
	noSession session = iota
	sessionA
	sessionB
	sessionC
)

var publisherNames = [...]string{sessionB: "B", sessionC: "C"}

type nameState struct {
	revision   uint8
	key        sharedKey
	token      uint8 // of A's last Hold, whose Guard outlives it
	isHeld     bool  // A has neither released the lock nor detected its loss
	publishers [sessionC + 1]publisher
	isDeleted  bool // A's Release deleted the write of another session
}

// sharedKey is the key in the store. It is absent if it has no owner.
type sharedKey struct {
	created, modified uint8
	owner             session
}

// publisher is a session that publishes the key.
type publisher struct {
	wrote           uint8 // the revision of its last write, 0 before the first
	isDisplaced     bool
	isSending       bool  // a put has been sent
	expected        uint8 // the revision that the put is conditional on, 0 for absence
	isUnconditional bool
	takeovers       uint8 // from the other publisher, counted up to 2
}

// next returns the possible steps in s.
func (m nameModel) next(s nameState) []step[nameState] {
	c := choices[nameState]{state: s}
	mayAcquire, mayPublish := !m.disjoint || !m.isMember, !m.disjoint || m.isMember
	c.add(mayAcquire && !s.isHeld && s.key.owner == noSession && s.revision < m.revisions, "A acquires the lock", func(n *nameState) {
		n.write(sessionA, false)
		n.token, n.isHeld = n.revision, true
	})
	c.add(s.isHeld, "A releases the lock", func(n *nameState) {
		n.isHeld = false
		if n.key.created == n.token { // P18
			n.isDeleted = n.key.owner != sessionA
			n.key = sharedKey{}
		}
	})
	c.add(s.isHeld && s.key.owner != sessionA, "A's renewal finds that the lock is lost", func(n *nameState) { n.isHeld = false })
	c.add(s.key.owner >= sessionB, "an operator deletes the member key", func(n *nameState) { n.key = sharedKey{} })
	for p := sessionB; mayPublish && p <= sessionC; p++ {
		m.publish(&c, p)
		m.put(&c, p)
	}
	return c.steps
}

// publish adds the start of a Publish by p.
func (m nameModel) publish(c *choices[nameState], p session) {
	key, own, name := c.state.key, c.state.publishers[p], publisherNames[p]
	send := func(expected uint8, isUnconditional bool) func(*nameState) {
		return func(n *nameState) {
			to := &n.publishers[p]
			to.isSending, to.expected, to.isUnconditional = true, expected, isUnconditional
		}
	}
	isIdle, isFirst := !own.isSending, own.wrote == 0
	c.add(isIdle && isFirst, name+" reads the key and sends its first put", send(key.modified, false))
	c.add(isIdle && !isFirst && !own.isDisplaced, name+" sends a further put", send(own.wrote, !m.firstTakesOver))
	c.add(isIdle && !isFirst && !own.isDisplaced && key.owner != p, name+"'s renewal finds that the key is not its own", func(n *nameState) {
		n.publishers[p].isDisplaced = true
	})
	c.add(isIdle && own.isDisplaced && key.owner == noSession, name+" finds the key absent and sends a put", send(0, false))
	c.add(isIdle && own.isDisplaced && key.owner != noSession && !m.displacedStops, name+" was displaced and sends a put", send(key.modified, false))
}

// put adds the outcome of a put that p has sent.
func (m nameModel) put(c *choices[nameState], p session) {
	key, own, name := c.state.key, c.state.publishers[p], publisherNames[p]
	passes := own.isUnconditional || own.expected == key.modified
	c.add(own.isSending && passes && c.state.revision < m.revisions, name+"'s put takes effect", func(n *nameState) {
		to := publisher{wrote: n.revision + 1, takeovers: own.takeovers}
		if key.owner >= sessionB && key.owner != p {
			to.takeovers = min(own.takeovers+1, 2)
		}
		n.write(p, key.owner == p || key.owner != noSession && m.rebind)
		n.publishers[p] = to
	})
	c.add(own.isSending && !passes, name+"'s put is refused", func(n *nameState) {
		n.publishers[p] = publisher{wrote: own.wrote, isDisplaced: own.wrote != 0, takeovers: own.takeovers}
	})
}

func (s *nameState) write(by session, keepsCreated bool) {
	s.revision++
	s.key.modified, s.key.owner = s.revision, by
	if !keepsCreated {
		s.key.created = s.revision
	}
}

// checkHold reports a lock that a Publish has taken from its holder.
func (s nameState) checkHold() string {
	if s.isHeld && s.key.owner >= sessionB {
		return "A holds the lock, and the key is another session's"
	}
	return ""
}

// checkGuard reports a Guard that passes after its Hold was lost.
func (s nameState) checkGuard() string {
	if !s.isHeld && s.key.owner >= sessionB && s.key.created == s.token {
		return "A has lost the lock, and its guard passes"
	}
	return ""
}

// checkRelease reports a Release that deleted more than its own lock.
func (s nameState) checkRelease() string {
	if s.isDeleted {
		return "A's Release deleted the write of another session"
	}
	return ""
}

// checkTakeovers reports two publishers that overwrite each other repeatedly.
func (s nameState) checkTakeovers() string {
	for p := sessionB; p <= sessionC; p++ {
		if s.publishers[p].takeovers > 1 {
			return publisherNames[p] + " took the key over a second time"
		}
	}
	return ""
}
