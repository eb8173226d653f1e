// Package conformance is the test suite of the contract in package dcs. It is an ordered
// table of cases, each with a rule, its motivation, and a test that a backend keeps it.
// Authors of backends should run it against theirs. The suite must fail a store that breaks
// a rule in the case for that rule, and is itself tested for that.
//
// # A backend of your own
//
// A few lines run the suite:
//
//	func TestConformance(t *testing.T) {
//		conformance.Run(t, conformance.Harness{
//			Name: "mystore",
//			New: func(tb testing.TB) conformance.Store {
//				server := startServer(tb) // or one that all cases share, because each has keys of its own
//				return conformance.Store{
//					Open: func(tb testing.TB) dcs.Backend { return openClient(tb, server) },
//				}
//			},
//			NotApplicable: conformance.Without("not yet", "Cluster", "Inject", "Requests", "Secure", "URL"),
//		})
//	}
//
// This runs every case that needs no more than open clients. [Without] declares the cases of
// which nothing can be checked without a hook of [Store] (to inject faults into a client's
// requests, to count them, to open a client by URL). Give the hooks one after the other, and
// remove their names from the list. A case that is not declared fails, and its failure names
// the missing hook. A case that does not apply for another reason must be declared in
// NotApplicable too. Cases that do not apply are printed and counted. Any other skip is a
// failure, and so is a name that no case has. A case that can check a part of its rule
// without a hook does so, and its result names the hook: "pass, without Inject".
//
// Directory examples/backend has a complete backend with its harness.
//
// # A case
//
// Every case has a key prefix of its own, at least two independent clients and a watchdog,
// and is followed by a search for leaked goroutines. With Harness.Virtual it runs in a
// bubble of testing/synctest, where time costs nothing. Otherwise the cases that mostly
// wait for time to pass run at the same time, and those that inject faults into servers run
// afterwards, one at a time.
//
// A call must return within its budget (Timing.RetryTimeout) and 100 ms. A key must exist
// for TTL after a renewal's From, and must be removed one second after its Expiry. A bound
// on a latency is widened by the time that the machine took, as measured by a control in
// the same window, and the report has both. A case fails with "machine too slow" if the
// machine stood still for longer than the store's own election. A store that cannot answer
// within its budget on a busy machine needs a longer Timing.
//
// # Results
//
// The test's log has a table (case, backend, result, time); use go test -v. With
// HOLDFAST_CONFORMANCE_JSON=file, one JSON object for each case is appended to file.
// HOLDFAST_PROFILE=slow selects the long counts, and HOLDFAST_SEED=n repeats the random
// choices of a run that printed it.
//
// Case names are stable, because documents and harnesses refer to them. The changelog names
// new cases.
package conformance
