package conformance

import "time"

// A Case is one rule of the contract and the name under which it is tested.
// Names are stable, because documents and third-party harnesses refer to them.
type Case struct {
	// Name is "Area/Rule".
	Name string
	// Rule is a sentence that must hold.
	Rule string
	// Motivation describes a failure that the rule prevents.
	Motivation string
}

// Cases returns the cases of the suite in the order in which they run.
func Cases() []Case {
	var out []Case
	for _, c := range table() {
		out = append(out, c.Case)
	}
	return out
}

// spec is a case with the function that runs it.
type spec struct {
	Case
	// sleeps is true if the case mostly waits for time to pass. With real time it runs at
	// the same time as other such cases.
	sleeps bool
	// alone is true if the case injects faults into servers, compares latencies or
	// inspects the whole process. With real time it runs after the others, alone.
	alone bool
	// limit is the watchdog's; zero means a minute and ten TTL.
	limit time.Duration
	run   func(e *env)
}

// table returns all cases in order.
func table() []spec {
	var all []spec
	for _, area := range [][]spec{
		kvCases, txnCases, bindingCases, snapshotCases, waitCases, leaseCases, holdCases, decidedCases,
		contestCases, memberCases, openCases, callCases, closeCases, keepaliveCases, secureCases, replyCases, settleCases,
		rotateCases, outageCases, identityCases,
	} {
		all = append(all, area...)
	}
	return all
}

// faultCases marks the cases that inject faults into servers as alone.
func faultCases(cases []spec) []spec {
	for i := range cases {
		cases[i].alone = !cases[i].sleeps
	}
	return cases
}
