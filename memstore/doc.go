// Package memstore is a store in memory that keeps the whole contract of
// package dcs, and can be made to fail in every way in which a real one does.
//
// It is three things:
//
//   - what authors of HA managers test against: elections, fail-overs and
//     every kind of trouble, thousands of steps a second, in virtual time;
//   - the contract's meaning as a program: it behaves like a foreign store
//     behind a network (markers, clamped and doubled leases, requests that get
//     lost, arrive twice or late), and passes the conformance suite;
//   - a store for one process that needs nothing installed.
//
// It keeps nothing on disk and does not reach beyond its process.
//
// # Opening
//
// A [Server] is the store; each [Server.Open] is one client of it, as one
// process of a cluster would have. A client is a [dcs.Backend]; programs use
// it through a [dcs.Store]:
//
//	server := memstore.NewServer(memstore.Options{})
//	a, err := dcs.New(server.Open(memstore.ClientOptions{Name: "a"}), dcs.Options{})
//	b, err := dcs.New(server.Open(memstore.ClientOptions{Name: "b"}), dcs.Options{})
//
// [New] is a Server with one client. A program that takes a URL needs no other
// code than for any store: dcs.Open(ctx, "mem://name/root", …), with this
// package imported; all opens of one name share a Server ([Shared] finds it)
// until the last one is closed. Two roots of one server do not see each other.
//
// [Options] say what the store cannot do. The zero value can do everything; run
// your tests against a poor one too:
//
//	memstore.Options{ExpiryFactor: 2, NoRebind: true, NoSelfExpiry: true, ModifiedOnly: true}
//
// # Virtual time
//
// Make the Server inside the bubble of testing/synctest, and its leases, its
// latency and every delay of the injector follow the bubble's clock: a TTL of
// 30 s passes at once when nothing else is to be done. The server has no
// goroutines; those of a client end with its Close, which a bubble demands.
// Nothing waits on anything but channels and timers.
//
// # Injecting faults
//
// [Server.Inject] puts faults in the way of the calls that a [Match] describes,
// by kind of call, key, client, endpoint or lease, until the [Injection] is
// lifted or, with [Once] and [Times], used up:
//
//	i := server.Inject(memstore.Match{Op: memstore.OpRenew, Client: "a"}, memstore.Hang())
//	…
//	i.Lift()
//
// The verbs, of which several can be given at once:
//
//	Refuse(err), Full()      nothing is sent, or the store refuses: a definite no
//	Fail(err)                answered with an error that says nothing
//	Hang()                   never arrives, nothing is heard
//	DropReply()              done, but the answer is lost
//	Reset()                  with these two: heard at once as a broken connection
//	Delay(d), DelayReply(d)  arrives late, answered late: so calls overtake each other
//	Hold(), HoldReply()      arrives, or is answered, at Injection.Release
//	Duplicate(d)             arrives once more after d
//	Repeat()                 done twice, the second answer counts
//	Lossy(Loss{…})           all this by chance, from a seed
//
// A call that its client has given up is still under way: what was held or
// delayed lands, as it does with real stores. Calls that the server pushes
// (watches) are held back by Hang, DropReply, Hold and HoldReply on OpWait.
//
// What happens to the store as a whole, or behind the clients' backs:
//
//	Down(), Up()             no quorum: nothing is done, no lease expires
//	ReadOnly(on)             reads work, writes and renewals do not
//	FreezeWatch(match)       watches fall silent, everything else works
//	LimitTTL(max)            leases are granted and renewed for at most max
//	EndLease(id)             an operator ends a lease early
//	Delete, Put              an operator changes a key
//
// and to look: [Server.Requests] counts what was sent, [Server.Leases] and
// [Server.Entries] show what the server has, bookkeeping included.
//
// A client has several endpoints, "m1" to "m3" by default. It stays with the
// one that answers, and sends hedges and retries through the next. A fault on
// the endpoint in use is one that a good client survives unnoticed; a fault on
// all of them is an outage.
//
// # Testing an HA manager
//
// What a manager must be tested for first is that it stops. The ways to lose
// the leadership, each with what Session and Hold make of it:
//
//	server.EndLease(session.Lease())          ErrLost, at the next renewal
//	server.Delete("default", "leader")        ErrLost of the Hold, at the next renewal
//	Inject(Match{Client: "a"}, Hang())        ErrExpired, at the deadline, not before
//	server.Down(), and Up within the TTL      nothing: the leader goes on
//	server.Down() for longer                  ErrExpired of everybody, at their deadlines
//	Inject(Match{Op: OpRenew}, Hang())        nothing, where the store can rebind
//	Inject(Match{Op: OpCommit, Key: "leader"}, DropReply(), Once())
//	                                          nothing: the own write is recognised
//
// A whole test, in virtual time:
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
//		// It heals, and finds that it leads no more.
//		cut.Lift()
//		time.Sleep(time.Minute)
//		synctest.Wait()
//		if a.primary() || !b.primary() { … }
//	})
//
// After synctest.Wait everything that can happen at this moment has happened;
// there is no need to poll, and no sleep is a guess.
//
// # How true it is
//
// Commits go through package dcs/attempt like those to etcd, Consul and
// ZooKeeper; renewals are confirmed by the one server there is, at one moment
// after their sending, so that From + TTL holds however late the answer comes.
// What cannot be tried here is what depends on several servers: elections,
// members that lag, a leader that does not know it is none.
package memstore
