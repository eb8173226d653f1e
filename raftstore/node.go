package raftstore

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

const (
	// commitTimeout is how long a follower at most waits for word of the last
	// commit when no other entry follows it; notices usually bring it sooner.
	commitTimeout = 50 * time.Millisecond
	// appendBatch bounds the entries of one message to a follower, and how
	// many proposals one durable write can serve.
	appendBatch = 64
	// keptEntries is what stays in the log after a snapshot, so that a node
	// which was away for a moment needs no snapshot.
	keptEntries = 10240
	// cachedEntries is how many of the newest entries stay in memory, so that
	// sending and applying them reads no file.
	cachedEntries = 2 * appendBatch
	// keptSnapshots is how many snapshots stay on disk.
	keptSnapshots = 2
	// shutdownBound is how long close waits for Raft.
	shutdownBound = 2 * time.Second
)

// wiring is what a node is built from; tests replace parts of it.
type wiring struct {
	files     fileSystem
	transport func(raft.Transport) raft.Transport
	logs      func(raft.LogStore) raft.LogStore
	adjust    func(*raft.Config)
}

func defaultWiring() wiring {
	return wiring{
		files:     osFiles{},
		transport: func(t raft.Transport) raft.Transport { return t },
		logs:      func(l raft.LogStore) raft.LogStore { return l },
		adjust:    func(*raft.Config) {},
	}
}

// node is one member of the cluster: Raft, its log, the replicated state and
// the network, put together.
type node struct {
	config Config
	id     raft.ServerID
	log    *slog.Logger
	dir    *dataDir
	net    *network
	store  *logStore
	state  *state.FSM
	lead   *leadership
	route  *route
	raft   *raft.Raft
	trans  *raftTransport
	peers  raft.Transport // trans, or what a test made of it

	life    context.Context //nolint:containedctx // it is the node's end
	end     context.CancelFunc
	cleanup []func() error
	running sync.WaitGroup
	closing sync.Once
	stuck   bool // Raft did not end; set and read by close only
	closed  error

	voters  voterCache
	notices notices
}

// startNode opens everything and joins the cluster. It does not wait for a
// leader. On an error nothing is left open.
func startNode(c Config, w wiring) (_ *node, err error) {
	if c, err = c.check(); err != nil {
		return nil, err
	}
	n := &node{config: c, id: raft.ServerID(c.ID), log: quietLogger(c.Logger), state: state.New()}
	n.life, n.end = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			n.end()
			err = errors.Join(err, n.unwind())
		}
	}()
	if n.dir, err = openDir(c, w.files); err != nil {
		return nil, err
	}
	n.undo(n.unlessStuck(n.dir.close))
	if n.net, err = newNetwork(c); err != nil {
		return nil, err
	}
	n.undo(n.net.close)
	hlog := newHCLogger(n.log)
	if n.store, err = openLogStore(n.dir, hlog); err != nil {
		return nil, err
	}
	n.undo(n.unlessStuck(n.store.Close))
	if err := n.startRaft(hlog, w); err != nil {
		return nil, err
	}
	n.net.serve(n.answer)
	return n, nil
}

// unlessStuck leaves a step of closing out when a write hangs in the kernel: the
// step would hang too, or let another process at files that may still change.
func (n *node) unlessStuck(f func() error) func() error {
	return func() error {
		if n.stuck {
			return nil
		}
		return f()
	}
}

func (n *node) undo(f func() error) { n.cleanup = append(n.cleanup, f) }

// unwind closes what was opened, the newest first.
func (n *node) unwind() error {
	var errs []error
	for i := len(n.cleanup) - 1; i >= 0; i-- {
		errs = append(errs, n.cleanup[i]())
	}
	n.cleanup = nil
	return errors.Join(errs...)
}

