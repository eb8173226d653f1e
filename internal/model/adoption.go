package model

import "slices"

// adoptionRules are the rules that keep an Acquire from adopting a lock that it did not
// take.
type adoptionRules struct {
	newerOnly       bool // P11: a lock that was read back is adopted only if its Created is newer than every revision that A knew
	knownBefore     bool // P11: this means the revisions that A knew before it sent the attempt, and no later ones
	waitsForRemoval bool // P17: no Acquire starts while a removal of the key is pending
	readBackOnly    bool // P17: a lock is adopted only by reading it back
}

// adoptionModel is a session A, one lock key and a competitor B. A's lease is alive. A has
// one operation on the key at a time, which ends when it is settled. A copy that is lost
// never arrives.
type adoptionModel struct {
	adoptionRules
	revisions uint8 // the greatest revision of the store
}

type adoptionState struct {
	revision  uint8
	key       lockKey
	hold      uint8 // the token of the lock that A believes it holds
	known     uint8 // the newest revision of the key that A knows
	operation operation
	attempt   acquire
	update    uint8  // the token under which an Update may still take effect
	removing  uint8  // the token of the present removal
	waiting   uint8  // the token of a removal that cannot be sent yet
	removals  uint32 // the tokens whose removal may arrive, at any time from now on
	isOrphan  bool   // an Acquire returned a definite failure to A and took effect, or still may
	isMisled  bool   // A got the answer that another session holds A's own lock
}

// lockKey is the lock in the store. It is absent if created is 0.
type lockKey struct {
	created, modified uint8
	isOwn             bool // bound to A's lease
}

// operation is A's present operation on the key.
type operation uint8

const (
	idle operation = iota
	acquiring
	updating
	removing
)

// acquire is an attempt to acquire the lock.
type acquire struct {
	marker      marker
	landed      uint8 // the revision at which it took effect
	known       uint8 // the newest revision that A knew before it sent the attempt
	copies      [2]request
	isAbandoned bool // the call has returned ErrAmbiguous
	isReading   bool // the marker is gone, and A reads the lock
}

// marker is the state of an attempt's marker key.
type marker uint8

const (
	markerFresh marker = iota // as the copies expect it
	markerOwn                 // with the attempt's nonce
	markerGone
)

// request is the state of one copy.
type request uint8

const (
	unsent request = iota
	sent
	refused
)

// next returns the possible steps in s.
func (m adoptionModel) next(s adoptionState) []step[adoptionState] {
	c := choices[adoptionState]{state: s}
	isAbsent, isFull := s.key.created == 0, s.revision == m.revisions
	c.add(isAbsent && !isFull, "B acquires the lock", func(n *adoptionState) { n.create(false) })
	c.add(!isAbsent && !s.key.isOwn, "B releases the lock", func(n *adoptionState) { n.key = lockKey{} })
	c.add(s.known < s.key.modified, "A reads the key's revision", func(n *adoptionState) { n.known = n.key.modified })
	c.add(s.hold == 0 && s.key.isOwn && !m.readBackOnly, "A finds the lock on its lease and adopts it", func(n *adoptionState) {
		n.hold = n.key.created
	})
	c.add(s.hold == 0 && s.operation == idle && (s.waiting == 0 || !m.waitsForRemoval), "A sends a copy of an Acquire", func(n *adoptionState) {
		n.operation, n.attempt = acquiring, acquire{known: n.known, copies: [2]request{sent}}
	})
	if s.operation == acquiring {
		m.acquire(&c, isFull)
	}
	s.write(&c, isFull)
	return c.steps
}

