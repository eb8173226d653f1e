package elector

import (
	"fmt"
	"strings"
	"testing"
)

// machine is the core with a driver that does nothing but set facts, and a service
// that does as its callbacks say.
type machine struct {
	state State
	f     facts

	promoted bool // Promote was begun, and neither Demote nor Fence has ended it
	fences   int  // of the present demotion
}

// atStart is the machine when Run begins.
var atStart = machine{f: facts{unread: true}}

// breach is a broken rule.
type breach string

// apply steps until no row applies.
func (m *machine) apply() (bad breach) {
	for range 10 {
		r, ok := step(m.state, m.f)
		if !ok {
			return m.always()
		}
		if bad := m.act(r); bad != "" {
			return bad + breach(" ("+r.name+")")
		}
		m.state = r.to
		if bad := m.always(); bad != "" {
			return bad + breach(" ("+r.name+")")
		}
	}
	return "the rows do not come to rest"
}

func (m *machine) act(r row) breach {
	f := &m.f
	switch r.do {
	case startAcquire:
		if f.callback() {
			return "E8: acquires while a callback runs"
		}
		if m.promoted {
			return "E5: acquires before the last demotion was confirmed"
		}
		f.acquire, f.confirm = running, none
	case startPromote:
		if !f.held || !f.enough || f.confirm != done {
			return "E1: promotes without a confirmed Hold with time left"
		}
		if f.callback() {
			return "E8: callbacks overlap"
		}
		m.promoted, m.fences, f.promote, f.adopted = true, 0, running, false
	case startLeading:
		f.service = servicePrimary
	case adopt:
		if !f.keeper {
			return "E2: leads without a keeper"
		}
		f.kept, f.adopted, m.promoted, m.fences, f.promote = true, true, true, 0, done
	case startRetake:
		f.retake, f.mayRetake = running, false
	case useRetaken:
		f.retake, f.confirm, f.locked, f.held, f.enough, f.handover = none, done, true, true, true, false
	case dropRetaken:
		f.retake = none
	case leaveRunning:
		if !f.kept {
			return "E12: leaves a service running without a keeper"
		}
		m.promoted, f.session = false, false
	case startDemote:
		f.demote = running
		if !m.promoted {
			m.fences = 0
		}
		m.promoted = true
	case startFence:
		return m.fence()
	case giveBack, forget:
		if m.promoted && !m.stopped() {
			return "E5: releases the lock before the service has stopped"
		}
		if m.stopped() {
			f.service, m.promoted = serviceReplica, false
		}
		f.locked, f.held, f.handover, f.retake = false, false, false, none
		if r.do == forget {
			f.lost, f.kept, f.adopted, f.mayRetake = false, false, false, false
			f.acquire, f.confirm, f.promote, f.demote, f.fence = none, none, none, none, none
			f.unhealthy, f.overdue, f.expiring = false, false, false
		}
	case abandon:
		if f.fence == done {
			return "E3: abandons a lock although Fence has succeeded"
		}
		f.session = false
	case endSession:
		if (m.promoted || f.service == servicePrimary) && !m.stopped() {
			return "E12: ends the session before the service has stopped"
		}
		f.session = false
	}
	return ""
}

// stopped reports whether the service has stopped for certain: Demote has returned
// nil with no Promote left, or Fence has.
func (m *machine) stopped() bool {
	return m.f.demote == done && m.f.promote != running || m.f.fence == done
}

// fence calls Fence, from the core or from its timer.
func (m *machine) fence() breach {
	if m.fences++; m.fences > 1 {
		return "E3: fenced twice"
	}
	m.f.fence = running
	return ""
}

// always are the invariants of a state.
func (m *machine) always() breach {
	switch {
	case m.state == Leading && m.f.mustStop():
		return "E2: leads although it must stop"
	case m.state == Following && m.promoted:
		return "E5: follows before the service has stopped"
	}
	return ""
}

// event is a change that comes from outside, where it is possible.
type event struct {
	name     string
	possible func(*machine) bool
	happen   func(*facts)
}

func always(*machine) bool { return true }

