package raftstore

import (
	"context"
	"sync"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// clientFaults are the faults for a client's requests.
type clientFaults struct {
	conformance.FaultInjector

	mu     sync.Mutex
	count  bool
	copies map[context.Context]conformance.Action // of the requests in progress, by their attempt
}

// listen sets the suite's call hook on every node while any client observes its requests.
func (s *suite) listen(more int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.hooked
	s.hooked += more
	for _, b := range s.tc.node {
		switch {
		case before == 0 && s.hooked > 0:
			b.node.setCallHook(func(ctx context.Context, e callEvent) bool { return hookCall(b.node, ctx, e) })
		case s.hooked == 0:
			b.node.setCallHook(nil)
		}
	}
}

// requests returns the number of requests since it was first called.
func requests(b dcs.Backend) int64 {
	c := b.(*suiteClient)
	c.faults.mu.Lock()
	defer c.faults.mu.Unlock()
	if !c.faults.count {
		c.faults.count = true
		c.suite.listen(1)
	}
	return c.faults.Requests()
}

func inject(b dcs.Backend, f conformance.Fault) (lift func()) {
	c := b.(*suiteClient)
	end := c.faults.Inject(f)
	c.suite.listen(1)
	return func() {
		end()
		c.suite.listen(-1)
	}
}

// hookCall handles one message of a node, with the faults of the client that sent it.
func hookCall(n *node, ctx context.Context, e callEvent) bool {
	c, ok := ctx.Value(clientOf{}).(*suiteClient)
	if !ok || e.op == opQuestion {
		return true
	}
	if e.answered {
		f := c.faults.done(ctx)
		return !f.LoseAnswer && f.AwaitAnswer(ctx) == nil
	}
	f := c.faults.judge(ctx, describe(e.op, e.body))
	if f.LoseRequest {
		return false
	}
	if f.AwaitRequest(ctx) != nil {
		// The sender gave the request up, and it still arrives.
		go arriveLate(n, e, f) //nolint:gosec // G118: it is to outlive its sender
		return false
	}
	if f.Repeat {
		_, _ = n.net.Call(ctx, e.addr, e.op, e.body)
	}
	return true
}

func arriveLate(n *node, e callEvent, f conformance.Action) {
	_ = f.AwaitRequest(context.Background()) // which never ends
	ctx, cancel := context.WithTimeout(context.Background(), suiteTiming.RetryTimeout)
	defer cancel()
	_, _ = n.net.Call(ctx, e.addr, e.op, e.body)
}

// judge decides on a copy that is about to be sent.
func (t *clientFaults) judge(ctx context.Context, r conformance.Request) conformance.Action {
	f := t.Judge(r)
	if !f.TouchesAnswer() {
		return f
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.copies == nil {
		t.copies = map[context.Context]conformance.Action{}
	}
	t.copies[ctx] = f
	return f
}

// done returns the action for a copy that is answered.
func (t *clientFaults) done(ctx context.Context) conformance.Action {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.copies[ctx]
	delete(t.copies, ctx)
	return f
}

// describe names a request as the suite does.
func describe(op byte, body []byte) conformance.Request {
	if op == opVote {
		return conformance.Request{Op: "Vote"}
	}
	r, err := decodeRequest(op, body)
	if err != nil {
		return conformance.Request{Op: err.Error()}
	}
	switch op {
	case opRead:
		if r.single {
			return conformance.Request{Op: "Get", Keys: []string{r.prefix}}
		}
		return conformance.Request{Op: "Snapshot", Keys: []string{r.prefix}}
	case opRenew:
		return conformance.Request{Op: "Renew", Keys: r.keys}
	case opPropose:
		return describeCommand(r.data)
	}
	return conformance.Request{Op: "Probe"}
}

func describeCommand(data []byte) conformance.Request {
	c, err := state.DecodeCommand(data)
	if err != nil {
		return conformance.Request{Op: err.Error()}
	}
	switch c.Kind {
	case state.KindTxn:
		var keys []string
		for _, cond := range c.Txn.If {
			keys = append(keys, cond.Key)
		}
		for _, w := range c.Txn.Then {
			keys = append(keys, w.Key)
		}
		return conformance.Request{Op: "Commit", Keys: keys}
	case state.KindGrant:
		return conformance.Request{Op: "Grant"}
	case state.KindRevoke:
		return conformance.Request{Op: "Revoke"}
	case state.KindCancel:
		return conformance.Request{Op: "Settle"}
	default:
		return conformance.Request{Op: "Mark"}
	}
}
