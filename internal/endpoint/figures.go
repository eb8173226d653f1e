package endpoint

import "time"

// LeaseDialsPerSecond is the Options.DialsPerSecond of a store whose leases have
// connections of their own.
const LeaseDialsPerSecond = 50

// Figures are a Pool's times and counts for one budget. The documentation is
// generated from them.
type Figures struct {
	// Budget is the call's; the next four fields are the Options' defaults.
	Budget                                                    time.Duration
	AttemptFloor, HedgeFloor, ProbeInterval, TopologyInterval time.Duration
	// MaxProbeInterval bounds the pause between two probes of an endpoint that goes
	// on failing.
	MaxProbeInterval time.Duration
	// SteadyRounds have attempts of AttemptFloor; later ones double.
	SteadyRounds int
	// HedgeBurst is how many hedges may run at a time. UselessHedgeCalls is how
	// many calls have to earn a hedge that loses to the original.
	HedgeBurst, UselessHedgeCalls int
	// EjectAfter failures in a row eject an endpoint, RestoreAfter successful
	// probes restore it.
	EjectAfter, RestoreAfter int
	// DialsPerSecond and DialBurst bound the connections made.
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
		EjectAfter: strikesOut, RestoreAfter: provenBy, DialsPerSecond: dialsPerSecond, DialBurst: dialBurst,
	}
}
