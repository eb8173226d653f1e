package model

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var deep = flag.Bool("model.deep", os.Getenv("HOLDFAST_PROFILE") == "slow", "search within larger bounds (default with HOLDFAST_PROFILE=slow)")

// bound returns the bound of a search.
func bound[N any](usual, large N) N {
	if *deep {
		return large
	}
	return usual
}

// expectNone requires that no state fails a check.
func expectNone[S comparable](t *testing.T, start S, next func(S) []step[S], checks ...func(S) string) {
	t.Helper()
	o := search(start, next, func(s S) string {
		for _, check := range checks {
			if text := check(s); text != "" {
				return text
			}
		}
		return ""
	})
	if o.violation != "" {
		t.Fatalf("%s after\n%s", o.violation, strings.Join(o.trace, "\n"))
	}
	t.Logf("no violation in %d states", o.states)
}

// expectTrace requires that a state fails the check, after steps in this order
// with others between them.
func expectTrace[S comparable](t *testing.T, start S, next func(S) []step[S], check func(S) string, steps ...string) {
	t.Helper()
	o := search(start, next, check)
	if len(o.trace) == 0 {
		t.Fatalf("no violation in %d states", o.states)
	}
	t.Logf("%s after\n%s", o.violation, strings.Join(o.trace, "\n"))
	for _, taken := range o.trace {
		if len(steps) > 0 && taken == steps[0] {
			steps = steps[1:]
		}
	}
	if len(steps) > 0 {
		t.Errorf("the history does not contain, in this order, %q", steps)
	}
}

func TestSearch(t *testing.T) {
	next := func(n int) []step[int] {
		c := choices[int]{state: n}
		c.add(n < 100, "add 1", func(to *int) { *to++ })
		c.add(n < 100, "double", func(to *int) { *to *= 2 })
		return c.steps
	}
	is := func(want int) func(int) string {
		return func(n int) string {
			if n == want {
				return "found"
			}
			return ""
		}
	}
	o := search(1, next, is(11))
	if got := strings.Join(o.trace, ", "); o.violation != "found" || got != "add 1, double, add 1, double, add 1" {
		t.Errorf("%q after %q, want a shortest history to 11", o.violation, got)
	}
	if o := search(1, next, is(0)); o.violation != "" || len(o.trace) != 0 || o.states != 149 {
		t.Errorf("%+v, want no violation in 149 states: 1 to 100, and the even numbers to 198", o)
	}
}

// P11, P17: an Acquire adopts only the lock that it took.
func TestAdoption(t *testing.T) {
	start := adoptionState{}
	without := func(off func(*adoptionRules)) func(adoptionState) []step[adoptionState] {
		rules := adoptionRules{newerOnly: true, knownBefore: true, waitsForRemoval: true, readBackOnly: true}
		off(&rules)
		return adoptionModel{rules, bound[uint8](5, 8)}.next
	}
	t.Run("all rules", func(t *testing.T) {
		next := without(func(*adoptionRules) {})
		expectNone(t, start, next, adoptionState.checkSafety, adoptionState.checkAnswers)
	})
	t.Run("without newerOnly and waitsForRemoval", func(t *testing.T) {
		next := without(func(r *adoptionRules) { r.newerOnly, r.waitsForRemoval = false, false })
		expectTrace(t, start, next, adoptionState.checkSafety,
			"A sends an Update",
			"A releases the lock, and the removal has to wait",
			"the Update is settled",
			"A sends a copy of an Acquire",
			"the marker disappears",
			"A reads the lock back on its lease and adopts it",
			"A sends the removal",
			"a copy of the removal takes effect")
	})
	// Each of the two rules excludes that history alone.
	t.Run("without newerOnly", func(t *testing.T) {
		next := without(func(r *adoptionRules) { r.newerOnly = false })
		expectNone(t, start, next, adoptionState.checkSafety, adoptionState.checkAnswers)
	})
	t.Run("without waitsForRemoval", func(t *testing.T) {
		next := without(func(r *adoptionRules) { r.waitsForRemoval = false })
		expectNone(t, start, next, adoptionState.checkSafety)
		expectTrace(t, start, next, adoptionState.checkAnswers,
			"A releases the lock, and the removal has to wait",
			"a copy of the Acquire is refused because the lock is present")
	})
	t.Run("without knownBefore", func(t *testing.T) {
		next := without(func(r *adoptionRules) { r.knownBefore = false })
		expectTrace(t, start, next, adoptionState.checkSafety,
			"a copy of the Acquire takes effect",
			"A reads the key's revision",
			"the marker disappears",
			"A reads the key back and reports a conflict")
	})
	t.Run("without readBackOnly", func(t *testing.T) {
		next := without(func(r *adoptionRules) { r.readBackOnly = false })
		expectTrace(t, start, next, adoptionState.checkSafety,
			"the Acquire returns ErrAmbiguous",
			"A finds the lock on its lease and adopts it",
			"a copy of the removal takes effect")
	})
}

