package model

import "testing"

const twoPrimaries = "two services are primary"

// E1 to E3, E5 to E9, E12 and the guardian.
func TestLeadership(t *testing.T) {
	var start leadershipState
	all := leadershipRules{
		confirmsFirst: true, demotesInTime: true, fixesFenceTime: true, fences: true, keepsUntilStop: true,
		renewsOn: true, fencesWithoutRun: true, gatesRenewals: true, demoteWaits: true, acquiresIdle: true, othersFirst: true,
		shutdownDemotes: true, guardian: true,
	}
	t.Run("all rules", func(t *testing.T) {
		m := leadershipModel{leadershipRules: all, members: bound(2, electors), ticks: bound[uint8](5, 7), faults: bound[uint8](1, 2), tokens: 2}
		expectNone(t, start, m.next, leadershipState.checkPrimaries, leadershipState.checkSteps)
	})
	t.Run("without renewsOn (E6)", func(t *testing.T) { // no safety depends on it
		rules := all
		rules.renewsOn = false
		m := leadershipModel{leadershipRules: rules, members: bound(2, electors), ticks: bound[uint8](5, 7), faults: 1, tokens: 2}
		expectNone(t, start, m.next, leadershipState.checkPrimaries, leadershipState.checkSteps)
	})
	for name, c := range map[string]struct {
		off   func(*leadershipRules)
		check func(leadershipState) string
		want  string
	}{
		"confirmsFirst (E1)":    {func(r *leadershipRules) { r.confirmsFirst = false }, leadershipState.checkPrimaries, twoPrimaries},
		"demotesInTime (E2)":    {func(r *leadershipRules) { r.demotesInTime = false }, leadershipState.checkSteps, "a service was fenced without a demotion before"},
		"fixesFenceTime (E3)":   {func(r *leadershipRules) { r.fixesFenceTime = false }, leadershipState.checkSteps, "a demotion has outlasted the deadline at its beginning"},
		"fences (E3)":           {func(r *leadershipRules) { r.fences = false }, leadershipState.checkPrimaries, twoPrimaries},
		"keepsUntilStop (E5)":   {func(r *leadershipRules) { r.keepsUntilStop = false }, leadershipState.checkPrimaries, twoPrimaries},
		"fencesWithoutRun (E7)": {func(r *leadershipRules) { r.fencesWithoutRun = false }, leadershipState.checkPrimaries, twoPrimaries},
		"gatesRenewals (E7)":    {func(r *leadershipRules) { r.gatesRenewals = false }, leadershipState.checkSteps, "a member whose loop hangs keeps the lock"},
		"demoteWaits (E8)":      {func(r *leadershipRules) { r.demoteWaits = false }, leadershipState.checkPrimaries, twoPrimaries},
		"acquiresIdle (E8)":     {func(r *leadershipRules) { r.acquiresIdle = false }, leadershipState.checkSteps, "Promote and Demote overlap"},
		"othersFirst (E9)":      {func(r *leadershipRules) { r.othersFirst = false }, leadershipState.checkSteps, "a member whose promotion failed took the lock before the others could"},
		"shutdownDemotes (E12)": {func(r *leadershipRules) { r.shutdownDemotes = false }, leadershipState.checkPrimaries, twoPrimaries},
		"guardian":              {func(r *leadershipRules) { r.guardian = false }, leadershipState.checkPrimaries, twoPrimaries},
	} {
		t.Run("without "+name, func(t *testing.T) {
			rules := all
			c.off(&rules)
			m := leadershipModel{leadershipRules: rules, members: 2, ticks: 10, faults: 1, tokens: 2}
			expectViolation(t, start, m.next, c.check, c.want)
		})
	}
}

