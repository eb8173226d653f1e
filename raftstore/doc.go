// Package raftstore implements a store that runs inside the programs that use it.
// Each process is one node of a Raft cluster (hashicorp/raft), so that no server
// has to be installed. A single node serves one machine. A cluster of three nodes
// survives the loss of one, and a cluster of five the loss of two.
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
// For the first start, and only then, all nodes of Peers must run at the same time.
// No node votes until each of them has been seen without data. Until then calls
// fail with an error that names the missing nodes. [New] returns once the node runs
// and does not wait for a leader. The first call waits for one, within its budget.
// New fails at once if the settings, the port or the directory cannot be used.
//
// # A node that lost its data
//
// A node that lost its data must not vote as if it had never acknowledged anything.
// Therefore the data of a node have an identifier, their life, which the directory
// records. To the other nodes, a node with an empty directory is another server,
// without a vote. It joins by itself. A leader that the others elected adds the new
// life without a vote, moves the vote of the lost life to it when it has caught up,
// and removes the lost one. The same holds for a node whose directory records more
// entries than it has. After the leader has admitted the new life, the node moves
// its old data to a directory lost-LIFE in Dir.
//
// A node whose data are damaged refuses to start and names the file. A node that
// was replaced by another life refuses too. Config.Rejoin lets either join as if
// its directory were empty.
//
// Do not put back an older copy of a directory, because it lacks the entries that
// were acknowledged since. A node asks the others before it votes. If one answers
// that knows of newer entries, the node joins again. If none of them answers, the
// loss is not detected.
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
// changes the address of one, and Transfer moves the leadership to another one. One
// change is made at a time, and a change that would lose the quorum is refused. A
// removed node ends its part in Raft and reports that in its Status. It joins with
// a new life if it is added again. docs/operations.md has the steps for adding,
// removing, replacing, renaming and moving a node.
//
// # Recovery and backup
//
// A cluster that has lost its quorum stays as it is until a majority of its nodes
// is back. If their data are permanently lost, [Recover] makes one node that still
// has its data the only voter of a new incarnation, which the others join.
// [PlanRecovery] reports beforehand which writes may be lost. [Backend.Backup] writes
// the whole state to a stream, and [Restore] begins a new cluster with it.
//
// Both begin another incarnation. Keys keep their revisions. All later revisions
// and fencing tokens are higher than any that the earlier incarnation can have
// handed out. No lease can be renewed any more, and a lock stays taken until its
// lease has ended. No command of an earlier client is applied.
//
// The old nodes must not run again with their data. A majority of the old voters
// that does not reach the new incarnation elects a leader, and there are two
// clusters then. The library detects that if nodes of the two reach each other, but
// cannot prevent it. docs/operations.md has the steps.
//
// # Clients
//
// A program that is not a node connects to the nodes as a client, without a data
// directory:
//
//	c, err := raftstore.NewClient(raftstore.ClientConfig{
//		Endpoints: []string{"10.0.0.1:7001", "10.0.0.2:7001", "10.0.0.3:7001"}, Root: "pg/main",
//		TLS: &raftstore.TLS{CertFile: "client.pem", KeyFile: "client.key", CAFile: "ca.pem"},
//	})
//
// or, by URL, dcs.Open(ctx, "raft://10.0.0.1,10.0.0.2,10.0.0.3/pg/main?tls_cert=…").
// Open sends one request to the nodes. With wait=true it waits for nodes that do
// not answer yet.
//
// A client has one connection to each node and prefers the leader. If the leader is
// silent, refuses calls or is far away, the client uses another node, which forwards
// each call to the leader, once. A node that knows no leader reports that before the
// attempt times out, and the client leaves it as soon as another node serves. The
// client learns the addresses of all nodes from the nodes (unless
// ClientConfig.NoDiscovery is set) and keeps the addresses that it was given. It
// knows the incarnation of the cluster after the first connection and refuses nodes
// of another one with ErrUnauthorized.
//
// All Waits of a client are served from a tree in memory that one stream from one
// node keeps up to date. At least once a second the node confirms in that stream
// that it is in contact with a quorum. The client changes to another node when these
// confirmations stop. A renewal takes one round trip, as on a follower, because the
// client asks a voter for its term while the leader works on the request. See
// docs/decisions/0021-clients-without-a-data-directory.md.
//
// # Guarantees
//
// The store fulfils the contract of package dcs. Every node and every client serves
// every call, whichever node leads. In particular:
//
//   - Get and Snapshot are linearizable. The leader asks the other voters after the
//     call has arrived, and their answers prove that no newer leader had been elected
//     by then (P2).
//   - A lease's TTL counts from before the renewal was sent. A new leader confirms
//     nothing before an entry of its own term is applied, and then extends every
//     lease (P21, P22). So a change of leader ends no lease early, and may make one
//     last longer by an election and a TTL.
//   - A renewal writes to no disk. Leases stay live while the quorum's disks stall.
//   - A Commit is applied at most once, however often it is sent (P15). If its
//     outcome is unknown, the store cancels it with an entry of the log, after which
//     it is either known to have been applied or will never be. If that entry cannot
//     be committed in time, the error is ErrAmbiguous, and the caller may call
//     [Backend.Settle]. Commits that callers give up are settled in the background.
//   - Wait is served from this node's own state. The leader notifies the other nodes
//     of each commit at once. All Waits share one probe of constant size per
//     min(2.5 s, RetryTimeout/4), which shows that the store answers and that this
//     node keeps up.
//
// Revisions are indexes of the log. They rise with every entry, so that two
// snapshots of equal content may have different revisions. A key that moves to
// another lease keeps its Created (Caps.Rebind).
//
// # Limits
//
// A value has at most 1 MiB, a Txn 128 conditions and writes and 1 MiB and 64
// KiB of keys and values, a lease 24 hours. Everything is held in memory, on
// every node. The shortest lease is Config.MinTTL: a shorter one would not live
// through a change of the Raft leader, which takes about twice the heartbeat
// timeout. A lease that is not renewed ends TTL x 1.01 + 50 ms after its last
// renewal by the leader's clock, plus the time that one log entry takes.
// Renewal.Expiry allows 200 ms for that entry.
//
// # Network
//
// A connection is unproven until its TLS handshake and its hello are complete. At
// most an eighth of the process's descriptors, within 8 and 128, are unproven
// connections, at most half of them from one IPv4 address or IPv6 /64 network. Each
// may send 64 KiB and must be proven within the time of a dial
// (Config.HeartbeatTimeout). Above these limits, the connection that has been silent
// for the longest time is closed at once, or the new one if all have sent something.
// Separate places are reserved for the address at which a node of Peers was last
// proven to be. Handshakes compute on half of the processors at most, and those from
// such addresses on the other half.
//
// A node of the cluster may have 16 established connections, 4096 calls in progress
// and 32 MiB of their requests. A further connection closes the one that has been
// silent for the longest time. Nodes that are not in Peers share one such allowance,
// and are refused above it. A request is at most as large as the largest Txn and
// 68 KiB, a reply 8 MiB and 4 KiB. Raft's messages have 64 entries and 2 MiB and
// 64 KiB at most, or 64 KiB if they carry no entries. Once begun, they must arrive
// within two election timeouts (1 s at least). A snapshot has at most 4 GiB, and the
// same time for each 256 KiB. Messages must name their sender as its hello did.
// Memory is allocated as the bytes arrive. The data that one node sends take at most
// 200 MiB of the heap, garbage included. Replies of more than 64 KiB that one node
// has not read are 32 MiB at most.
//
// Clients have limits of their own: 4096 connections within half of the descriptors,
// 1024 calls and 8 MiB of requests in progress for one client, and for all clients
// together 64 MiB of requests and as much of replies and changes that they have not
// read.
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
// never proves a node. Without TLS nothing is proven, and any process that reaches
// the port can act as any node.
//
// # Versions
//
// Log entries, snapshots, calls between nodes and the data directory bear a version.
// A node that reads a newer one stops with an error that names the remedy.
//
// Nodes of two releases run together while one node after the other is
// upgraded. The replicated state has a feature level that every node understands.
// The leader refuses commands above it, and raises it when every server of the
// cluster has reported that it understands the next one. From then on an older
// release stops when it is started again.
package raftstore