// P3: a renewal may be granted a shorter life than the one before.
func TestShorterLife(t *testing.T) {
	var start lifeState
	without := func(off func(*lifeRules)) func(lifeState) []step[lifeState] {
		m := lifeModel{long: 4, short: 2, renewals: bound(2, maxRenewals), ticks: bound[uint8](8, 10)}
		m.lifeRules = lifeRules{laterSets: true, earlierNeverBack: true, earlierNeverForward: true, equalTakesEarlier: true, shortensOnAnswer: true}
		off(&m.lifeRules)
		start = m.start()
		return m.next
	}
	t.Run("all rules", func(t *testing.T) {
		next := without(func(*lifeRules) {})
		expectNone(t, start, next, lifeState.checkSafety, lifeState.checkDeadline)
	})
	t.Run("without laterSets", func(t *testing.T) {
		next := without(func(r *lifeRules) { r.laterSets = false })
		expectTrace(t, start, next, lifeState.checkSafety,
			"renewal 1 arrives and gets the short life",
			"renewal 1 is answered",
			"the lease ends, and another session acquires the lock")
	})
	t.Run("without earlierNeverBack", func(t *testing.T) {
		next := without(func(r *lifeRules) { r.earlierNeverBack = false })
		expectNone(t, start, next, lifeState.checkSafety)
		expectTrace(t, start, next, lifeState.checkDeadline, "renewal 2 is answered", "renewal 1 is answered")
	})
	t.Run("without earlierNeverForward", func(t *testing.T) {
		next := without(func(r *lifeRules) { r.earlierNeverForward = false })
		expectTrace(t, start, next, lifeState.checkSafety,
			"renewal 1 arrives and gets the long life",
			"renewal 2 arrives and gets the short life",
			"renewal 2 is answered",
			"renewal 1 is answered")
	})
	t.Run("without equalTakesEarlier", func(t *testing.T) {
		next := without(func(r *lifeRules) { r.equalTakesEarlier = false })
		expectTrace(t, start, next, lifeState.checkSafety,
			"renewal 1 arrives and gets the long life",
			"renewal 2 arrives and gets the short life",
			"renewal 2 is answered",
			"renewal 1 is answered")
	})
	// No client can know of an answer that is lost, so this duty is the store's.
	t.Run("without shortensOnAnswer", func(t *testing.T) {
		next := without(func(r *lifeRules) { r.shortensOnAnswer = false })
		expectTrace(t, start, next, lifeState.checkSafety,
			"renewal 1 arrives and gets the short life",
			"the lease ends, and another session acquires the lock")
	})
}

// P19: one key is a lock or a member key, never both.
func TestNames(t *testing.T) {
	t.Run("with Rebind", func(t *testing.T) { testNames(t, true) })
	t.Run("without Rebind", func(t *testing.T) { testNames(t, false) })
}

func testNames(t *testing.T, rebind bool) {
	start := nameState{}
	without := func(isMember bool, off func(*nameRules)) func(nameState) []step[nameState] {
		rules := nameRules{disjoint: true, firstTakesOver: true, displacedStops: true}
		off(&rules)
		return nameModel{rules, isMember, rebind, bound[uint8](6, 10)}.next
	}
	checks := []func(nameState) string{nameState.checkHold, nameState.checkGuard, nameState.checkRelease, nameState.checkTakeovers}
	t.Run("all rules, a lock", func(t *testing.T) {
		expectNone(t, start, without(false, func(*nameRules) {}), checks...)
	})
	t.Run("all rules, a member key", func(t *testing.T) {
		expectNone(t, start, without(true, func(*nameRules) {}), checks...)
	})
	t.Run("without disjoint", func(t *testing.T) {
		next := without(false, func(r *nameRules) { r.disjoint = false })
		taken := []string{"A acquires the lock", "B reads the key and sends its first put", "B's put takes effect"}
		expectTrace(t, start, next, nameState.checkHold, taken...)
		if !rebind { // a takeover has a Created of its own
			expectNone(t, start, next, nameState.checkGuard, nameState.checkRelease)
			return
		}
		expectTrace(t, start, next, nameState.checkGuard, append(taken, "A's renewal finds that the lock is lost")...)
		expectTrace(t, start, next, nameState.checkRelease, append(taken, "A releases the lock")...)
	})
	t.Run("without firstTakesOver", func(t *testing.T) {
		next := without(true, func(r *nameRules) { r.firstTakesOver = false })
		expectTrace(t, start, next, nameState.checkTakeovers, "B sends a further put", "C's put takes effect", "B's put takes effect", "C's put takes effect")
	})
	t.Run("without displacedStops", func(t *testing.T) {
		next := without(true, func(r *nameRules) { r.displacedStops = false })
		expectTrace(t, start, next, nameState.checkTakeovers, "B was displaced and sends a put", "C was displaced and sends a put")
	})
}

// expectViolation requires that the shortest history with a violation has this one.
func expectViolation[S comparable](t *testing.T, start S, next func(S) []step[S], check func(S) string, want string) {
	t.Helper()
	o := search(start, next, check)
	if o.violation != want {
		t.Fatalf("%q in %d states, want %q, after\n%s", o.violation, o.states, want, strings.Join(o.trace, "\n"))
	}
	t.Logf("%s in %d steps:\n%s", o.violation, len(o.trace), strings.Join(o.trace, "\n"))
}