// acquire adds the possible steps of an Acquire.
func (m adoptionModel) acquire(c *choices[adoptionState], isFull bool) {
	s, a := c.state, c.state.attempt
	isFresh := a.marker == markerFresh
	c.add(!a.isAbandoned, "the Acquire returns ErrAmbiguous", func(n *adoptionState) { n.attempt.isAbandoned = true })
	c.add(a.marker != markerGone, "the marker disappears", func(n *adoptionState) { n.attempt.marker = markerGone })
	c.add(a.copies[1] == unsent && !a.isAbandoned && !a.isReading, "A sends a second copy of the Acquire", func(n *adoptionState) {
		n.attempt.copies[1] = sent
	})
	for i, r := range a.copies {
		c.add(r == sent && isFresh && s.key.created == 0 && !isFull, "a copy of the Acquire takes effect", func(n *adoptionState) {
			n.create(true)
			n.attempt.marker, n.attempt.landed = markerOwn, n.revision
		})
		c.add(r == sent && isFresh && s.key.created != 0, "a copy of the Acquire is refused because the lock is present", func(n *adoptionState) {
			n.attempt.copies[i] = refused
			if n.attempt.copies[1-i] != sent { // P10
				n.conflict()
			}
		})
	}
	c.add(isFresh, "A takes the marker and reports that nothing was written", func(n *adoptionState) {
		n.attempt.marker = markerGone
		n.no()
	})
	c.add(a.marker == markerOwn, "A gets the answer to the Acquire, or finds its nonce", func(n *adoptionState) { n.yes(a.landed) })
	c.add(a.marker == markerGone && !a.isReading, "A finds the marker gone", func(n *adoptionState) { n.attempt.isReading = true })
	known := s.known
	if m.knownBefore {
		known = a.known
	}
	isAdopted := s.key.isOwn && (!m.newerOnly || s.key.created > known)
	c.add(a.isReading && isAdopted, "A reads the lock back on its lease and adopts it", func(n *adoptionState) { n.yes(s.key.created) })
	c.add(a.isReading && !isAdopted, "A reads the key back and reports a conflict", (*adoptionState).conflict)
}

// write adds the possible steps of an Update and a Release.
func (s adoptionState) write(c *choices[adoptionState], isFull bool) {
	c.add(s.hold != 0 && s.operation == idle, "A sends an Update", func(n *adoptionState) { n.operation, n.update = updating, n.hold })
	c.add(s.update != 0 && s.update == s.key.created && !isFull, "the Update takes effect", func(n *adoptionState) {
		n.revision++
		n.key.modified, n.update = n.revision, 0 // P7: once
	})
	c.add(s.operation == updating, "the Update is settled", func(n *adoptionState) { n.operation, n.update = idle, 0 })
	c.add(s.hold != 0 && s.operation == idle, "A sends a Release", func(n *adoptionState) { n.remove(&n.hold) })
	c.add(s.hold != 0 && s.operation != idle && s.waiting == 0, "A releases the lock, and the removal has to wait", func(n *adoptionState) {
		n.waiting, n.hold = n.hold, 0 // P6
	})
	c.add(s.waiting != 0 && s.operation == idle, "A sends the removal", func(n *adoptionState) { n.remove(&n.waiting) })
	c.add(s.removals>>s.key.created&1 == 1, "a copy of the removal takes effect", func(n *adoptionState) { n.key = lockKey{} })
	c.add(s.operation == removing && s.key.created != s.removing, "A detects that the lock is removed", func(n *adoptionState) {
		n.operation, n.removing = idle, 0
	})
}

func (s *adoptionState) create(isOwn bool) {
	s.revision++
	s.key = lockKey{created: s.revision, modified: s.revision, isOwn: isOwn}
}

// remove sends the removal of the incarnation *token (P18).
func (s *adoptionState) remove(token *uint8) {
	s.operation, s.removing, s.removals = removing, *token, s.removals|1<<*token
	*token = 0
}

// yes ends a successful attempt. If its call has returned already, the lock is removed
// (P16).
func (s *adoptionState) yes(token uint8) {
	isAbandoned := s.attempt.isAbandoned
	s.operation, s.attempt, s.known = idle, acquire{}, max(s.known, token)
	if isAbandoned {
		s.remove(&token)
	} else {
		s.hold = token
	}
}

// no ends an attempt with a definite failure.
func (s *adoptionState) no() {
	mayLand := s.attempt.marker == markerFresh && slices.Contains(s.attempt.copies[:], sent)
	s.isOrphan = s.attempt.landed != 0 || mayLand
	s.operation, s.attempt = idle, acquire{}
}

// conflict ends the attempt with an answer that carries the holder of the lock.
func (s *adoptionState) conflict() {
	s.no()
	s.isMisled = s.key.isOwn && !s.isOrphan
}

// checkSafety reports a Hold without the lock, or a lock without a Hold.
func (s adoptionState) checkSafety() string {
	switch {
	case s.hold != 0 && s.hold != s.key.created:
		return "A believes that it holds a lock that is gone or B's"
	case s.isOrphan:
		return "an Acquire failed definitely, and the lock is or may come to be on A's lease"
	}
	return ""
}

// checkAnswers reports a wrong answer that is safe.
func (s adoptionState) checkAnswers() string {
	if s.isMisled {
		return "A got the answer that another session holds the lock, which is A's own"
	}
	return ""
}
