// Package raftstore is a store that runs inside the programs that use it: each
// process is one node of a Raft cluster (hashicorp/raft), and no
// server has to be installed. One node makes a store for one machine, three or
// five make one that survives the loss of one or two.
//
// # Opening
//
// Every node is given the same list of peers for the first start, and a data
// directory of its own:
//
//	b, err := raftstore.New(ctx, raftstore.Config{
//		ID: "a", Dir: "/var/lib/holdfast/a", Root: "pg/main",
//		Peers: []raftstore.Peer{
//			{ID: "a", Addr: "10.0.0.1:7001"}, {ID: "b", Addr: "10.0.0.2:7001"}, {ID: "c", Addr: "10.0.0.3:7001"},
//		},
//		TLS: &raftstore.TLS{CertFile: "a.pem", KeyFile: "a.key", CAFile: "ca.pem"},
//	})
//
// or, by URL, dcs.Open(ctx, "raft:///var/lib/holdfast/a?id=a&root=pg/main&peers=…").
// The first start needs every node of Peers at the same time, once: until each
// of them has been seen without data, no node votes, and calls fail with an
// error that names those that are missing. [New] returns once the node runs and
// does not wait for a leader: the first call does, within its budget. What is
// wrong with the settings, the port or the directory is an error at once.
//
// # A node that lost its data
//
// A node must not vote as if it had never acknowledged anything. So the data of
// a node have a life, which the directory names: a node with an empty directory
// is another server to the others, with no vote. It joins by itself. A leader
// that the others elected adds the new life without a vote, moves the vote of the
// lost life to it when it has caught up, and removes the lost one. The same holds
// for a node that has less than its directory says it once had. It moves what it
// has to a directory lost-LIFE in Dir, after the leader has admitted it.
//
// A node whose data are damaged refuses to start and names the file. A node that
// was replaced by another life refuses too. Config.Rejoin lets either join as if
// its directory were empty.
//
// Do not put back an older copy of a directory: it lacks what was acknowledged
// since. A node asks the others before it votes, and those that answer and know
// more make it join again. If no such node answers, the loss is not found.
//
// A cluster that is founded again is another incarnation. The nodes of the two
// refuse each other, and calls over a node of the other incarnation fail with
// ErrUnauthorized.
//
// # Members
//
// Peers is for the first start. Afterwards the members of the cluster, and their
// addresses, are those of the replicated configuration, and [Status] names the
// entries of Peers that differ. [Backend.Membership] changes the members, from any
// member, while locks are held:
//
//	err := b.Membership().AddVoter(ctx, "d", "10.0.0.4:7001")
//
// The node d runs already, with an empty directory and with at least one member in
// its Peers. It gets its vote once it has caught up. Remove removes a node, Move
// changes the address of one, and Transfer gives the lead to another one. One
// change is made at a time, and none that would lose the quorum. A node that was
// removed ends its part in Raft and says so in its Status; it joins with a new life
// if it is added again. docs/operations.md has the steps for adding, removing,
// replacing, renaming and moving a node.
//
// # Recovery and backup
//
// A cluster that has lost its quorum stays as it is until a majority of its nodes
// is back. If their data are gone for good, [Recover] makes one node that still
// has its data the only voter of a new incarnation, which the others join.
// [PlanRecovery] reports before which writes may be lost. [Backend.Backup] writes
// the whole state to a stream, and [Restore] begins a new cluster with it.
//
// Both begin another incarnation. Keys keep their revisions, and the revisions
// and fencing tokens that follow lie above all that the earlier incarnation can
// have handed out. No lease can be renewed any more, and a lock stays taken until
// its lease has ended. No command of an earlier client is applied.
//
// The old nodes must not run again with their data. A majority of the old voters
// that does not reach the new incarnation elects a leader, and there are two
// clusters then. The library finds that out where nodes of the two reach each
// other, and cannot prevent it. docs/operations.md has the steps.
//
// # Clients
//
// A program that is no node uses the nodes as a client, without a data directory:
//
//	c, err := raftstore.NewClient(raftstore.ClientConfig{
//		Endpoints: []string{"10.0.0.1:7001", "10.0.0.2:7001", "10.0.0.3:7001"}, Root: "pg/main",
//		TLS: &raftstore.TLS{CertFile: "client.pem", KeyFile: "client.key", CAFile: "ca.pem"},
//	})
//
// or, by URL, dcs.Open(ctx, "raft://10.0.0.1,10.0.0.2,10.0.0.3/pg/main?tls_cert=…").
// Open asks the nodes one question; with wait=true it waits for nodes that do not
// answer yet.
//
// A client has one connection to each node and prefers the one that leads. When
// that node is silent, refuses or is far away, it uses another one, which passes
// its calls on to the leader, once. A node that knows no leader says so before the
// attempt is over, and is left as soon as another one serves. The client learns
// the addresses of all nodes from them (ClientConfig.NoDiscovery), and keeps those
// that it was given. It knows the incarnation of the cluster after the first
// connection and refuses nodes of another one with ErrUnauthorized.
//
// All Waits of a client are served from a tree in memory that one stream from
// one node keeps up to date. The node says in that stream that it is in touch with
// a quorum, at least once a second, and the client goes to another node when that
// is missing. A renewal takes one round trip, as on a node that does not lead,
// because the client asks a voter for its term while the leader works on the
// request. See
// docs/decisions/0021-clients-without-a-data-directory.md.
//
// # What it guarantees
//
// Everything the contract of package dcs asks for, served by every node and every
// client whichever node leads, and in particular:
//
//   - Get and Snapshot are linearizable: the leader shows, by asking the other
//     voters after the call came, that nobody was elected after it (P2).
//   - A lease's TTL counts from before the renewal was sent. A new leader
//     confirms nothing before an entry of its own term is applied, and then
//     extends every lease (P21, P22): a change of leader ends no lease early
//     and may make one last longer by an election and a TTL.
//   - A renewal writes to no disk. While the quorum's disks stall, what is held
//     stays held.
//   - A Commit is applied at most once, whatever was sent again (P15). One that
//     stays unclear is cancelled by an entry of the log, which is a definite
//     no, or ErrAmbiguous, to be settled with [Backend.Settle]; what callers
//     give up is settled in the background.
//   - Wait is served from this node's own state. A commit reaches the other
//     nodes with a message of its own, at once; one probe of constant size per
//     min(2.5 s, RetryTimeout/4), shared by all Waits, shows that the store
//     lives and that this node keeps up.
//
// Revisions are indexes of the log: they rise with every entry, so that two
// snapshots of equal content may carry different ones. A key moves to another
// lease and keeps its Created (Caps.Rebind).
//
// # Limits
//
// A value has at most 1 MiB, a Txn 128 conditions and writes and 1 MiB and 64
// KiB of keys and values, a lease 24 hours. Everything is held in memory, on
// every node. The shortest lease is Config.MinTTL: a shorter one would not live
// through a change of the Raft leader, which takes about twice the heartbeat
// timeout. A lease that is not renewed ends TTL x 1.01 + 50 ms after its last
// renewal by the leader's clock, plus the time that one log entry takes;
// Renewal.Expiry says so with 200 ms for that entry.
//
// # Network
//
// A connection is unproven until its TLS handshake and its hello are through.
// At most an eighth of the process's descriptors, within 8 and 128, are
// unproven connections, at most half of them from one IPv4 address or IPv6 /64
// network. Each may send 64 KiB and must be through within the time of a dial
// (Config.HeartbeatTimeout). Beyond that, the connection that has been silent
// for the longest time is closed at once, or the new one if all have sent
// something. The address at which a node of Peers was last proven to be has
// places of its own. Handshakes compute on half of the processors at most, and
// those from such addresses on the other half.
//
// A node of the cluster may have 16 established connections, 4096 calls in work
// and 32 MiB of their requests. A further connection closes the one that has been
// silent for the longest time. Nodes that are not in Peers share one such
// allowance, and are refused above it. A request is at most as large as the largest Txn and 68 KiB, a reply
// 8 MiB and 4 KiB. Raft's messages have 64 entries and 2 MiB and 64 KiB at most,
// or 64 KiB if they carry no entries, and must arrive within two election
// timeouts (1 s at least) once they have begun; a snapshot has at most 4 GiB, and
// the same time for each 256 KiB. They must name their sender as its hello did.
// Memory is taken as the bytes arrive. What one node sends takes at most 200 MiB
// of the heap, garbage included. Replies of more than 64 KiB that one node has not
// read are 32 MiB at most.
//
// Clients have limits of their own: 4096 connections within half of the
// descriptors, 1024 calls and 8 MiB of requests for one client in work, and 64 MiB
// of requests and as much of replies and changes for all that have not read them.
//
// # Certificates
//
// With TLS, the certificate of a node must be valid for the host of its address,
// the one in the replicated configuration or the one in Peers, or for its name in
// TLS.Names. A node that cannot prove its name is refused in both directions. A
// node that is no member may ask a member how to join, and nothing else. A node
// can pass for every node for whose name its certificate is valid: issue one for
// each node, with that node's name only. After a Move, remove the old address from
// Peers, because a certificate for its host passes until then.
//
// The certificate of a client needs no name. Issue it for client use only: on the
// connections between nodes a certificate must be for server use, too, so that it
// never proves a node. Without TLS nothing is proven, and everyone who reaches the
// port may act as any node.
//
// # Versions
//
// Log entries, snapshots, calls between nodes and the data directory bear a
// version. A node that meets a newer one stops and says what to do.
//
// Nodes of two releases run together while one node after the other is
// upgraded. The replicated state has a feature level, which says what every node
// understands, and the leader refuses commands above it. It raises the level
// when every server of the cluster has said that it understands the next one.
// From then on an older release stops when it is started again.
package raftstore
