package transport

import (
	"errors"
	"net"
	"sync"
	"time"
)

const (
	// maxBacklog is how much may wait for a peer that does not read; beyond
	// it frames are refused unsent.
	maxBacklog = 8 << 20
	// keptBuffer is the largest write buffer kept for the next frames.
	keptBuffer = 1 << 20
)

var errBacklog = errors.New("the peer does not read: too much is waiting to be sent to it")

// frameWriter writes frames to one connection from a goroutine of its own, so
// that no caller that queues one ever blocks on a peer that does not read. A frame that
// is queued while a write is under way goes out with the next, in one system
// call.
type frameWriter struct {
	kick chan struct{}
	most int // of bytes that may wait
	// writeTimeout bounds the time of one write; 0 is no bound.
	writeTimeout time.Duration

	mu     sync.Mutex
	out    []byte
	then   []func() // called when out is written, or never will be
	queued uint64   // frames ever queued
	taken  uint64   // frames ever handed to the socket
	err    error    // why nothing can be written any more
}

func newFrameWriter() *frameWriter {
	return &frameWriter{kick: make(chan struct{}, 1), most: maxBacklog}
}

// queue adds a frame, copying its body, and returns its number.
func (w *frameWriter) queue(f frame) (uint64, error) { return w.queueThen(f, nil) }

// queueThen is queue, and calls then when the frame is written or never will be,
// unless queueThen returns an error.
func (w *frameWriter) queueThen(f frame, then func()) (uint64, error) {
	w.mu.Lock()
	if err := w.mayQueue(); err != nil {
		w.mu.Unlock()
		return 0, err
	}
	w.out = appendFrame(w.out, f)
	if then != nil {
		w.then = append(w.then, then)
	}
	w.queued++
	number := w.queued
	w.mu.Unlock()
	select {
	case w.kick <- struct{}{}:
	default:
	}
	return number, nil
}

func (w *frameWriter) mayQueue() error {
	if w.err != nil {
		return w.err
	}
	if len(w.out) > w.most {
		return errBacklog
	}
	return nil
}

// run writes until a write fails or fail is called.
func (w *frameWriter) run(conn net.Conn) error {
	var spare []byte
	for range w.kick {
		w.mu.Lock()
		if w.err != nil {
			w.mu.Unlock()
			return w.err
		}
		batch, then := w.out, w.then
		w.out, w.then, w.taken = spare[:0], nil, w.queued
		w.mu.Unlock()
		var err error
		if len(batch) > 0 {
			if w.writeTimeout > 0 {
				_ = conn.SetWriteDeadline(time.Now().Add(w.writeTimeout)) //nolint:forbidigo // connections speak this clock
			}
			_, err = conn.Write(batch)
		}
		call(then)
		if err != nil {
			w.fail(err)
			return err
		}
		spare = batch
		if cap(spare) > keptBuffer {
			spare = nil
		}
	}
	return nil
}

// fail refuses everything from now on and ends run. It returns the number of
// the last frame of which anything may have been sent.
func (w *frameWriter) fail(err error) (taken uint64) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
	}
	then := w.then
	w.out, w.then = nil, nil
	taken = w.taken
	w.mu.Unlock()
	call(then)
	select {
	case w.kick <- struct{}{}:
	default:
	}
	return taken
}

func call(list []func()) {
	for _, f := range list {
		f()
	}
}
