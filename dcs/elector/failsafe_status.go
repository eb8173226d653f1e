package elector

import "github.com/holdfast-dcs/holdfast/dcs"

// FailsafeStatus is the state of failsafe mode on one member.
type FailsafeStatus struct {
	// Enabled reports whether the configuration, as it was last read, sets
	// failsafe_mode.
	Enabled bool
	// Ready reports whether this member leads and would ask the other ones in an
	// outage: the store has confirmed its list under the present lock.
	Ready bool
	// Until is the end of the leadership of this member, where that outlasts the lock
	// because all members have accepted it. Otherwise it is the zero Instant.
	Until dcs.Instant
	// Members are the answers in the last round of questions of this member, sorted by
	// name, and AskedAt is when the round began. There are none before the first
	// round. They stay after an outage, and must not be changed.
	Members []FailsafeMember
	AskedAt dcs.Instant
	// Leader is the leader that this member has accepted last, and BlockedUntil is the
	// end of the time for which the member does not take the lock therefore.
	Leader       string
	BlockedUntil dcs.Instant
}

// FailsafeMember is the answer of a member in one round of questions.
type FailsafeMember struct {
	Name string
	// Err is nil if the member has accepted the leader. For the leader itself, it is
	// nil if the leader reaches itself at its own address.
	Err error
}

// InForce reports whether this member leads at this moment although its lock has run
// out or is about to, because all members have accepted it.
func (s FailsafeStatus) InForce() bool { return isAhead(s.Until) }

// Blocked reports whether this member does not take the lock at this moment, because
// it has accepted a leader.
func (s FailsafeStatus) Blocked() bool { return isAhead(s.BlockedUntil) }

func isAhead(at dcs.Instant) bool { return !at.IsZero() && at.Elapsed() < 0 }

// failsafeStatus returns the state of failsafe mode in the loop.
func (e *Elector) failsafeStatus() FailsafeStatus {
	fs := &e.loop.fs
	s := FailsafeStatus{Members: fs.answers, AskedAt: fs.answersAt, Leader: fs.by, BlockedUntil: fs.until}
	if v := e.loop.view; v != nil {
		s.Enabled = v.Config.FailsafeMode
	}
	lead := e.loop.lead
	if lead == nil {
		return s
	}
	s.Ready = s.Enabled && fs.token != 0 && fs.token == lead.Token()
	t, agreed := lead.term(), lead.agreed()
	if t.lost == nil && !t.kept && !agreed.IsZero() && !agreed.Before(t.deadline) {
		s.Until = agreed
	}
	return s
}
