package raftstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// member is a node's part in Raft. It is one instance of Raft with its log, its
// transport and the goroutines around it. A node may end one and start another.
type member struct {
	node *node
	id   raft.ServerID
	raft *raft.Raft
	stores
	trans     *transport.RaftTransport
	addresses *addressChanges
	peers     raft.Transport // trans in its wrappers

	life    context.Context //nolint:containedctx // it is the member's end
	end     context.CancelFunc
	undo    closers
	running sync.WaitGroup
	hung    bool // Raft did not end; set by stop

	stopping sync.Once
	stopped  error

	probing sync.Mutex
	probe   chan struct{} // closed when the write of diskWorks ends; nil without one

	applied atomic.Pointer[configuration] // the newest configuration that was applied
	voters  voterCache
	notices notices
	batch   chan struct{} // something was applied
}

// startMember opens the log and starts Raft on it. On an error nothing is left
// open.
func (n *node) startMember() (err error) {
	m := &member{node: n, id: n.net.ServerID(), batch: make(chan struct{}, 1)}
	m.life, m.end = context.WithCancel(n.life)
	m.notices.m = m
	defer func() {
		if err != nil {
			m.end()
			err = errors.Join(err, m.undo.run())
		}
	}()
	n.state.Reset()
	n.state.OnConfiguration = m.noteConfiguration
	if err := m.openStores(); err != nil {
		return err
	}
	changes := make(chan bool, 16)
	if err := m.startRaft(changes); err != nil {
		return err
	}
	n.lead.gather = m.gather
	n.lead.levels = m.leastLevel
	n.part.Store(m)
	m.startLoops(changes)
	return nil
}

func (m *member) unlessHung(f func() error) func() error {
	return func() error {
		if m.hung {
			return nil
		}
		return f()
	}
}

// stopMember ends this node's part in Raft, if it has one. It is bounded. The member
// remains available for its last state.
func (n *node) stopMember() error {
	if m := n.member(); m != nil {
		return m.stop()
	}
	return nil
}

func (m *member) stop() error {
	m.stopping.Do(func() {
		m.end()
		m.stopped = m.undo.run()
	})
	return m.stopped
}

// restart requests that Raft be started again on the stored data.
func (m *member) restart() {
	select {
	case m.node.again <- m:
	default: // another request of this member is waiting
	}
}

// restarts starts Raft again when a member requests it, until the node ends.
func (n *node) restarts() {
	for {
		select {
		case m := <-n.again:
			if err := n.startAgain(m); err != nil {
				n.health.permanent(fmt.Errorf("cannot start Raft again: %w", err))
			}
		case <-n.life.Done():
			return
		}
	}
}

func (n *node) startAgain(m *member) error {
	n.changing.Lock()
	defer n.changing.Unlock()
	if n.life.Err() != nil || n.member() != m {
		return nil
	}
	n.log.Info("restarting Raft: a snapshot replaced a longer log")
	err := m.stop()
	if err == nil {
		err = n.startMember()
	}
	if n.life.Err() != nil {
		return n.stopMember()
	}
	return err
}

// hasStored answers a request to install a snapshot whose last entry this node has
// already. To install it would remove later entries, which may have been
// acknowledged. Raft sends such a snapshot if an earlier answer was lost.
func (m *member) hasStored(req *raft.InstallSnapshotRequest) *raft.InstallSnapshotResponse {
	var e raft.Log
	index, _ := m.newestSnapshot()
	if index < req.LastLogIndex && (m.log.Get(req.LastLogIndex, &e) != nil || e.Term != req.LastLogTerm) {
		return nil
	}
	return &raft.InstallSnapshotResponse{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(m.id)},
		Term:      m.store.storedVote().Term, Success: true,
	}
}

// startRaft starts Raft on the store.
func (m *member) startRaft(changes chan<- bool) error {
	n := m.node
	c := n.config
	m.trans = &transport.RaftTransport{Ready: m.store.start, NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider: n.net,
		Logger:                n.hlog.Named("transport"),
		Stream:                n.net.OpenRaft(),
		MaxPool:               3,
		// No pipeline: AppendEntries returns with each acknowledgement, and one
		// refusal in a pipeline can block it for ever (hashicorp/raft 612).
		MaxRPCsInFlight: 1,
		Timeout:         max(2*c.ElectionTimeout, time.Second),
	})}
	m.trans.Stored = m.hasStored
	m.undo.add(m.trans.Close)
	m.addresses = newAddressChanges(newPatientTransport(m.life, m.trans, c.HeartbeatTimeout/2, m.wants))
	m.peers = n.hooks.transport(m.addresses)
	rc := m.raftConfig(changes)
	n.hooks.adjust(rc)
	cache, err := raft.NewLogCache(cachedEntries, m.store)
	if err != nil {
		return err
	}
	m.raft, err = newRaft(rc, n.state, cache, m.store, m.snaps, m.peers)
	if err != nil {
		if unreadable := n.state.Unreadable(); unreadable != nil {
			err = unreadable
		}
		return openError(dcs.ErrUnavailable, "%w", &disk.RejoinError{Dir: n.dir.path, Err: fmt.Errorf("%s: the data cannot be used: %w", n.dir.path, err)})
	}
	return nil
}

