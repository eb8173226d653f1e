// Package conformance is the test suite of the contract in package dcs: an
// ordered table of cases, each a rule in words, where it was learnt, and what
// shows that a backend keeps it. Run it against a backend of your own; the
// suite must fail a store that breaks a rule, in the case that is meant for
// it, and is tested for that itself.
//
// # A backend of your own
//
// Some fifteen lines run the suite:
//
//	func TestConformance(t *testing.T) {
//		cluster := startServers(t) // once: every case keeps to keys of its own
//		na := conformance.WithoutCluster("no servers to strike yet")
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
// The cases that need more than an open client say so when they fail: they ask
// for a hook of [Store] (put faults in the way of a client's requests, count
// them, read sockets back), or for the case's name in NotApplicable with the
// reason. What does not apply is printed and counted; any other skip is a
// failure, and so is a name that no case has. A case that can check a part of
// its rule without a hook does so, and its result names the hook: "pass,
// without Inject".
//
// # A case
//
// Every case runs on keys under a first part of its own, with at least two
// independent clients, under a watchdog, and is followed by a search for
// goroutines that it left. With Harness.Virtual it runs in a bubble of
// testing/synctest, where time costs nothing. Else the cases that mostly wait
// for time to pass run at the same time, and those that strike servers run
// afterwards, one at a time.
//
// Bounds: a call returns within its budget (Timing.RetryTimeout) and 100 ms; a
// key is there for TTL after a renewal's From, and gone one second after its
// Expiry. A bound on a latency is widened by what a control in the same window
// shows that the machine took; the report has both. A case during which the
// machine stood still for longer than the store's own election fails as
// "machine too slow". A store that cannot answer within its budget on a busy
// machine needs a longer Timing.
//
// # What comes out
//
// A table (case, backend, result, time) in the test's log: go test -v. With
// HOLDFAST_CONFORMANCE_JSON=file, one JSON object a case is appended to file.
// HOLDFAST_PROFILE=slow asks for the long counts, HOLDFAST_SEED=n repeats the
// random choices of a run that printed it.
//
// Case names are stable: documents and harnesses refer to them. A new case is
// named in the changelog.
package conformance
