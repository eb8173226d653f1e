// Package conformance is the test suite of the contract in package dcs. It is an ordered
// table of cases, each with a rule, its motivation, and a test that a backend keeps it.
// Authors of backends should run it against theirs. The suite must fail a store that breaks
// a rule in the case for that rule, and is itself tested for that.
//
// # A backend of your own
//
// About fifteen lines run the suite:
//
//	func TestConformance(t *testing.T) {
//		cluster := startServers(t) // once, because every case has keys of its own
//		na := conformance.WithoutCluster("no servers to inject faults into yet")
//		na["TLS/*"], na["Auth/*"], na["Reply/*"] = "no TLS yet", "no users yet", "no proxy yet"
//		conformance.Run(t, conformance.Harness{
//			Name: "mystore",
//			New: func(tb testing.TB) conformance.Store {
//				return conformance.Store{
//					Open: func(tb testing.TB) dcs.Backend { return mystore.New(cluster.Addrs) },
//					URL:  func(tb testing.TB) string { return "mystore://" + cluster.Addrs },
//				}
//			},
//			NotApplicable: na,
//		})
//	}
//
// If a case needs more than an open client, its failure names the missing hook of [Store]
// (to inject faults into a client's requests, to count them, or to read sockets back). The
// harness must provide the hook, or have the case's name in NotApplicable with the reason.
// Cases that do not apply are printed and counted. Any other skip is a failure, and so is a
// name that no case has. A case that can check a part of its rule without a hook does so,
// and its result names the hook: "pass, without Inject".
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