// startRaft starts Raft and the goroutines that serve it.
func (n *node) startRaft(hlog *hcLogger, w wiring) error {
	c := n.config
	n.trans = &raftTransport{NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider: n.net,
		Logger:                hlog.Named("transport"),
		Stream:                n.net.raftLayer(),
		MaxPool:               3,
		Timeout:               max(2*c.ElectionTimeout, time.Second),
	})}
	n.undo(n.trans.Close)
	n.peers = w.transport(n.trans)
	snaps, err := raft.NewFileSnapshotStoreWithLogger(n.dir.snapsDir(), keptSnapshots, hlog.Named("snapshots"))
	if err != nil {
		return openError(dcs.ErrUnavailable, "snapshots in %s: the directory must be readable and writable by this user: %w", n.dir.snapsDir(), err)
	}
	changes := make(chan bool, 16)
	rc := n.raftConfig(hlog, changes)
	w.adjust(rc)
	err = raft.BootstrapCluster(rc, n.store, n.store, snaps, n.peers, n.members())
	if err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
		return openError(dcs.ErrUnavailable, "the first start in %s failed: %w", n.dir.path, err)
	}
	n.lead = newLeadership(n.life, n.state)
	n.route = newRoute()
	n.lead.clock = leaderClock
	n.lead.leads = n.leads
	n.lead.gather = n.gather
	n.state.OnBroken = n.broken
	cache, err := raft.NewLogCache(cachedEntries, w.logs(n.store))
	if err != nil {
		return err
	}
	n.raft, err = raft.NewRaft(rc, n.state, cache, n.store, snaps, n.peers)
	if err != nil {
		if unreadable := n.state.Unreadable(); unreadable != nil {
			err = unreadable
		}
		return openError(dcs.ErrUnavailable, "the data in %s can not be used: restore the directory from a copy of this node, or, if the other nodes are in good health, empty it and let this node join again as new: %w", n.dir.path, err)
	}
	n.undo(n.stopRaft)
	n.startLoops(changes)
	return nil
}

// startLoops starts the goroutines around Raft. They end with the node's life,
// the watch only after Raft, which would block on a channel nobody reads.
func (n *node) startLoops(changes <-chan bool) {
	watched := make(chan struct{})
	stopWatch := make(chan struct{})
	go func() {
		defer close(watched)
		n.watch(changes, stopWatch)
	}()
	n.cleanup[len(n.cleanup)-1] = func() error {
		err := n.stopRaft()
		close(stopWatch)
		<-watched
		n.lead.close()
		n.running.Wait()
		return err
	}
	n.running.Go(n.send)
	n.running.Go(n.follow)
	n.startNotices()
}

func (n *node) raftConfig(hlog *hcLogger, changes chan<- bool) *raft.Config {
	c := n.config
	rc := raft.DefaultConfig()
	rc.LocalID = n.id
	rc.HeartbeatTimeout = c.HeartbeatTimeout
	rc.ElectionTimeout = c.ElectionTimeout
	// As long as Raft allows: a leader that steps down earlier than the others
	// would elect only loses time. What it confirms rests on evidence of ours,
	// not on this.
	rc.LeaderLeaseTimeout = c.HeartbeatTimeout
	rc.CommitTimeout = commitTimeout
	rc.MaxAppendEntries = appendBatch
	// Proposals queue up while the disk writes, and share the next write.
	// Nobody waits for a future that Raft might drop with the queue.
	rc.BatchApplyCh = true
	rc.SnapshotThreshold = c.SnapshotThreshold
	rc.SnapshotInterval = c.SnapshotInterval
	rc.TrailingLogs = min(keptEntries, c.SnapshotThreshold)
	rc.ShutdownOnRemove = false
	rc.NotifyCh = changes
	rc.Logger = hlog
	rc.NoLegacyTelemetry = true
	return rc
}

// members is the membership that every node starts with: the same list on all
// of them, so that it does not matter who writes it first, or how often.
func (n *node) members() raft.Configuration {
	if len(n.config.Peers) == 0 {
		return raft.Configuration{Servers: []raft.Server{{ID: n.id, Address: raft.ServerAddress(n.net.addr())}}}
	}
	var servers []raft.Server
	for _, p := range n.config.Peers {
		servers = append(servers, raft.Server{ID: raft.ServerID(p.ID), Address: raft.ServerAddress(p.Addr)})
	}
	return raft.Configuration{Servers: servers}
}

