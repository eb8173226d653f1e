package conformance

import (
	"testing"

	"github.com/holdfast-dcs/holdfast/internal/rule"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// ruleTeeth are the safety rules that can be switched off, and the case that
// must then fail.
var ruleTeeth = []struct {
	off    rule.Rule
	name   string
	caught string
}{
	{rule.P1FromSending, "P1, From of the reply", "Lease/FromNotLaterThanSend"},
	{rule.P3Deadline, "P3, no deadline", "Hold/DeadlineWithoutProof"},
	{rule.P4Final, "P4, a late answer revives", "Hold/LostIsFinal"},
	{rule.P5JudgeLater, "P5, an answer judges what came later", "Hold/OldAnswerJudgesNothingNew"},
	{rule.P6FalseFirst, "P6, valid until the release is answered", "Hold/ReleaseIsComplete"},
	{rule.P7Marker, "P7, the marker is ignored", "Reply/LateCopy"},
	{rule.P8ReadBack, "P8, absent as an attempt's condition", "Reply/MarkerLost"},
	{rule.P9MarkerFirst, "P9, the marker is judged last", "Reply/ConflictWithOneself"},
	{rule.P10EveryCopy, "P10, one copy's conflict is a no", "Reply/HedgedConflict"},
	{rule.P11NoNeedsMarker, "P11, no by reading back alone", "Reply/LateWrite"},
	{rule.P12SlotBusy, "P12, the marker is reused while unclear", "Reply/UnclearSlot"},
	{rule.P13Resend, "P13, a copy that excludes no other", "Reply/LateCopy"},
	{rule.P14DeadLease, "P14, a dead lease is unavailable", "Txn/DeadLease"},
	{rule.P16LateYes, "P16, a late yes is kept", "Reply/LateYesIsReleased"},
	{rule.P17OneAttempt, "P17, a second attempt, adoption", "Reply/OneAttemptAtATime"},
	{rule.P18OwnIncarnation, "P18, release by name", "Hold/StaleRelease"},
	{rule.P19FirstPublish, "P19, publish takes over for ever", "Hold/SameName"},
	{rule.P20BothLeases, "P20, a move renews one lease only", "Holder/UnclearMove"},
	{rule.OwnershipChecked, "ownership is not checked on renewal", "Hold/ExternalDelete"},
	{rule.AcquireCtxFree, "the Hold is tied to the acquire context", "Hold/AcquireCtxEnds"},
}

// TestSuiteCatchesRulesOff switches one rule off at a time. It must not run
// beside other tests: the switches are the process's.
func TestSuiteCatchesRulesOff(t *testing.T) {
	h := memHarness("memstore", memstore.Options{})
	for _, tooth := range ruleTeeth {
		t.Run(tooth.name, func(t *testing.T) {
			restore := rule.Off(tooth.off)
			defer restore()
			bites(t, h, tooth.caught)
		})
	}
}

// bites requires that the case fails, and says how.
func bites(t *testing.T, h Harness, name string) {
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
