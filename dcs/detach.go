package dcs

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

// Detached returns a logger and an observer that never block their caller. They
// queue records and events for log and o, which receive them in order from
// goroutines of their own, so that a handler or a callback that blocks, panics
// or calls back delays neither a call nor a renewal.
//
// A queue holds [QueueSize] entries; one for log records and one for each
// callback. When a queue is full, new entries are dropped. As soon as the queue
// has been delivered, one record reports how many were dropped. A panic is
// recovered and reported in the same way.
//
// [New] and [Open] detach the Logger and the Observer of their Options. Authors
// of backends must detach those of their own configuration before they use them
// under a lock or in the path of an answer. Detaching twice is harmless. A
// nil log is returned as a logger that discards everything. The Enabled method
// of log's handler is still called by the caller and must not block.
func Detached(log *slog.Logger, o Observer) (*slog.Logger, Observer) {
	log = detachedLogger(log)
	return log, detachedObserver(log, o)
}

// QueueSize is the number of log records, or of events for one callback, that
// wait for delivery before new ones are dropped.
const QueueSize = 1024

func detachedLogger(log *slog.Logger) *slog.Logger {
	if log == nil || log.Handler() == slog.DiscardHandler {
		return discard
	}
	if _, done := log.Handler().(*detachedHandler); done {
		return log
	}
	return slog.New(&detachedHandler{to: log.Handler(), queue: &outbox{reportDropped: func(n uint64) {
		log.Warn("log records were dropped because the log handler is too slow", "dropped", n, "queue_size", QueueSize)
	}}})
}

func detachedObserver(log *slog.Logger, o Observer) Observer {
	if o.detached {
		return o
	}
	return Observer{
		Call:     detachedCallback(log, "Call", o.Call),
		Endpoint: detachedCallback(log, "Endpoint", o.Endpoint),
		Renewal:  detachedCallback(log, "Renewal", o.Renewal),
		State:    detachedCallback(log, "State", o.State),
		detached: true,
	}
}

func detachedCallback[E any](log *slog.Logger, name string, callback func(E)) func(E) {
	if callback == nil {
		return nil
	}
	queue := &outbox{
		reportDropped: func(n uint64) {
			log.Warn("events were dropped because the observer is too slow", "callback", name, "dropped", n, "queue_size", QueueSize)
		},
		reportPanic: func(cause any, stack []byte) {
			log.Error("observer callback panicked", "callback", name, "panic", fmt.Sprint(cause), "stack", string(stack))
		},
	}
	return func(e E) { queue.post(func() { callback(e) }) }
}

// detachedHandler queues records for another handler.
type detachedHandler struct {
	to    slog.Handler
	queue *outbox
}

func (h *detachedHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return h.to.Enabled(ctx, l)
}

func (h *detachedHandler) Handle(ctx context.Context, r slog.Record) error {
	r = r.Clone()
	ctx = context.WithoutCancel(ctx)
	h.queue.post(func() { _ = h.to.Handle(ctx, r) }) // the caller has returned, so nothing can receive the error
	return nil
}

func (h *detachedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &detachedHandler{to: h.to.WithAttrs(attrs), queue: h.queue}
}

func (h *detachedHandler) WithGroup(name string) slog.Handler {
	return &detachedHandler{to: h.to.WithGroup(name), queue: h.queue}
}

// flush waits until the records queued so far are delivered, for at most limit.
func flush(log *slog.Logger, limit time.Duration) {
	h, ok := log.Handler().(*detachedHandler)
	if !ok {
		return
	}
	delivered := make(chan struct{})
	if !h.queue.offer(func() { close(delivered) }) {
		return
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-delivered:
	case <-t.C:
	}
}

// outbox runs functions in order, one at a time, in a goroutine that exists
// only while there is something to run.
type outbox struct {
	reportDropped func(n uint64)                // called in that goroutine
	reportPanic   func(cause any, stack []byte) // likewise; nil counts a panic as dropped

	mu      sync.Mutex
	queue   []func()
	running bool
	dropped uint64 // since the last report
}

// post queues f, or counts it as dropped when the queue is full.
func (b *outbox) post(f func()) {
	if !b.offer(f) {
		b.drop()
	}
}

func (b *outbox) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dropped++
}

// offer queues f and reports whether there was room.
func (b *outbox) offer(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) >= QueueSize {
		return false
	}
	b.queue = append(b.queue, f)
	if !b.running {
		b.running = true
		go b.run()
	}
	return true
}

func (b *outbox) run() {
	for f := b.next(); f != nil; f = b.next() {
		b.call(f)
	}
}

// next takes the oldest function from the queue. Once the queue is empty it
// returns the report of the dropped entries, and nil after that.
func (b *outbox) next() func() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) > 0 {
		f := b.queue[0]
		b.queue[0] = nil
		b.queue = b.queue[1:]
		return f
	}
	if n := b.dropped; n > 0 {
		b.dropped = 0
		return func() { b.reportDropped(n) }
	}
	b.running, b.queue = false, nil
	return nil
}

// call runs f and recovers a panic, because the goroutine has no caller that could
// do so.
func (b *outbox) call(f func()) {
	defer func() {
		cause := recover()
		switch {
		case cause == nil:
		case b.reportPanic != nil:
			b.reportPanic(cause, debug.Stack())
		default:
			b.drop()
		}
	}()
	f()
}