// newRaft is raft.NewRaft with panics as errors. It reads the stored data.
func newRaft(c *raft.Config, f raft.FSM, logs raft.LogStore, stable raft.StableStore, snaps raft.SnapshotStore, t raft.Transport) (r *raft.Raft, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("Raft cannot start on the stored data: %v", p)
		}
	}()
	return raft.NewRaft(c, f, logs, stable, snaps, t)
}

// wants reports whether this member leads in that term, with that server in its
// configuration.
func (m *member) wants(id raft.ServerID, term uint64) bool {
	return m.leadsIn(term) && slices.ContainsFunc(m.servers(), func(s raft.Server) bool { return s.ID == id })
}

func (m *member) raftConfig(changes chan<- bool) *raft.Config {
	c := m.node.config
	rc := raft.DefaultConfig()
	rc.LocalID = m.id
	rc.HeartbeatTimeout = c.HeartbeatTimeout
	rc.ElectionTimeout = c.ElectionTimeout
	// As long as Raft allows, because a leader that steps down before the others
	// would elect only loses time. Confirmations depend on the quorumCheck, not on
	// this.
	rc.LeaderLeaseTimeout = c.HeartbeatTimeout
	rc.CommitTimeout = commitTimeout
	rc.MaxAppendEntries = appendBatch
	// Proposals queue up while the disk writes, and share the next write. No caller
	// waits for a future that Raft might drop with the queue.
	rc.BatchApplyCh = true
	rc.SnapshotThreshold = c.SnapshotThreshold
	rc.SnapshotInterval = c.SnapshotInterval
	rc.TrailingLogs = 1 // the log keeps more; see keptEntries
	rc.ShutdownOnRemove = false
	rc.NotifyCh = changes
	rc.Logger = m.node.hlog
	rc.NoLegacyTelemetry = true
	return rc
}

// startLoops starts the goroutines around Raft. They end with the member's life. The
// watch ends only after Raft, because Raft would block on a channel without a reader.
func (m *member) startLoops(changes <-chan bool) {
	watched := make(chan struct{})
	stopWatch := make(chan struct{})
	go func() {
		defer close(watched)
		m.watch(changes, stopWatch)
	}()
	m.undo.add(func() error {
		err := m.stopRaft()
		close(stopWatch)
		<-watched
		m.node.lead.close()
		m.notices.close()
		m.running.Wait()
		return err
	})
	m.running.Go(m.send)
	m.running.Go(m.follow)
	m.running.Go(m.snapshotByBytes)
	m.running.Go(m.watchMembers)
	m.node.state.OnBatch(func(index, term uint64) {
		m.notices.applied(index, term)
		m.wakeWatch()
	})
}

// stopRaft ends Raft. It is bounded, because Raft's goroutines can hang in the disk.
func (m *member) stopRaft() error {
	stopped := m.raft.Shutdown()
	m.store.close()        // ends the goroutines that wait for the disk
	err := m.trans.Close() // ends the goroutines that wait for other nodes
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = stopped.Error() // it is always nil, and comes when Raft has ended
		m.trans.Drain()
	}()
	timer := time.NewTimer(shutdownBound)
	defer timer.Stop()
	select {
	case <-done:
		return err
	case <-timer.C:
		m.hung = true
		return errors.Join(err, errHung)
	}
}

// errHung reports that Raft did not end, because a thread of it hangs in the kernel.
var errHung = errors.New("a write to the disk did not return: the goroutine of the write still runs")

// watch receives every change of the leadership from Raft. It must never block,
// because Raft's main loop waits for it.
func (m *member) watch(changes <-chan bool, stop <-chan struct{}) {
	for {
		select {
		case <-changes:
			m.node.turn()
		case <-stop:
			return
		}
	}
}

