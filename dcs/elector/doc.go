// Package elector takes, keeps and gives up leadership for a service: a database
// whose primary must be the only one, an address, a job.
//
// An elector holds a lock in a [dcs.Store] and makes the service primary while it
// does. It publishes a record of its member in the tree of package cluster, in the
// formats of Patroni, and follows requests of operators.
//
//	err := elector.Run(ctx, elector.Config{
//		Store: store, Scope: "pg", Name: "a", Service: database,
//	})
//
// A program whose service is a function uses [Lead], which calls the function while
// its process leads.
//
// # Guarantees
//
// The rules have numbers, and the tests that fail without them name these.
//
//   - E1: Promote is called after a renewal was confirmed that was sent after the
//     acquisition, and with more than StopTimeout left (TestConfirmBeforePromote).
//   - E2: A demotion begins at once when the lock is lost, when Promote fails or takes
//     too long, and when a service is primary without the lock; StopTimeout before the
//     deadline when renewals fail; and on request (TestFailover, TestLockDeleted,
//     TestPromoteFails, TestFoundPrimary, TestUnhealthy).
//   - E3: A demotion has a fence time, which is fixed when the demotion begins. If
//     Demote fails or misses it, Fence is called, once. If Fence fails or takes more
//     than half of FenceTimeout, the process ends (TestHungDemote, TestDemoteFails,
//     TestFenceFails, TestNoFencer). A lock that is lost meanwhile, and a deadline that the store
//     moves back, bring the time forward (TestLostWhileHandingOver,
//     TestShorterWhileHandingOver).
//   - E4: The timing leaves time to demote after a renewal that fails, on the TTL that
//     the store grants (TestTimetableKeepsItsOrder, TestTimingFaults,
//     TestGrantedTTLIsTooShort).
//   - E5: The lock is given back after Demote or Fence has returned nil. Otherwise it
//     is left to expire (TestFenceFails, TestHungPromote).
//   - E6: Renewals go on during a demotion that was asked for (TestHandoverTimeout).
//   - E7: Fence is fired by a timer that does not depend on the elector's loop. A loop
//     that has not run for half of the TTL renews no more (TestLoopHangs). Questions
//     to members are abandoned at their deadline (TestAskerStuckAtItself,
//     TestAskerStuckAtAnother, TestTransportStuck).
//   - E8: Promote, Demote and Follow never overlap, and nothing is acquired while one
//     of them runs (TestHungPromote, TestFollow).
//   - E9: A member whose promotion failed publishes the state failed and lets the
//     others come first (TestPromoteFails, TestPromoteFailsAlone).
//   - E10: An acquisition holds only if the configuration and the requests by which it
//     was decided are unchanged, then and before Promote (TestPausedMeanwhile,
//     TestDecisionRestsOnEachKey).
//   - E11: In a pause no member acquires but the keeper, and no member demotes for a
//     reason of policy (TestPause, TestPauseWhileSwitchingOver, TestKeeperOutage).
//   - E12: A shutdown is bounded and leaves nothing behind (TestShutdown), except for a
//     service under a keeper, which goes on (TestKeeperRestart).
//   - E13: The own lock of an earlier session is deleted and not waited for
//     (TestOwnOldLock).
//   - E14: A member leads only if the policy allows it, and each refusal has a reason
//     (TestDefaultPolicy, TestAheadLeads, TestRefusals, TestRefusalIsLoggedOnce).
//   - E15: A switchover is judged before anything stops, and only its candidate takes
//     the lock (TestSwitchover, TestSwitchoverRefused, TestSwitchoverFails). Until it is
//     accepted it can be cancelled (TestCancelSwitchover, TestCancelAcceptedSwitchover).
//   - Keeper: A leader outlasts its lock in a pause only under a record that was
//     confirmed. While the record is there, no other member acquires, and only its
//     owner or an operator removes it (TestKeeperOutage, TestKeeperUnconfirmed,
//     TestKeeperUnproven, TestKeeperOwner, TestAdoptedKeeperIsOver, TestKeeperEnds,
//     TestKeeperRemovalUnclear).
//
// With [Config.Guardian] the service stops in time also when this process is stopped,
// killed or hangs: before Promote the Guardian is armed, each deadline reaches it, and it
// fires at Table.Guardian (TestGuardianHasTheDeadline, TestGuardianStopsTheService,
// TestGuardianProcess). It is off under a keeper (TestGuardianUnderAKeeper).
//
// TestNeverTwoPrimaries walks at random over faults of the store, of the services and
// of the processes. At no moment are two services primary there. The tests of
// internal/failover kill and stop processes, and stop etcd and the embedded store.
//
// An operator or program that deletes the lock with the store's own tools is not
// stopped: two members may be primary then until the next renewal, and LostTimeout
// longer. Commits with [Leadership.Commit], and resources that compare
// [Leadership.Token], are protected in that time too. The promise is that of package
// dcs, with the same exceptions.
//
// # Timetable
//
// All moments follow from [Timing] and are counted from the last confirmed renewal;
// [Timetable] computes them. With the defaults (TTL 30 s, LoopWait and RetryTimeout
// 10 s):
//
//	0 s       10 s      20 s  21.9 s      28.4 s  28.9 s  29.4 s   30 s
//	|---------|---------|-----|-----------|-------|-------|--------|
//	renewal   next one  fails Demote      Fence   process deadline others may
//	confirmed is sent         begins              ends             take the lock
//
// Demote thus has 6.5 s when renewals fail. A service that needs longer takes a longer
// StopTimeout, which a longer TTL or a shorter RetryTimeout must leave. After a loss of
// the lock Demote has LostTimeout. A demotion that was asked for has HandoverTimeout,
// but ends with the deadline of its beginning: at the least 18.4 s with the defaults.
// A failover after the death of a leader takes at most the TTL.
//
// # States
//
//	Starting   no session, or the tree was not read, or the service has not reported
//	Following  another member leads, or this one may not
//	Acquiring  the lock is being taken and confirmed
//	Promoting  Promote runs
//	Leading    the service is primary
//	Demoting   Demote runs
//	Fenced     Fence was called
//	Stopped    Run has returned
//
// In each state the first transition is made whose condition holds:
//
//	Starting   -> Stopped    shutdown before the start
//	           -> Leading    kept service found primary
//	           -> Demoting   service found primary at the start
//	           -> Following  started
//	Following  -> Demoting   service found primary
//	           -> Stopped    shutdown
//	           -> Starting   session lost
//	           -> Acquiring  lock may be taken
//	Acquiring  -> Following  not acquired
//	           -> Following  lock lost before the promotion
//	           -> Following  lock not usable
//	           -> Promoting  lock confirmed
//	Promoting  -> Fenced     fenced during the promotion
//	           -> Demoting   promotion ends
//	           -> Leading    promoted
//	Leading    -> Fenced     fenced while leading
//	           -> Demoting   leadership ends
//	           -> Stopped    shutdown under a keeper
//	           -> Leading    lock to be taken again
//	           -> Leading    lock not taken again
//	           -> Leading    lock taken again
//	           -> Promoting  kept service is promoted
//	Demoting   -> Fenced     fenced during the demotion
//	           -> Fenced     demotion failed
//	           -> Following  demoted
//	Fenced     -> Stopped    fence failed
//	           -> Fenced     lock given back
//	           -> Stopped    shutdown while a callback hangs
//	           -> Following  fenced
//
// # Writing a Service
//
// Promote must return when the service is primary, and Demote when it is not. Both
// must change nothing if that is so already. Their context bounds them, and a
// callback that ignores it is fenced.
//
// A database: Promote calls the server's promotion and waits for it. Demote stops the
// server, or restarts it as a replica; a stop that may take long must be a fast one, as
// with pg_ctl stop -m immediate, once the context's deadline is near. Fence kills the
// process group. Report returns the role that the server itself reports, and its
// position; Follow points the replica at the leader.
//
// An address: Promote adds it to the interface and announces it, Demote removes it.
// Fence is Demote without waiting. Report looks for the address, so that one that an
// earlier process left behind is found at the start.
//
// A job: use [Lead]. The function must return when its context ends. It has no Fencer,
// so that the process ends if it does not.
//
// A resource outside the store is safe only if it refuses smaller tokens than it has
// seen, or if the service stops in time. The second one needs a process that runs: a
// process that is stopped or swapped out demotes nothing until it goes on. Package guardian
// has a child process and a watchdog device for that. A Service without Fence may name a
// Guardian instead of Exit.
//
// # Members and the policy
//
// Each process needs a name of its own. Where two have one, the one that published
// the record last may lead, and the other reports the conflict.
//
// [DefaultPolicy] compares positions, so that the member with the most data leads.
// Positions in the tree are up to a LoopWait old. With [Config.Asker] the members are
// asked for the present ones, over an address that each answers with
// [Elector.Identity]:
//
//	server := &http.Server{Addr: ":8008", Handler: electorhttp.New(e, electorhttp.Options{}), ReadHeaderTimeout: 2 * time.Second}
//	err := server.ListenAndServe()
//
// Package electorhttp answers these questions, the checks of load balancers, and the
// requests of operators, on the paths of Patroni.
//
// The configuration in the tree sets maximum_lag_on_failover and pause. Its timing is
// not applied: that of [Config.Timing] is. A leader that finds no configuration writes
// one with its timing, because patronictl needs it.
//
// # Requests
//
// [Elector.Switchover] hands over to another member, at once or at a given time.
// The same request may be written into the tree, as patronictl switchover does; the
// leader judges and accepts or clears it. [Elector.CancelSwitchover] clears one that was
// not accepted. [Elector.Pause] and [Elector.Resume] suspend
// decisions in the whole cluster, and [Elector.PatchConfig] and [Elector.ReplaceConfig]
// change its configuration.
//
// # History
//
// After Promote the leader adds a line to the cluster's history, which patronictl
// history and /history show: the number, the position at which the service goes on, the
// reason, the time, and the leader. The number is the timeline that ended, for a Service
// that reports its timeline, and otherwise the fencing token. The last 100 lines stay,
// or max_timelines_history of the configuration. Nothing waits for the line, and a line
// that cannot be written demotes no leader.
//
// # A pause and its keeper
//
// In a pause an operator works on the store or on the managers, and the services go
// on. The leader therefore writes a keeper record when it sees the pause: a key
// without a lease, under the guard of its lock, with its name, its instance and its
// token. Once the record is confirmed, the leader outlasts its lock:
//
//   - In an outage of the store it stays primary, without a deadline. [Elector.Leading]
//     is nil and /primary is 503 while it has no lock. When the store is back it takes
//     the lock again, with a higher token, and does not demote.
//   - When its process ends, by a shutdown or a crash, the service is left running. The
//     next process of that name finds the service primary and the record, takes the
//     lock, and calls Promote, which must change nothing on a primary. It must read the
//     record within LostTimeout of its start, and demotes otherwise.
//   - A lock that the store reports as deleted or taken ends the leadership, as without
//     a pause.
//
// While the record is there, no other member takes the lock, also when the pause is
// over. Its owner removes it: the leader when it has the lock and the pause is over, and
// a process that has demoted the service. If the owner does not come back, because its
// machine has died in the pause, an operator removes it with [Elector.RemoveKeeper]. A
// process of the same name whose service is not primary does not, because it does not
// know whether the earlier process goes on, on another machine.
//
// A service that ends with the process needs no keeper, see [Config.NoKeeper].
//
// # Failsafe mode
//
// With failsafe_mode in the cluster's configuration, and a transport in
// [Config.Failsafe], a leader goes on in an outage of the store while every member
// accepts it. No other member takes the lock for as long as that lasts.
//
//	Config{
//		Asker:    clusterhttp.New(transport),
//		Failsafe: electorhttp.NewFailsafeClient(transport, token), …
//	}
//
// The leader writes a list of the members and their addresses. When its lock has not
// been renewed, and just enough time is left to ask before a demotion (Table.Ask), it
// asks all of them. If all accept, it leads for another TTL less the margin, and asks
// again every RenewEvery. One that refuses or is silent ends the leadership as without
// the mode. When the store is back, the leader takes its lock again and does not
// demote; its Token rises.
//
//   - F1: A leader asks only after the store has confirmed its list under its present
//     lock, and asks the members of every list that may be stored. Before a list with a
//     new member is sent, the acceptances end (TestFailsafeListUnconfirmed,
//     TestFailsafeUnclearList, TestFailsafeNewMember).
//   - F2: All members must accept in one round, each by its own word, and the leader
//     must reach itself at its own address. The leadership lasts from the first question
//     (TestFailsafeOutage, TestFailsafeRefused, TestFailsafeTwinOfTheLeader,
//     TestFailsafeLastsFromTheFirstQuestion, TestLateAcceptances).
//   - F3: A member accepts only if it neither leads nor takes the lock, and no leader
//     that another one has followed (TestAcceptFailsafe, TestAcceptWhileAcquiring,
//     TestAcceptWhileDeciding, TestUnclearAcquisitionStaysUnclear, TestRebuiltStore).
//   - F4, P23: A member that has accepted takes no lock for the longer one of the two
//     TTLs, nor does one within that time of its start while a list is stored. One that
//     is not in the list, or has not reached itself at its address there for a TTL,
//     takes none at all. The list binds also where the mode is off
//     (TestFailsafePartition, TestFailsafeAcceptorRestarts, TestFailsafeTwin,
//     TestFailsafeTwinDisplaced, TestFailsafeNotListed, TestFailsafeEnds).
//   - F5: A lock that is lost, or that another member has, ends the leadership at once.
//     A pause keeps the leader from taking its lock again, not from leading
//     (TestFailsafeLost, TestFailsafePausedMeanwhile).
//
// Only the leader empties the list, when failsafe_mode is not set any more, and an
// operator with [Elector.EmptyFailsafe]. AskTimeout is part of the timetable where
// Config.Failsafe is set (E4): StopTimeout may be shorter then.
package elector