// watch takes every change of the leadership from Raft, at once and always:
// Raft's main loop waits for it.
func (n *node) watch(changes <-chan bool, stop <-chan struct{}) {
	for {
		select {
		case <-changes:
			n.lead.changed(n.leading())
		case <-stop:
			return
		}
	}
}

// leading returns the term this node leads in, or 0. Raft leaves the leader's
// state before it enters a newer term, so a leader's state between two equal
// terms belongs to that term.
func (n *node) leading() uint64 {
	for {
		term := n.raft.CurrentTerm()
		if n.raft.State() != raft.Leader {
			return 0
		}
		if n.raft.CurrentTerm() == term {
			return term
		}
	}
}

// leads reports whether this node leads in that very term.
func (n *node) leads(term uint64) bool {
	return n.raft.State() == raft.Leader && n.raft.CurrentTerm() == term
}

// send hands proposals to Raft: one goroutine, because that call blocks as
// long as Raft's main loop does, and knows no context.
func (n *node) send() {
	for {
		select {
		case p := <-n.lead.queue:
			if p.taken.CompareAndSwap(false, true) {
				n.raft.Apply(p.data, 0)
			}
		case <-n.life.Done():
			return
		}
	}
}

// gather makes the evidence of one term.
func (n *node) gather(life context.Context, term uint64) *evidence {
	return &evidence{
		term:   term,
		self:   n.id,
		pause:  n.config.HeartbeatTimeout / 8,
		life:   life,
		voters: n.currentVoters,
		own:    n.raft.CurrentTerm,
		ask:    n.askTerm,
		askers: map[raft.ServerID]*asker{},
	}
}

// askTerm puts the question of P2 to another voter.
func (n *node) askTerm(ctx context.Context, addr string) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, max(n.config.HeartbeatTimeout, 100*time.Millisecond))
	defer cancel()
	reply, err := n.net.call(ctx, addr, opQuestion, nil)
	if err != nil {
		return 0, err
	}
	return decodeTerm(reply)
}

// voterCache holds the voters of the configuration that Raft last returned.
type voterCache struct {
	mu     sync.Mutex
	from   []raft.Server
	voters []voter
}

// currentVoters returns the voters of the latest configuration.
func (n *node) currentVoters() []voter {
	servers := n.raft.GetConfiguration().Configuration().Servers
	c := &n.voters
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(servers) > 0 && len(servers) == len(c.from) && &servers[0] == &c.from[0] {
		return c.voters // Raft never changes a configuration in place
	}
	c.from, c.voters = servers, nil
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		addr := string(s.Address)
		if known, err := n.net.ServerAddr(s.ID); err == nil {
			addr = string(known)
		}
		c.voters = append(c.voters, voter{id: s.ID, addr: addr})
	}
	return c.voters
}

// broken ends this node's part in the cluster: its state can go no further,
// and the others must not count on it.
func (n *node) broken(err error) {
	n.log.Error("this node stops: its log holds what this release can not read", "error", err)
	n.net.gate(err)
	n.net.closeConns()
}

// stopRaft ends Raft, within a bound: its goroutines can hang in the disk.
func (n *node) stopRaft() error {
	n.end()
	stopped := n.raft.Shutdown()
	err := n.trans.Close() // ends what waits for other nodes
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = stopped.Error() // it is always nil, and comes when Raft has ended
		n.trans.drain()
	}()
	timer := time.NewTimer(shutdownBound)
	defer timer.Stop()
	select {
	case <-done:
		return err
	case <-timer.C:
		n.stuck = true
		return errors.Join(err, errStuck)
	}
}

// errStuck says that Raft did not end: a thread of it sits in the kernel.
var errStuck = errors.New("a write to the disk did not return; its goroutine is left behind")

// status assembles what this node knows.
func (n *node) status() Status {
	return newStatus(n.config, n.net, n.store, n.raft, n.state.Applied())
}

// clockStart is the zero of every leadership's clock.
var clockStart = time.Now() //nolint:forbidigo // only its monotonic reading is used

// leaderClock is a clock that stands still while the machine sleeps, and never
// runs ahead: when a leader ends a lease, late is safe and early is not.
func leaderClock() time.Duration { return time.Since(clockStart) }
