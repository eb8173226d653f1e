package conformance

import (
	"strings"
	"testing"

	"github.com/holdfast-dcs/holdfast/internal/mutants"
)

// mutant is a store with one defect and the case that must detect it.
type mutant struct {
	name   string
	caught string
	broken func(tb testing.TB, b *broken)
}

func allMutants() []mutant {
	var all []mutant
	for _, some := range [][]mutant{txnMutants, readMutants, waitMutants, largeMutants, leaseMutants, callMutants, growthMutants, faultMutants} {
		all = append(all, some...)
	}
	return all
}

// TestSuiteCatches runs the suite's cases against stores that break their rules. Each store
// must fail in the case for its defect.
func TestSuiteCatches(t *testing.T) {
	for _, m := range allMutants() {
		t.Run(m.name, func(t *testing.T) {
			mustFail(t, brokenHarness(m.name, m.broken), m.caught)
		})
	}
}

// TestWrappedStorePasses checks that the mutants fail because of their defects, and not
// because they are wrapped.
func TestWrappedStorePasses(t *testing.T) {
	h := brokenHarness("wrapped memstore", func(testing.TB, *broken) {})
	ran := map[string]bool{}
	for _, m := range allMutants() {
		c, ok := find(m.caught)
		if !ok {
			t.Fatalf("%s: there is no case %q", m.name, m.caught)
		}
		if ran[c.Name] {
			continue
		}
		ran[c.Name] = true
		if o := runCase(t, h, c); o.verdict != passed {
			t.Errorf("%s fails on a store without a defect: %s", c.Name, first(o.failures))
		}
	}
}

// withoutMutant has the cases without a mutant, each with the reason.
var withoutMutant = map[string]string{
	"Txn/Shape":        "Store refuses these before any backend is asked; the tests of package dcs break that",
	"Close/CallsAfter": "Store answers after Close without any backend",

	"Rotate/AllReplaced":       "memstore has no servers to replace",
	"Holder/StaleConfirmation": "memstore is one server, which no other can supersede; etcd3's TestStaleTermIsNoConfirmation breaks the rule",
	"Holder/PausedPastTTL":     "memstore is in one process; the rule depends on Hold, and the tests of package dcs break that",
	"Store/LeaderChange":       "memstore is one server; it is Store/OneReboots with an election",
	"Identity/ForeignServer":   "memstore has no address that could name another store; the tests of internal/backend break the rule",
	"Identity/LostData":        "memstore keeps nothing that could be restored; the tests of internal/backend break the rule",
	"Clock/Stepped":            "memstore reads no wall clock, and a linter rule forbids it",
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
			continue // memstore has neither; a backend with them tests these cases with its wrong clients
		}
		if why := withoutMutant[c.Name]; why != "" && caught[c.Name] {
			t.Errorf("%s is in withoutMutant (%s), and has a mutant", c.Name, why)
		} else if why == "" && !caught[c.Name] {
			t.Errorf("no mutant shows that %s can fail", c.Name)
		}
	}
}

// mustFail requires that the case fails, and logs its first failure.
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
