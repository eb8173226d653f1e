package endpoint

import "time"

// LeaseDialsPerSecond is the Options.DialsPerSecond for a store in which each lease
// has its own connection.
const LeaseDialsPerSecond = 50

// Figures are the durations and counts of a Pool for one budget. The documentation
// is generated from them.
type Figures struct {
	// Budget is that of a call. The next four fields are the defaults of Options.
	Budget                                                    time.Duration
	AttemptFloor, HedgeFloor, ProbeInterval, TopologyInterval time.Duration
	// MaxProbeInterval bounds the pause between two probes of an endpoint that
	// keeps failing.
	MaxProbeInterval time.Duration
	// SteadyRounds is the number of rounds whose attempts get AttemptFloor. The
	// timeout doubles with each later round.
	SteadyRounds int
	// HedgeBurst is the largest number of hedges that may be saved up.
	// UselessHedgeCalls is the number of calls that earn the cost of a hedge which
	// loses to the original.
	HedgeBurst, UselessHedgeCalls int
	// EjectAfter failures in a row eject an endpoint. RestoreAfter successful
	// probes in a row restore it.
	EjectAfter, RestoreAfter int
	// DialsPerSecond and DialBurst bound the rate of new connections.
	DialsPerSecond, DialBurst int
}

// FiguresFor returns the figures for a budget.
func FiguresFor(budget time.Duration) Figures {
	o := Options{Budget: budget}.withDefaults()
	return Figures{
		Budget: budget, AttemptFloor: o.AttemptFloor, HedgeFloor: o.HedgeFloor,
		ProbeInterval: o.ProbeInterval, TopologyInterval: o.TopologyInterval,
		MaxProbeInterval: maxPause * o.ProbeInterval,
		SteadyRounds:     steadyRounds, HedgeBurst: hedgeBurst, UselessHedgeCalls: hedgeShare * uselessHedge,
		EjectAfter: ejectAfter, RestoreAfter: restoreAfter, DialsPerSecond: dialsPerSecond, DialBurst: dialBurst,
	}
}
