package elector

// State is the part of its work that an elector does at the moment.
type State uint8

const (
	// Starting has no session yet, or the tree was never read, or the service was
	// not asked for its role.
	Starting State = iota
	// Following does not hold the lock.
	Following
	// Acquiring has an acquisition under way, or one that is to be confirmed.
	Acquiring
	// Promoting holds the lock and runs Promote.
	Promoting
	// Leading is primary under the lock.
	Leading
	// Demoting runs Demote.
	Demoting
	// Fenced has called Fence.
	Fenced
	// Stopped has returned from Run.
	Stopped
)

var stateNames = [...]string{"Starting", "Following", "Acquiring", "Promoting", "Leading", "Demoting", "Fenced", "Stopped"}

// String returns the state's name.
func (s State) String() string { return stateNames[s] }

// service is the role that the service reports.
type service uint8

const (
	serviceUnknown service = iota // not reported yet
	serviceUnclear                // the report failed, or the service makes none
	serviceReplica
	servicePrimary
)

// outcome is how far an operation has come.
type outcome uint8

const (
	none    outcome = iota // not begun
	running                // under way, or unclear
	done
	failed
)

// facts are everything that the core decides by. The driver sets them; the core
// reads no clock and does no I/O.
type facts struct {
	session  bool // a session lives
	treeRead bool
	service  service

	unread bool // the tree may still be read in time, to find a keeper
	keeper bool // a keeper names this member

	locked   bool    // a Hold was acquired and is not given back
	held     bool    // it is valid
	acquire  outcome // TryAcquire
	confirm  outcome // E1, E10: Confirm, and the keys of the decision read again
	enough   bool    // E1: Remaining > StopTimeout
	mayLead  bool    // the policy's decision stands, with every condition of E9 to E14
	lost     bool    // the leadership is: it lasts under no Hold and no keeper
	kept     bool    // the leadership lasts under a keeper, without a deadline
	expiring bool    // the leadership lasts for StopTimeout at most

	mayRetake bool    // a leadership without a Hold may take the lock again
	retake    outcome // of that, with its confirmation; done while the new Hold is valid
	adopted   bool    // the service was found under a keeper, and Promote not called

	promote, demote, follow outcome // running until the callback has returned
	fence                   outcome // E7: may begin outside the loop

	overdue   bool // Promote has used up its time
	handover  bool // a switchover was accepted
	shutdown  bool
	unhealthy bool // the service reports that it is no primary any more
}

// callback reports whether Promote, Demote or Follow runs (E8).
func (f facts) callback() bool {
	return f.promote == running || f.demote == running || f.follow == running
}

// mustStop reports whether a leader must demote (E2).
func (f facts) mustStop() bool {
	return f.lost || f.expiring || f.handover || f.shutdown && !f.kept || f.promote == failed || f.overdue || f.unhealthy
}

// action is the work of the driver when a row is applied.
type action uint8

const (
	doNothing action = iota
	startAcquire
	startPromote
	startLeading
	adopt // a service that was found primary under a keeper
	startRetake
	useRetaken
	dropRetaken
	startDemote
	startFence
	endLeadership // the fence timer has fired: nothing is left to demote
	giveBack      // the lock
	forget        // give the lock back, and forget the outcomes
	abandon       // leave the lock to expire, and end the process
	leaveRunning  // the service, to its keeper
	endSession
)

// row is one transition of the state machine.
type row struct {
	name  string
	from  State
	guard func(facts) bool
	do    action
	to    State
}

// rows is the state machine. In each state the first row whose guard holds is
// applied.
var rows = []row{
	{"shutdown before the start", Starting, func(f facts) bool { return f.shutdown && f.service != servicePrimary }, endSession, Stopped},
	{"kept service found primary", Starting, func(f facts) bool { return f.service == servicePrimary && f.keeper }, adopt, Leading},
	{"service found primary at the start", Starting, func(f facts) bool {
		return f.service == servicePrimary && !f.unread || f.session && f.treeRead && f.service == serviceUnclear
	}, startDemote, Demoting},
	{"started", Starting, func(f facts) bool { return f.session && f.treeRead && f.service == serviceReplica }, doNothing, Following},

	{"service found primary", Following, func(f facts) bool { return f.service == servicePrimary }, startDemote, Demoting}, // E2
	{"shutdown", Following, func(f facts) bool { return f.shutdown }, endSession, Stopped},                                 // E12
	{"session lost", Following, func(f facts) bool { return !f.session }, doNothing, Starting},
	{"lock may be taken", Following, func(f facts) bool {
		return f.mayLead && !f.callback() // E8
	}, startAcquire, Acquiring},

	{"not acquired", Acquiring, func(f facts) bool { return f.acquire == failed }, forget, Following},
	{"lock lost before the promotion", Acquiring, func(f facts) bool { return f.acquire == done && !f.held }, forget, Following},
	{"lock not usable", Acquiring, func(f facts) bool {
		return f.acquire == done && (f.confirm == failed || f.confirm == done && !f.enough || f.shutdown || !f.mayLead)
	}, forget, Following},
	{"lock confirmed", Acquiring, func(f facts) bool {
		return f.acquire == done && f.confirm == done && f.held && f.enough && !f.callback() // E1, E10
	}, startPromote, Promoting},

	{"fenced during the promotion", Promoting, func(f facts) bool { return f.fence != none }, endLeadership, Fenced}, // E7
	{"promotion ends", Promoting, facts.mustStop, startDemote, Demoting},                                             // E2
	{"promoted", Promoting, func(f facts) bool { return f.promote == done }, startLeading, Leading},

	{"fenced while leading", Leading, func(f facts) bool { return f.fence != none }, endLeadership, Fenced},         // E7
	{"leadership ends", Leading, facts.mustStop, startDemote, Demoting},                                             // E2
	{"shutdown under a keeper", Leading, func(f facts) bool { return f.shutdown && f.kept }, leaveRunning, Stopped}, // E12
	{"lock to be taken again", Leading, func(f facts) bool { return f.mayRetake && f.retake == none }, startRetake, Leading},
	{"lock not taken again", Leading, func(f facts) bool { return f.retake == failed }, dropRetaken, Leading},
	{"lock taken again", Leading, func(f facts) bool { return f.retake == done }, useRetaken, Leading},
	{"kept service is promoted", Leading, func(f facts) bool { return f.adopted && f.held && f.enough && !f.callback() }, startPromote, Promoting},

	{"fenced during the demotion", Demoting, func(f facts) bool { return f.fence != none }, doNothing, Fenced}, // E3
	{"demotion failed", Demoting, func(f facts) bool { return f.demote == failed }, startFence, Fenced},        // E3
	{"demoted", Demoting, func(f facts) bool {
		return f.demote == done && !f.callback() // E5, E8
	}, forget, Following},

	{"fence failed", Fenced, func(f facts) bool { return f.fence == failed }, abandon, Stopped}, // E3
	// E5. A callback that hangs delays no failover.
	{"lock given back", Fenced, func(f facts) bool { return f.fence == done && f.locked }, giveBack, Fenced},
	{"shutdown while a callback hangs", Fenced, func(f facts) bool { return f.fence == done && f.shutdown && f.callback() }, endSession, Stopped}, // E12
	{"fenced", Fenced, func(f facts) bool { return f.fence == done && !f.callback() }, forget, Following},
}

// step returns the row that applies in state s, or false if the state stays.
func step(s State, f facts) (row, bool) {
	for _, r := range rows {
		if r.from == s && r.guard(f) {
			return r, true
		}
	}
	return row{}, false
}
