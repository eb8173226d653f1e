package conformance

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/keepalive"
)

// A FaultInjector stands between a client and its transport. It counts the copies of requests
// that the client sends, and decides on an Action for each. A harness must call Judge once
// for every copy and apply the Action, or make the request through Pass. For a message that
// the store pushes, it must call Judge with a Request named Wait (see [Store.Inject]). Its
// Requests and Inject hooks can then call those of the FaultInjector. The zero value is ready for use. All methods are safe for concurrent
// use.
type FaultInjector struct {
	mu     sync.Mutex
	sent   int64
	active []*activeFault
}

type activeFault struct {
	Fault
	left   int // copies until the fault ends; < 0 means no limit
	lifted chan struct{}
}

// Requests returns the number of copies that were judged.
func (t *FaultInjector) Requests() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sent
}

// Inject puts f in force until lift is called or f has applied to Times copies.
func (t *FaultInjector) Inject(f Fault) (lift func()) {
	a := &activeFault{Fault: f, left: -1, lifted: make(chan struct{})}
	if f.Times > 0 {
		a.left = f.Times
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.active = append(t.active, a)
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.active = slices.DeleteFunc(t.active, func(other *activeFault) bool { return other == a })
		close(a.lifted)
	})
}

// Judge returns the Action for a copy that is about to be sent.
func (t *FaultInjector) Judge(r Request) Action {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent++
	var f Action
	for _, a := range t.active {
		if a.left == 0 || a.When != nil && !a.When(r) {
			continue
		}
		a.left--
		switch a.Do {
		case HoldRequest:
			f.holdRequest = append(f.holdRequest, a.lifted)
		case HoldAnswer:
			f.holdAnswer = append(f.holdAnswer, a.lifted)
		case LoseRequest:
			f.LoseRequest = true
		case LoseAnswer:
			f.LoseAnswer = true
		case Repeat:
			f.Repeat = true
		}
	}
	return f
}

// An Action is the handling of one copy of a request.
type Action struct {
	// LoseRequest means that the store must not receive the copy, and the sender gets no
	// answer. LoseAnswer means that the store must receive it, and the sender gets no
	// answer. Repeat means that the store must receive it once more.
	LoseRequest, LoseAnswer, Repeat bool

	holdRequest, holdAnswer []<-chan struct{}
}

// HoldsRequest reports whether the copy must be held back from the store.
func (f Action) HoldsRequest() bool { return len(f.holdRequest) > 0 }

// TouchesAnswer reports whether the answer must be lost or held back.
func (f Action) TouchesAnswer() bool { return f.LoseAnswer || len(f.holdAnswer) > 0 }

// AwaitRequest returns when the copy may be sent to the store, or with ctx's cause. A copy
// whose sender has given it up must still be sent, later.
func (f Action) AwaitRequest(ctx context.Context) error { return lifted(ctx, f.holdRequest) }

// AwaitAnswer returns when the answer may be passed to the sender, or with ctx's cause.
func (f Action) AwaitAnswer(ctx context.Context) error { return lifted(ctx, f.holdAnswer) }

func lifted(ctx context.Context, by []<-chan struct{}) error {
	for _, c := range by {
		select {
		case <-c:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Pass applies the faults in force to one copy. send must make the request and return when
// it is answered. It is called twice for a repeated request, and with another context for
// a request that arrives after its sender has given it up.
func (t *FaultInjector) Pass(ctx context.Context, r Request, send func(ctx context.Context) error) error {
	f := t.Judge(r)
	if f.LoseRequest {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	if err := f.AwaitRequest(ctx); err != nil {
		go func() {
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			if f.AwaitRequest(late) == nil {
				_ = send(late) // no caller waits for it any more
			}
		}()
		return err
	}
	if f.Repeat {
		_ = send(ctx)
	}
	if f.LoseAnswer {
		_ = send(ctx)
		<-ctx.Done()
		return context.Cause(ctx)
	}
	err := send(ctx)
	if late := f.AwaitAnswer(ctx); late != nil {
		return late
	}
	return err
}

// ReadSocket returns a connection's keepalive settings as reported by the system, for a
// harness's Sockets. side must be "dialled" or "accepted".
func ReadSocket(side string, c net.Conn) Socket {
	values, err := keepalive.Effective(c)
	s := Socket{Side: side, Idle: values.Idle, Interval: values.Interval, Count: values.Count, UserTimeout: values.UserTimeout}
	if _, moved := values.Clamp(); len(moved) > 0 {
		s.Fault = fmt.Sprint(moved)
	}
	if err != nil {
		s.Fault = err.Error()
	}
	return s
}
