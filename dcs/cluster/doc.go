// Package cluster is the tree of keys in which the members of one HA cluster
// describe themselves and choose a leader, typed and validated.
//
// The layout and the formats are those of Patroni 3 and 4, so that patronictl
// list, history and show-config read a cluster that is written with this package,
// and this package reads one that Patroni has written. A store's root takes the
// place of Patroni's namespace, and a scope is the name of a cluster:
//
//	<scope>/leader          the lock; its value is the member's name
//	<scope>/members/<name>  a Member, published by each member
//	<scope>/config          Config
//	<scope>/initialize      Initialize
//	<scope>/failover        Failover: another leader is asked for
//	<scope>/sync            Sync, of the leader
//	<scope>/history         History, of the leader
//	<scope>/status          Status, of the leader
//	<scope>/failsafe        Failsafe, of the leader
//	<scope>/keeper          Keeper, of a leader in a pause; not a key of Patroni's
//
// # Reading is tolerant
//
// [Read] decodes one Snapshot, so that a [View] is the cluster at one moment, and
// [Watch] yields a View after each change. Decoding never fails. A value that is
// not readable is one of the View's Problems and hides nothing else. Where a
// decision depends on it, the safe meaning counts:
//
//   - a leader key that is not readable means that a member leads;
//   - a failsafe list that is not readable is not empty, and nobody is in it;
//   - a keeper that is not readable is another member;
//   - a configuration that is not readable leaves the last one in force;
//   - a failover whose time is not readable is no request.
//
// Fields that the package does not know are in the record's Extra and survive a
// rewrite, as do known fields whose values have another type.
//
// # Writing is strict
//
// [View.Txn] makes the transaction that writes records, each on the condition that
// its key is as it was read. A record with a fault is refused with every fault in
// one ErrInvalid, before anything is sent. Sync, history, status, failsafe and
// keeper belong to the leader: [View.LeaderTxn] writes them under the Guard of its
// Hold.
//
//	view, err := cluster.Read(ctx, store, "pg")
//	config := view.Config
//	config.Pause = true
//	txn, err := view.Txn(config)
//	txn.If = append(txn.If, view.Unchanged(cluster.FailoverKey)...)
//	_, err = store.Commit(ctx, txn)
//
// A lock is acquired on the conditions of the View by which that was decided:
//
//	hold, err := session.TryAcquire(ctx, cluster.Key("pg", cluster.LeaderKey), []byte(name),
//		view.Unchanged(cluster.ConfigKey, cluster.FailoverKey, cluster.FailsafeKey, cluster.KeeperKey)...)
//
// # Members
//
// A [Publisher] publishes a member's record. Positions change often, are written
// seldom, and are asked for where a decision needs them: [Verify] asks every
// member for its identity, and finds records that lead to another process than the one
// that published them. Package clusterhttp is its HTTP client and handler.
package cluster