// leading returns the term in which this member leads, or 0. Raft leaves the state of
// a leader before it enters a newer term, so that the state of a leader between two
// reads of the same term belongs to that term.
func (m *member) leading() uint64 {
	for {
		term := m.raft.CurrentTerm()
		if m.raft.State() != raft.Leader {
			return 0
		}
		if m.raft.CurrentTerm() == term {
			return term
		}
	}
}

// leading returns the term in which this node leads, or 0. A node that stepped out
// leads in none, even if Raft still leads.
func (n *node) leading() uint64 {
	if m := n.member(); m != nil && !n.health.hasSteppedOut() {
		return m.leading()
	}
	return 0
}

// leads reports whether this node leads in exactly that term.
func (n *node) leads(term uint64) bool {
	m := n.member()
	return m != nil && !n.health.hasSteppedOut() && m.leadsIn(term)
}

func (m *member) leadsIn(term uint64) bool {
	return m.raft.State() == raft.Leader && m.raft.CurrentTerm() == term
}

// send passes proposals to Raft. It is one goroutine, because that call blocks as long
// as Raft's main loop does, and knows no context.
func (m *member) send() {
	for {
		select {
		case p := <-m.node.lead.queue:
			if p.taken.CompareAndSwap(false, true) {
				m.raft.Apply(p.data, 0)
			}
		case <-m.life.Done():
			return
		}
	}
}

// gather makes the quorumCheck of one term.
func (m *member) gather(life context.Context, term uint64) *quorumCheck {
	return &quorumCheck{
		term:         term,
		self:         m.id,
		pause:        m.node.config.HeartbeatTimeout / 8,
		life:         life,
		voters:       m.currentVoters,
		own:          m.raft.CurrentTerm,
		ask:          m.node.askTerm,
		voterPollers: map[raft.ServerID]*voterPoller{},
	}
}

// askTerm puts the question of P2 to another voter.
func (n *node) askTerm(ctx context.Context, addr string) (uint64, error) {
	v, err := n.askVoterState(ctx, addr)
	return v.term, err
}

// askVoterState puts the question of P2 to another server.
func (n *node) askVoterState(ctx context.Context, addr string) (voterState, error) {
	ctx, cancel := context.WithTimeout(ctx, n.questionTime())
	defer cancel()
	return n.askFor(ctx, addr, opQuestion)
}

// questionTime bounds one question of P2.
func (n *node) questionTime() time.Duration {
	return max(n.config.HeartbeatTimeout, 100*time.Millisecond)
}

func (n *node) askFor(ctx context.Context, addr string, op byte) (voterState, error) {
	reply, err := n.calls.Call(ctx, addr, op, nil)
	if err != nil {
		return voterState{}, err
	}
	return decodeVoterState(reply)
}

// servers returns the servers of the latest configuration, which may not be
// committed. Raft never changes a configuration in place.
func (m *member) servers() []raft.Server {
	return m.raft.GetConfiguration().Configuration().Servers
}

// hasVote reports whether the latest configuration has this server as a voter.
func (m *member) hasVote() bool {
	return slices.ContainsFunc(m.servers(), func(s raft.Server) bool { return s.ID == m.id && s.Suffrage == raft.Voter })
}

// lostVote reports whether this node is the only life of its node in the committed
// configuration and has no vote there.
func (m *member) lostVote() bool {
	c, ok := m.settled()
	lives := c.lives(m.node.config.ID)
	return ok && len(lives) == 1 && lives[0].ID == m.id && !isVoter(lives[0])
}

// voterCache caches the voters of the configuration that Raft last returned.
type voterCache struct {
	mu      sync.Mutex
	from    []raft.Server
	version uint64 // of the roster's addresses
	voters  []voter
}

// currentVoters returns the voters of the latest configuration.
func (m *member) currentVoters() []voter {
	servers, version := m.servers(), m.node.roster.version()
	c := &m.voters
	c.mu.Lock()
	defer c.mu.Unlock()
	if sameServers(servers, c.from) && version == c.version {
		return c.voters
	}
	c.from, c.version, c.voters = servers, version, nil
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		c.voters = append(c.voters, voter{id: s.ID, addr: m.addrOf(s)})
	}
	return c.voters
}

// addrOf returns the address at which a server is called.
func (m *member) addrOf(s raft.Server) string {
	if known, err := m.node.net.ServerAddr(s.ID); err == nil {
		return string(known)
	}
	return string(s.Address) // which has the life
}

// sameServers reports whether a and b are the same slice.
func sameServers(a, b []raft.Server) bool {
	return len(a) > 0 && len(a) == len(b) && &a[0] == &b[0]
}