var events = []event{
	{"session", func(m *machine) bool { return !m.f.session && m.state != Stopped }, func(f *facts) { f.session = true }},
	{"session lost", func(m *machine) bool { return m.f.session }, func(f *facts) {
		f.session, f.mayLead, f.mayRetake = false, false, false
		if f.retake == running || f.retake == done {
			f.retake = failed
		}
		if f.held {
			f.held, f.lost = false, !f.kept
		}
	}},
	{"tree", always, func(f *facts) { f.treeRead, f.unread = true, false }},
	{"unclear", func(m *machine) bool { return m.f.service == serviceUnknown }, func(f *facts) { f.service = serviceUnclear }},
	{"replica", func(m *machine) bool { return m.state == Starting }, func(f *facts) { f.service = serviceReplica }},
	{"primary", func(m *machine) bool { return m.state == Starting || m.state == Following }, func(f *facts) { f.service = servicePrimary }},
	{"may lead", func(m *machine) bool { return m.f.session }, func(f *facts) { f.mayLead = true }},
	{"may not lead", always, func(f *facts) { f.mayLead = false }},
	{"acquired", func(m *machine) bool { return m.f.acquire == running && m.f.session }, func(f *facts) { f.acquire, f.locked, f.held, f.enough = done, true, true, true }},
	{"refused", func(m *machine) bool { return m.f.acquire == running }, func(f *facts) { f.acquire = failed }},
	{"confirmed", func(m *machine) bool { return m.f.acquire == done && m.f.confirm == none }, func(f *facts) { f.confirm = done }},
	{"not confirmed", func(m *machine) bool { return m.f.acquire == done && m.f.confirm == none }, func(f *facts) { f.confirm = failed }},
	{"little time", func(m *machine) bool { return m.f.held }, func(f *facts) { f.enough, f.expiring = false, !f.kept }},
	{"lock lost", func(m *machine) bool { return m.f.held }, func(f *facts) { f.held, f.lost, f.kept = false, true, false }},
	{"tree too late", func(m *machine) bool { return m.f.unread }, func(f *facts) { f.unread = false }},
	{"keeper found", func(m *machine) bool { return m.state == Starting && m.f.treeRead }, func(f *facts) { f.keeper = true }},
	{"keeper stored", func(m *machine) bool { return m.state == Leading && m.f.held && !m.f.expiring }, func(f *facts) { f.kept = true }},
	{"keeper removed", func(m *machine) bool { return m.f.kept }, func(f *facts) { f.kept, f.mayRetake, f.lost = false, false, !f.held }},
	{"may retake", func(m *machine) bool {
		return m.state == Leading && m.f.kept && !m.f.held && m.f.session && m.f.retake == none
	}, func(f *facts) { f.mayRetake = true }},
	{"retaken", func(m *machine) bool { return m.f.retake == running && m.f.session }, func(f *facts) { f.retake = done }},
	{"not retaken", func(m *machine) bool { return m.f.retake == running }, func(f *facts) { f.retake = failed }},
	{"promoted", func(m *machine) bool { return m.f.promote == running }, func(f *facts) { f.promote = done }},
	{"promote failed", func(m *machine) bool { return m.f.promote == running }, func(f *facts) { f.promote = failed }},
	{"promote overdue", func(m *machine) bool { return m.f.promote == running }, func(f *facts) { f.overdue = true }},
	{"unhealthy", func(m *machine) bool { return m.state == Promoting || m.state == Leading }, func(f *facts) { f.unhealthy = true }},
	{"demoted", func(m *machine) bool { return m.f.demote == running && m.f.promote != running && m.f.follow != running }, func(f *facts) { f.demote = done }},
	{"demote failed", func(m *machine) bool { return m.f.demote == running && m.f.promote != running }, func(f *facts) { f.demote = failed }},
	{"fence time", func(m *machine) bool {
		return m.f.fence == none && (m.state == Promoting || m.state == Leading || m.state == Demoting) && m.f.demote != done
	}, nil},
	{"fence done", func(m *machine) bool { return m.f.fence == running }, func(f *facts) { f.fence = done }},
	{"fence failed", func(m *machine) bool { return m.f.fence == running }, func(f *facts) { f.fence = failed }},
	{"follow", func(m *machine) bool { return m.state == Following && m.f.follow == none }, func(f *facts) { f.follow = running }},
	{"followed", func(m *machine) bool { return m.f.follow == running }, func(f *facts) { f.follow = none }},
	{"handover", func(m *machine) bool { return m.state == Leading }, func(f *facts) { f.handover = true }},
	{"shutdown", always, func(f *facts) { f.shutdown = true }},
}