// E10, E11, E13 to E15 and the keeper.
func TestRequests(t *testing.T) {
	var start requestState
	all := requestRules{
		conditional: true, readsAgain: true, pauseWaits: true, acceptsOnRead: true, oldByToken: true, ownToken: true, judges: true,
		reserves: true, comparesOthers: true, keeperBlocks: true, keeperGuarded: true,
	}
	t.Run("all rules", func(t *testing.T) {
		m := requestModel{requestRules: all, members: electors, writes: bound[uint8](2, 4), tokens: 2, maySpoil: *deep}
		expectNone(t, start, m.next, requestState.checkPrimaries, requestState.checkSteps)
	})
	for name, c := range map[string]struct {
		off   func(*requestRules)
		check func(requestState) string
		want  string
	}{
		"conditional (E10)":    {func(r *requestRules) { r.conditional = false }, requestState.checkSteps, "a member took the lock that was given up for another one"},
		"readsAgain (E10)":     {func(r *requestRules) { r.readsAgain = false }, requestState.checkSteps, "a member was promoted in a pause"},
		"pauseWaits (E11)":     {func(r *requestRules) { r.pauseWaits = false }, requestState.checkSteps, "a pause has left the cluster without a leader in a switchover"},
		"acceptsOnRead (E11)":  {func(r *requestRules) { r.acceptsOnRead = false }, requestState.checkSteps, "a pause has left the cluster without a leader in a switchover"},
		"comparesOthers (E14)": {func(r *requestRules) { r.comparesOthers = false }, requestState.checkSteps, "a member that is behind takes the lock"},
		"oldByToken (E13)":     {func(r *requestRules) { r.oldByToken = false }, requestState.checkPrimaries, twoPrimaries},
		"ownToken (E15)":       {func(r *requestRules) { r.ownToken = false }, requestState.checkSteps, "a leader gave the lock up for a request that another leader had accepted"},
		"judges (E15)":         {func(r *requestRules) { r.judges = false }, requestState.checkSteps, "a leader accepted a candidate that cannot lead"},
		"reserves (E15)":       {func(r *requestRules) { r.reserves = false }, requestState.checkSteps, "a member took the lock that was given up for another one"},
		"keeperBlocks":         {func(r *requestRules) { r.keeperBlocks = false }, requestState.checkPrimaries, twoPrimaries},
		"keeperGuarded":        {func(r *requestRules) { r.keeperGuarded = false }, requestState.checkPrimaries, twoPrimaries},
	} {
		t.Run("without "+name, func(t *testing.T) {
			rules := all
			c.off(&rules)
			m := requestModel{requestRules: rules, members: electors, writes: 3, tokens: 2, maySpoil: !rules.judges || !rules.comparesOthers}
			expectViolation(t, start, m.next, c.check, c.want)
		})
	}
}

// F1 to F4.
func TestFailsafe(t *testing.T) {
	all := failsafeRules{
		confirmsList: true, dropsOnChange: true, needsAll: true, oneRound: true, fromSending: true,
		idleAccepts: true, acceptorWaits: true, starterWaits: true, strangersWait: true,
	}
	model := func(r failsafeRules, ticks uint8) failsafeModel {
		return failsafeModel{failsafeRules: r, ticks: ticks, restarts: 1}
	}
	t.Run("all rules", func(t *testing.T) {
		m := model(all, bound[uint8](6, 10))
		expectNone(t, m.start(), m.next, failsafeState.check)
	})
	for name, off := range map[string]func(*failsafeRules){
		"confirmsList (F1)":  func(r *failsafeRules) { r.confirmsList = false },
		"dropsOnChange (F1)": func(r *failsafeRules) { r.dropsOnChange = false },
		"needsAll (F2)":      func(r *failsafeRules) { r.needsAll = false },
		"oneRound (F2)":      func(r *failsafeRules) { r.oneRound = false },
		"fromSending (F2)":   func(r *failsafeRules) { r.fromSending = false },
		"idleAccepts (F3)":   func(r *failsafeRules) { r.idleAccepts = false },
		"acceptorWaits (F4)": func(r *failsafeRules) { r.acceptorWaits = false },
		"starterWaits (F4)":  func(r *failsafeRules) { r.starterWaits = false },
		"strangersWait (F4)": func(r *failsafeRules) { r.strangersWait = false },
	} {
		t.Run("without "+name, func(t *testing.T) {
			rules := all
			off(&rules)
			m := model(rules, 7)
			expectViolation(t, m.start(), m.next, failsafeState.check, twoPrimaries)
		})
	}
}
