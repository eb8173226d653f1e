package raftstore

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/logging"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

const (
	// commitTimeout is the longest time after which a follower learns of a commit that
	// no other entry follows. Notices usually bring it sooner.
	commitTimeout = 50 * time.Millisecond
	// appendBatch bounds the entries of one message to a follower, and the proposals
	// that one durable write can serve.
	appendBatch = transport.MaxBatch
	// cachedEntries is the number of the newest entries that stay in memory, so that
	// sending and applying them reads no file.
	cachedEntries = 2 * appendBatch
	// shutdownBound is the time for which close waits for Raft.
	shutdownBound = 2 * time.Second
)

// node is one node of the cluster. It has the directory, the network, the replicated
// state, and the part in Raft while there is one.
type node struct {
	config        Config
	hooks         hooks
	log           *slog.Logger
	hlog          *logging.HCLogger
	dir           *dataDir
	net           *transport.Network
	calls         caller // net, as hooks wrapped it
	state         *state.FSM
	feed          *feed
	health        *health
	lead          *leadership
	leaderWatch   *leaderWatch
	boot          uint64 // of this process, random
	participation participation
	roster        roster
	reconfigurer  *reconfigurer
	part          atomic.Pointer[member]
	again         chan *member // whose Raft is to be started again
	// changing is held while a running member is ended or started again.
	changing sync.Mutex
	asked    atomic.Uint32 // counts the voters that target named

	elections     atomic.Uint64 // in which this node was a candidate
	leaderChanges atomic.Uint64 // that this node has seen

	life    context.Context //nolint:containedctx // it is the node's end
	end     context.CancelFunc
	undo    closers
	running sync.WaitGroup
	hung    atomic.Bool // close gave up waiting for them
	closing sync.Once
	closed  error
}

// member returns this node's part in Raft, or nil while it has none. A node without a
// part answers no question of a leader, votes for no candidate and does not lead.
func (n *node) member() *member { return n.part.Load() }

// closers are the steps that close the opened parts.
type closers []func() error

func (c *closers) add(f func() error) { *c = append(*c, f) }

// run takes the steps, the newest first.
func (c *closers) run() error {
	var errs []error
	for i := len(*c) - 1; i >= 0; i-- {
		errs = append(errs, (*c)[i]())
	}
	*c = nil
	return errors.Join(errs...)
}

// startNode opens the parts of the node and joins the cluster. It does not wait for a
// leader. On an error nothing is left open.
func startNode(c Config, h hooks) (_ *node, err error) {
	if c, err = c.check(); err != nil {
		return nil, err
	}
	n := &node{config: c, hooks: h, log: logging.Quiet(c.Logger), state: state.New(), leaderWatch: newLeaderWatch(), boot: rand.Uint64(), participation: newParticipation(), again: make(chan *member, 1)} //nolint:gosec // G404: no secret
	n.hlog = logging.NewHCLogger(n.log)
	n.health = newHealth(n.reportHealth)
	n.roster.peers = c.Peers
	n.life, n.end = context.WithCancel(context.Background())
	context.AfterFunc(n.life, n.leaderWatch.shut)
	defer func() {
		if err != nil {
			n.end()
			err = errors.Join(err, n.undo.run())
		}
	}()
	if n.dir, err = openDir(c, h, n.hlog); err != nil {
		return nil, err
	}
	n.undo.add(n.unlessHung(n.dir.close))
	if n.net, err = transport.New(c.connections()); err != nil {
		return nil, connectionError(err)
	}
	n.undo.add(n.net.Close)
	n.roster.servers = n.dir.servers
	n.net.UseNodes(n.addrs)
	n.calls = h.calls(n.net)
	n.reconfigurer = newReconfigurer(n)
	n.lead = newLeadership(n.life, n.state)
	n.lead.clock = leaderClock
	n.lead.leads = n.leads
	n.lead.serve = n.reconfigurer.serve
	n.state.OnBroken = n.broken
	n.feed = newFeed(n.state.Tree())
	n.state.OnChange = n.feed.changed
	n.undo.add(n.stopMember)
	if err := n.begin(); err != nil {
		return nil, err
	}
	n.net.Serve(n.answer)
	n.net.ServeSetup(n.serveSetup)
	n.running.Go(n.takePart)
	n.running.Go(n.watchHealth)
	n.running.Go(n.restarts)
	return n, nil
}

// unlessHung skips a step of closing if a write hangs in the kernel. The step would
// hang too, or give another process access to files that may still change.
func (n *node) unlessHung(f func() error) func() error {
	return func() error {
		if n.hung.Load() {
			return errHung
		}
		if m := n.member(); m != nil && m.hung {
			return nil // stop has reported it
		}
		return f()
	}
}

// broken ends this node's part in the cluster. Its state cannot follow the log any
// further, and the others must not rely on it.
func (n *node) broken(err error) {
	n.health.permanent(err)
	n.net.Gate(transport.KindRaft, err)
}

// status returns this node's view of itself and of the cluster.
func (n *node) status() Status {
	return newStatus(n)
}

// clockStart is the zero of every leadership's clock.
var clockStart = time.Now() //nolint:forbidigo // only its monotonic reading is used

// leaderClock is a clock that stands still while the machine sleeps, and never runs
// ahead. A leader may end a lease late, but must not end it early.
func leaderClock() time.Duration { return time.Since(clockStart) }
