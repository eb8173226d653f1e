package electorhttp

import (
	"strings"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
)

// failsafeState is the part of the body of a check about failsafe mode.
type failsafeState struct {
	// Active has the name of Patroni. It is set on a leader that goes on without its
	// lock, and on the members that have accepted it.
	Active  bool          `json:"failsafe_mode_is_active,omitempty"`
	Details *failsafeBody `json:"failsafe,omitempty"`
}

// failsafeBody is an [elector.FailsafeStatus]. Times are in milliseconds from now.
type failsafeBody struct {
	Enabled    bool             `json:"enabled"`
	Ready      bool             `json:"ready,omitempty"`
	LeadsFor   int64            `json:"leads_for_ms,omitempty"`
	Asked      []failsafeAnswer `json:"asked,omitempty"`
	AskedAgo   int64            `json:"asked_ago_ms,omitempty"`
	Accepted   string           `json:"accepted,omitempty"`
	BlockedFor int64            `json:"blocked_for_ms,omitempty"`
}

// failsafeAnswer is the answer of a member that was asked.
type failsafeAnswer struct {
	Name     string `json:"name"`
	Accepted bool   `json:"accepted"`
	Reason   string `json:"reason,omitempty"`
}

// failsafeOf returns s for the body of a check. There are no details where the mode is
// off and nobody was asked.
func failsafeOf(s elector.FailsafeStatus) failsafeState {
	state := failsafeState{Active: s.InForce() || s.Blocked()}
	if !s.Enabled && !state.Active && len(s.Members) == 0 {
		return state
	}
	b := &failsafeBody{Enabled: s.Enabled, Ready: s.Ready}
	if s.InForce() {
		b.LeadsFor = untilThen(s.Until)
	}
	if s.Blocked() {
		b.Accepted, b.BlockedFor = s.Leader, untilThen(s.BlockedUntil)
	}
	for _, m := range s.Members {
		a := failsafeAnswer{Name: m.Name, Accepted: m.Err == nil}
		if m.Err != nil {
			a.Reason, _, _ = strings.Cut(m.Err.Error(), "\n") // without the stack of a panic
		}
		b.Asked = append(b.Asked, a)
	}
	if len(s.Members) > 0 {
		b.AskedAgo = max(1, s.AskedAt.Elapsed().Milliseconds())
	}
	state.Details = b
	return state
}

// untilThen returns the milliseconds until at.
func untilThen(at dcs.Instant) int64 {
	return max(0, -at.Elapsed()).Round(time.Millisecond).Milliseconds()
}