// happen applies e to m.
func (e event) apply(m *machine) breach {
	if e.happen == nil {
		return m.fence() // E7: from outside the loop
	}
	e.happen(&m.f)
	return ""
}

// TestWalk applies all orders of events, breadth first, until no further state of
// the machine is found.
func TestWalk(t *testing.T) {
	type node struct {
		machine
		path string
	}
	start := atStart
	seen := map[machine]bool{start: true}
	queue := []node{{machine: start}}
	reached := map[string]bool{}
	for len(queue) > 0 && len(seen) < 2_000_000 {
		n := queue[0]
		queue = queue[1:]
		for _, e := range events {
			if !e.possible(&n.machine) {
				continue
			}
			m := n.machine
			path := n.path + " > " + e.name
			if bad := e.apply(&m); bad != "" {
				t.Fatalf("%s:%s", bad, path)
			}
			if r, ok := step(m.state, m.f); ok {
				reached[r.name] = true
			}
			if bad := m.apply(); bad != "" {
				t.Fatalf("%s:%s", bad, path)
			}
			if !seen[m] {
				seen[m] = true
				queue = append(queue, node{m, path})
			}
		}
	}
	t.Logf("%d states", len(seen))
	for _, r := range rows {
		if !reached[r.name] {
			t.Errorf("row %q is never applied", r.name)
		}
	}
}

// The walk detects each rule's absence: a row without its guard breaks it.
func TestWalkDetects(t *testing.T) {
	whole := rows
	defer func() { rows = whole }()
	for name, guard := range map[string]func(facts) bool{
		"lock confirmed":             func(f facts) bool { return f.acquire == done && f.held },                             // E1
		"lock may be taken":          func(f facts) bool { return f.mayLead },                                               // E8
		"demoted":                    func(f facts) bool { return f.promote != running },                                    // E5
		"lock given back":            func(f facts) bool { return f.locked },                                                // E5
		"fenced":                     func(facts) bool { return true },                                                      // E5
		"fence failed":               func(f facts) bool { return f.fence == done },                                         // E3
		"shutdown":                   func(f facts) bool { return f.shutdown || f.service == servicePrimary && f.treeRead }, // E12
		"leadership ends":            func(f facts) bool { return f.lost },                                                  // E2
		"shutdown under a keeper":    func(f facts) bool { return f.shutdown },                                              // E12
		"kept service found primary": func(f facts) bool { return f.service == servicePrimary },                             // section 6
		"kept service is promoted":   func(f facts) bool { return f.adopted },                                               // E1
	} {
		rows = append([]row(nil), whole...)
		for i := range rows {
			if rows[i].name == name {
				rows[i].guard = guard
				if name == "demoted" || name == "fenced" || name == "lock given back" || name == "shutdown" || name == "fence failed" || name == "shutdown under a keeper" { // before the rows that would apply
					rows[0], rows[i] = rows[i], rows[0]
				}
			}
		}
		if bad := walkBriefly(); bad == "" {
			t.Errorf("no order of events shows that %q needs its guard", name)
		} else {
			t.Log(strings.TrimSpace(fmt.Sprint(name, ": ", bad)))
		}
	}
}

func walkBriefly() breach {
	seen := map[machine]bool{atStart: true}
	queue := []machine{atStart}
	for len(queue) > 0 {
		n := queue[0]
		queue = queue[1:]
		for _, e := range events {
			if !e.possible(&n) {
				continue
			}
			m := n
			bad := e.apply(&m)
			if bad == "" {
				bad = m.apply()
			}
			if bad != "" {
				return bad
			}
			if !seen[m] {
				seen[m] = true
				queue = append(queue, m)
			}
		}
	}
	return ""
}
