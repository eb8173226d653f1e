package raftstore

import (
	"context"
	"sync"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// tapState is what a client's requests meet.
type tapState struct {
	conformance.Tap

	mu     sync.Mutex
	count  bool
	copies map[context.Context]conformance.Fate // of the requests under way, by their attempt
}

// listen puts the suite's tap on every node while any client looks on.
func (s *suite) listen(more int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.tapped
	s.tapped += more
	for _, b := range s.tc.node {
		switch {
		case before == 0 && s.tapped > 0:
			b.node.setTap(func(ctx context.Context, e tapEvent) bool { return tap(b.node, ctx, e) })
		case s.tapped == 0:
			b.node.setTap(nil)
		}
	}
}

// requests counts, from the first time it is asked.
func requests(b dcs.Backend) int64 {
	c := b.(*suiteClient)
	c.taps.mu.Lock()
	defer c.taps.mu.Unlock()
	if !c.taps.count {
		c.taps.count = true
		c.suite.listen(1)
	}
	return c.taps.Requests()
}

func inject(b dcs.Backend, f conformance.Fault) (lift func()) {
	c := b.(*suiteClient)
	end := c.taps.Inject(f)
	c.suite.listen(1)
	return func() {
		end()
		c.suite.listen(-1)
	}
}

// tap is one message of a node: whoever's it is decides.
func tap(n *node, ctx context.Context, e tapEvent) bool {
	c, ok := ctx.Value(clientOf{}).(*suiteClient)
	if !ok || e.op == opQuestion {
		return true
	}
	if e.answered {
		f := c.taps.done(ctx)
		return !f.LoseAnswer && f.AwaitAnswer(ctx) == nil
	}
	f := c.taps.judge(ctx, describe(e.op, e.body))
	if f.LoseRequest {
		return false
	}
	if f.AwaitRequest(ctx) != nil {
		// Its sender gave it up; it arrives all the same.
		go arriveLate(n, e, f) //nolint:gosec // G118: it is to outlive its sender
		return false
	}
	if f.Repeat {
		_, _ = n.net.Call(ctx, e.addr, e.op, e.body)
	}
	return true
}

func arriveLate(n *node, e tapEvent, f conformance.Fate) {
	_ = f.AwaitRequest(context.Background()) // which never ends
	ctx, cancel := context.WithTimeout(context.Background(), suiteTiming.RetryTimeout)
	defer cancel()
	_, _ = n.net.Call(ctx, e.addr, e.op, e.body)
}

// judge decides on a copy that is about to be sent.
func (t *tapState) judge(ctx context.Context, r conformance.Request) conformance.Fate {
	f := t.Judge(r)
	if !f.TouchesAnswer() {
		return f
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.copies == nil {
		t.copies = map[context.Context]conformance.Fate{}
	}
	t.copies[ctx] = f
	return f
}

// done returns the fate of a copy that is answered.
func (t *tapState) done(ctx context.Context) conformance.Fate {
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
