package conformance

import (
	"fmt"
	"slices"
)

// requiredBy has, for each hook of [Store], the cases of which nothing can be checked
// without it. Cases that leave only a part of their checks out are not listed.
var requiredBy = map[string][]string{
	"Cluster":  clusterCases(),
	"OpenWith": clusterCases(),
	"Inject": {
		"Lease/LateAnswerRevivesNothing", "Call/SilenceEnds", "Reply/*",
		"Hold/DeadlineWithoutProof", "Hold/LostIsFinal", "Hold/OldAnswerJudgesNothingNew",
		"Holder/ConfirmsKeepFailing", "Holder/ManyKeysMove", "Holder/UnclearMove", "Holder/LinkLostBeforeFirstRenewal",
	},
	"Requests":        {"Wait/NotAPoll"},
	"Secure":          {"Auth/*", "TLS/*"},
	"URL":             {"Open/ByURL", "Holder/PausedPastTTL"},
	"DropBookkeeping": {"Reply/MarkerLost"},

	"Cluster.DeadAddresses": {"Rotate/DeadAddress"},
	"Cluster.Refusals":      {"Rotate/OneRefuses"},
	"Cluster.ReadOnly":      {"Outage/ReadOnly"},
	"Cluster.RestartAll":    {"Store/Kill9"},
	"Cluster.Replace":       {"Rotate/AllReplaced"},
	"Cluster.Foreign":       {"Identity/ForeignServer"},
	"Cluster.Wipe":          {"Identity/LostData"},
	"Cluster.EndLease":      {"Holder/EarlyExpiry"},
	"Cluster.StepClock":     {"Clock/Stepped"},
}

// clusterCases returns the names of the cases that inject faults into servers.
func clusterCases() []string {
	var names []string
	for _, c := range slices.Concat(rotateCases, outageCases, identityCases) {
		switch c.Name {
		case "Holder/LinkLostBeforeFirstRenewal": // requires Inject only
		case "Holder/PausedPastTTL": // requires URL only
		default:
			names = append(names, c.Name)
		}
	}
	return names
}

// Without returns, for [Harness.NotApplicable], the cases of which nothing can be checked
// if the harness lacks the named hooks of [Store], all with the reason why. Hooks of
// [Cluster] have names such as "Cluster.Wipe". Without panics if a hook is unknown or if no
// case requires it.
func Without(why string, hooks ...string) map[string]string {
	out := map[string]string{}
	for _, hook := range hooks {
		cases, known := requiredBy[hook]
		if !known {
			panic(fmt.Sprintf("conformance: Without(%q): no case requires a hook of that name", hook))
		}
		for _, name := range cases {
			out[name] = why
		}
	}
	return out
}
