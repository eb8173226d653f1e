package conformance

import (
	"strings"
	"testing"

	"github.com/holdfast-dcs/holdfast/internal/mutants"
)

// tooth is a store with one thing wrong, and the case that must fail on it.
type mutant struct {
	name   string
	caught string
	broken func(tb testing.TB, b *broken)
}

func allMutants() []mutant {
	var all []mutant
	for _, some := range [][]mutant{txnMutants, readMutants, waitMutants, leaseMutants, callMutants, faultMutants} {
		all = append(all, some...)
	}
	return all
}

// TestSuiteCatches runs the suite's cases against stores that break their
// rules: each must fail in the case that is meant for it.
func TestSuiteCatches(t *testing.T) {
	for _, m := range allMutants() {
		t.Run(m.name, func(t *testing.T) {
			mustFail(t, brokenHarness(m.name, m.broken), m.caught)
		})
	}
}

// TestWrappedStorePasses shows that it is what is broken in a store that the
// teeth are about, not its being wrapped.
func TestWrappedStorePasses(t *testing.T) {
	h := brokenHarness("wrapped memstore", func(testing.TB, *broken) {})
	for _, m := range allMutants() {
		c, ok := find(m.caught)
		if !ok {
			t.Fatalf("%s: there is no case %q", m.name, m.caught)
		}
		if o := runCase(t, h, c); o.verdict != passed {
			t.Errorf("%s fails on a store with nothing broken: %s", c.Name, first(o.failures))
		}
	}
}

// withoutMutant are the cases that no broken store is made for, each with the
// reason.
var withoutMutant = map[string]string{
	"Txn/Shape":        "Store refuses these before any backend is asked; the tests of package dcs break that",
	"Close/CallsAfter": "Store answers after Close without any backend",

	"Rotate/AllReplaced":       "memstore has no servers to replace",
	"Holder/StaleConfirmation": "memstore is one server, which knows what it has done; etcd3's TestStaleTermIsNoConfirmation breaks the rule",
	"Holder/PausedPastTTL":     "memstore is in one process; what could be wrong is in Hold, and the tests of package dcs break it",
	"Store/LeaderChange":       "memstore is one server; it is Store/OneReboots with an election",
	"Clock/Stepped":            "memstore reads no wall clock, and a linter keeps everybody from it",
}

// TestEveryCaseHasAMutant requires that there is a broken store for every case
// that runs on memstore.
func TestEveryCaseHasAMutant(t *testing.T) {
	caught := map[string]bool{}
	for _, m := range allMutants() {
		caught[m.caught] = true
	}
	rules, err := mutants.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range rules {
		for _, k := range m.Kills {
			caught[strings.TrimPrefix(k.Test, "TestConformance/")] = true
		}
	}
	caught["Open/ByURL"] = len(urlMutants) > 1
	for _, c := range Cases() {
		if strings.HasPrefix(c.Name, "Auth/") || strings.HasPrefix(c.Name, "TLS/") {
			continue // memstore has neither; a backend that has proves them by its wrong clients
		}
		if why := withoutMutant[c.Name]; why != "" && caught[c.Name] {
			t.Errorf("%s is said to be withoutMutant (%s), and is not", c.Name, why)
		} else if why == "" && !caught[c.Name] {
			t.Errorf("no broken store shows that %s can fail", c.Name)
		}
	}
}

// bites requires that the case fails, and says how.
func mustFail(t *testing.T, h Harness, name string) {
	t.Helper()
	c, ok := find(name)
	if !ok {
		t.Fatalf("there is no case %q", name)
	}
	o := runCase(t, h, c)
	if o.verdict != failed {
		t.Fatalf("%s passed a store that breaks its rule: %s", name, c.Rule)
	}
	t.Logf("%s: %s", name, first(o.failures))
}

func find(name string) (spec, bool) {
	for _, c := range table() {
		if c.Name == name {
			return c, true
		}
	}
	return spec{}, false
}

func first(failures []string) string {
	if len(failures) == 0 {
		return "(no message)"
	}
	if f := failures[0]; len(f) > 400 {
		return f[:400] + " …"
	}
	return failures[0]
}
