// Package memstore is a store in memory that keeps the whole contract of package
// dcs, and into which every kind of fault of a real store can be injected.
//
// It has three uses:
//
//   - Authors of HA managers test against it. Elections, failovers and faults run in
//     virtual time, at thousands of steps a second.
//   - It is an executable definition of the contract. It behaves like a foreign store
//     behind a network, with markers, clamped and doubled leases, and requests that
//     get lost or arrive twice or late. It passes the conformance suite.
//   - It is a store for one process that needs no installation.
//
// It writes nothing to disk and uses no network.
//
// # Opening
//
// A [Server] is the store. Each [Server.Open] returns one client of it, like one
// process of a cluster. A client is a [dcs.Backend], which programs use through a
// [dcs.Store]:
//
//	server := memstore.NewServer(memstore.Options{})
//	a, err := dcs.New(server.Open(memstore.ClientOptions{Name: "a"}), dcs.Options{})
//	b, err := dcs.New(server.Open(memstore.ClientOptions{Name: "b"}), dcs.Options{})
//
// [New] returns the only client of a new Server. A program that takes a URL needs no
// code for this store: it calls dcs.Open(ctx, "mem://name/root", …) and imports this
// package. All opens of one name share a Server, which [Shared] returns, until the last
// one is closed. Two roots of one server do not see each other.
//
// [Options] restrict the capabilities of the store. The zero value has all of them.
// Tests should also run against a store with few:
//
//	memstore.Options{ExpiryFactor: 2, NoRebind: true, NoSelfExpiry: true, ModifiedOnly: true}
//
// # Virtual time
//
// If the Server is created inside a bubble of testing/synctest, its leases, its latency
// and every delay of the injector follow the clock of the bubble. A TTL of 30 s then
// passes at once if no other work is left. The server has no goroutines. Those of a
// client end with its Close, which a bubble requires. The package blocks only on
// channels and timers.
//
// # Injecting faults
//
// [Server.Inject] applies faults to the calls that a [Match] selects by kind of call,
// key, client, endpoint or lease. They apply until [Injection.Lift], or until the
// number of calls of [Once] or [Times] is used up:
//
//	i := server.Inject(memstore.Match{Op: memstore.OpRenew, Client: "a"}, memstore.Hang())
//	…
//	i.Lift()
//
// These are the faults, of which several can be given at once:
//
//	Refuse(err), Full()      not sent, or refused by the store: a definite failure
//	Fail(err)                answered with an error that leaves the outcome unknown
//	Hang()                   the request never arrives, and there is no answer
//	DropReply()              applied, but the answer is lost
//	Reset()                  with Hang or DropReply: the connection breaks at once
//	Delay(d), DelayReply(d)  the request or the answer is late, so that calls overtake each other
//	Hold(), HoldReply()      the request or the answer arrives at Injection.Release
//	Duplicate(d)             the request arrives once more after d
//	Repeat()                 applied twice, and the second answer counts
//	Lossy(Loss{…})           all of these at random, from a seed
//
// A call that its client has given up is still under way. A request that was held or
// delayed is applied when it arrives, as in real stores. Changes that the server pushes
// to watches are held back by Hang, DropReply, Hold and HoldReply on OpWait.
//
// These methods act on the store as a whole, or on its data without a client:
//
//	Down(), Up()             no quorum: nothing is applied, and no lease expires
//	ReadOnly(on)             reads work, writes and renewals do not
//	FreezeWatch(match)       watches get no changes, everything else works
//	LimitTTL(limit)          leases are granted and renewed for at most limit
//	EndLease(id)             an operator ends a lease early
//	Delete, Put              an operator changes a key
//
// [Server.Requests] counts the requests sent. [Server.Leases] and [Server.Entries]
// return the state of the server, bookkeeping included.
//
// A client has several endpoints, "m1" to "m3" by default. It uses the one that answers,
// and sends hedges and retries through the next. A correct client must survive a fault
// on the endpoint in use. A fault on all endpoints is an outage.
//
// # Testing an HA manager
//
// The first thing to test of a manager is that it stops. These are the ways to lose the
// leadership, each with its effect on the Session and the Hold:
//
//	server.EndLease(session.Lease())          ErrLost, at the next renewal
//	server.Delete("default", "leader")        ErrLost of the Hold, at the next renewal
//	Inject(Match{Client: "a"}, Hang())        ErrExpired, at the deadline and not before
//	server.Down(), and Up within the TTL      none: the leader goes on
//	server.Down() for longer                  ErrExpired of all sessions, at their deadlines
//	Inject(Match{Op: OpRenew}, Hang())        none, if the store can rebind
//	Inject(Match{Op: OpCommit, Key: "leader"}, DropReply(), Once())
//	                                          none: the session recognises its own write
//
// A whole test in virtual time:
//
//	synctest.Test(t, func(t *testing.T) {
//		server := memstore.NewServer(memstore.Options{})
//		a := startManager(server.Open(memstore.ClientOptions{Name: "a"}))
//		b := startManager(server.Open(memstore.ClientOptions{Name: "b"}))
//		defer a.stop()
//		defer b.stop()
//
//		time.Sleep(time.Minute)
//		synctest.Wait()
//		if !a.primary() { … }
//
//		// a is cut off. It must have stopped before b starts.
//		cut := server.Inject(memstore.Match{Client: "a"}, memstore.Hang())
//		time.Sleep(time.Minute)
//		synctest.Wait()
//		if a.primary() || !b.primary() { … }
//
//		// The connection is restored. a must find that it no longer leads.
//		cut.Lift()
//		time.Sleep(time.Minute)
//		synctest.Wait()
//		if a.primary() || !b.primary() { … }
//	})
//
// After synctest.Wait every event that can happen at this moment has happened. There is
// no need to poll, and no sleep is a guess.
//
// With the race detector, run such tests with GOMAXPROCS=1. Otherwise the timers of a bubble
// can end the test program with "ThreadSanitizer: CHECK failed" or SIGSEGV, up to Go 1.26 at
// least (https://go.dev/issue/78156).
//
// # Limits of the model
//
// Commits go through package dcs/attempt, like those to etcd, Consul and ZooKeeper.
// Renewals are confirmed by the single server, at one moment after their sending, so
// that From + TTL is true however late the answer arrives. Faults that need several
// servers cannot be tested here, such as elections, followers that lag, and a former
// leader that does not know that it was replaced.
package memstore
