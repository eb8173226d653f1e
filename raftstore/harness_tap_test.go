package raftstore

import (
	"context"
	"sync"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
)

// tapState is what a client's requests meet.
type tapState struct {
	mu     sync.Mutex
	count  bool
	sent   int64
	active []*tapFault
	copies map[context.Context]*fate // of the requests under way, by their attempt
}

// tapFault is a Fault in force.
type tapFault struct {
	conformance.Fault
	left   int // calls until it ends; < 0: none
	lifted chan struct{}
}

// fate is what becomes of one copy.
type fate struct {
	loseRequest, loseAnswer, repeat bool
	holdRequest, holdAnswer         []<-chan struct{}
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
			b.node.net.setTap(func(ctx context.Context, e tapEvent) bool { return tap(b.node.net, ctx, e) })
		case s.tapped == 0:
			b.node.net.setTap(nil)
		}
	}
}

// requests counts, from the first time it is asked.
func requests(b dcs.Backend) int64 {
	c := b.(*suiteClient)
	s := c.suite
	c.taps.mu.Lock()
	defer c.taps.mu.Unlock()
	if !c.taps.count {
		c.taps.count = true
		s.listen(1)
	}
	return c.taps.sent
}

func inject(b dcs.Backend, f conformance.Fault) (lift func()) {
	c := b.(*suiteClient)
	s := c.suite
	t := &tapFault{Fault: f, left: -1, lifted: make(chan struct{})}
	if f.Times > 0 {
		t.left = f.Times
	}
	c.taps.mu.Lock()
	c.taps.active = append(c.taps.active, t)
	c.taps.mu.Unlock()
	s.listen(1)
	return func() {
		c.taps.mu.Lock()
		for i, a := range c.taps.active {
			if a == t {
				c.taps.active = append(c.taps.active[:i:i], c.taps.active[i+1:]...)
				break
			}
		}
		c.taps.mu.Unlock()
		close(t.lifted)
		s.listen(-1)
	}
}

// tap is one message of a node: whoever's it is decides.
func tap(n *network, ctx context.Context, e tapEvent) bool {
	c, ok := ctx.Value(clientOf{}).(*suiteClient)
	if !ok || e.op == opQuestion {
		return true
	}
	if e.answered {
		f := c.taps.done(ctx)
		if f == nil {
			return true
		}
		return !f.loseAnswer && held(ctx, f.holdAnswer)
	}
	f := c.taps.judge(ctx, describe(e.op, e.body))
	if f.loseRequest {
		return false
	}
	if !held(ctx, f.holdRequest) {
		// Its sender gave it up; it arrives all the same.
		go arriveLate(n, e, f.holdRequest) //nolint:gosec // G118: it is to outlive its sender
		return false
	}
	if f.repeat {
		_, _ = n.roundTrip(ctx, e.addr, e.op, e.body)
	}
	return true
}

// held waits until everything that holds a message is lifted, or its caller
// has gone.
func held(ctx context.Context, by []<-chan struct{}) bool {
	for _, lifted := range by {
		select {
		case <-lifted:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func arriveLate(n *network, e tapEvent, by []<-chan struct{}) {
	for _, lifted := range by {
		<-lifted
	}
	ctx, cancel := context.WithTimeout(context.Background(), suiteTiming.RetryTimeout)
	defer cancel()
	_, _ = n.roundTrip(ctx, e.addr, e.op, e.body)
}

// judge decides on a copy that is about to be sent.
func (t *tapState) judge(ctx context.Context, r conformance.Request) *fate {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent++
	f := &fate{}
	for _, a := range t.active {
		if a.left == 0 || !a.When(r) {
			continue
		}
		a.left--
		switch a.Do {
		case conformance.HoldRequest:
			f.holdRequest = append(f.holdRequest, a.lifted)
		case conformance.HoldAnswer:
			f.holdAnswer = append(f.holdAnswer, a.lifted)
		case conformance.LoseRequest:
			f.loseRequest = true
		case conformance.LoseAnswer:
			f.loseAnswer = true
		case conformance.Repeat:
			f.repeat = true
		}
	}
	if f.loseAnswer || len(f.holdAnswer) > 0 {
		if t.copies == nil {
			t.copies = map[context.Context]*fate{}
		}
		t.copies[ctx] = f
	}
	return f
}

// done returns the fate of a copy that is answered.
func (t *tapState) done(ctx context.Context) *fate {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.copies[ctx]
	delete(t.copies, ctx)
	return f
}

// describe names a request as the suite does.
func describe(op byte, body []byte) conformance.Request {
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
	c, err := decodeCommand(data)
	if err != nil {
		return conformance.Request{Op: err.Error()}
	}
	switch c.kind {
	case cmdTxn:
		var keys []string
		for _, cond := range c.txn.If {
			keys = append(keys, cond.Key)
		}
		for _, w := range c.txn.Then {
			keys = append(keys, w.Key)
		}
		return conformance.Request{Op: "Commit", Keys: keys}
	case cmdGrant:
		return conformance.Request{Op: "Grant"}
	case cmdRevoke:
		return conformance.Request{Op: "Revoke"}
	case cmdCancel:
		return conformance.Request{Op: "Settle"}
	default:
		return conformance.Request{Op: "Mark"}
	}
}
