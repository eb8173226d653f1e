package endpoint

import (
	"sync"
	"time"
)

// Conns holds one connection to each endpoint. A connection that is dropped gets no
// new calls. It is closed after a grace time, so that calls in flight can end
// first. The exported fields must be set before the first use.
type Conns[C any] struct {
	// Close closes a connection. It is called with no lock held.
	Close func(C)
	// Grace is how long a dropped connection stays open. It should be as long as a
	// call may take.
	Grace time.Duration
	// Known reports whether connections to an endpoint may be kept: see [Pool.Knows].
	Known func(endpoint string) bool

	mu      sync.Mutex
	open    map[string]C
	dropped map[*time.Timer]C
}

// Get returns the connection to an endpoint. It calls open for a new one if there is
// none, or if usable is not nil and returns false. usable and open are called with a
// lock held and must not block. open must fail once [Conns.CloseAll] has begun.
func (t *Conns[C]) Get(endpoint string, usable func(C) bool, open func() (C, error)) (C, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c, ok := t.open[endpoint]; ok && (usable == nil || usable(c)) {
		return c, nil
	}
	c, err := open()
	if err != nil {
		return c, err
	}
	if t.open == nil {
		t.open, t.dropped = map[string]C{}, map[*time.Timer]C{}
	}
	if !t.Known(endpoint) { // a call that began before the endpoint was removed
		t.retire(c)
		return c, nil
	}
	t.open[endpoint] = c
	return c, nil
}

// Drop closes the connection to an endpoint after the grace time. Calls made after
// it get a new one.
func (t *Conns[C]) Drop(endpoint string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c, ok := t.open[endpoint]; ok {
		delete(t.open, endpoint)
		t.retire(c)
	}
}

// retire closes c after the grace time. Under t.mu.
func (t *Conns[C]) retire(c C) {
	var timer *time.Timer
	timer = time.AfterFunc(t.Grace, func() {
		t.mu.Lock()
		_, ok := t.dropped[timer]
		delete(t.dropped, timer)
		t.mu.Unlock()
		if ok {
			t.Close(c)
		}
	})
	t.dropped[timer] = c
}

// CloseAll closes every connection, dropped ones included, without a grace time.
func (t *Conns[C]) CloseAll() {
	t.mu.Lock()
	var all []C
	for _, c := range t.open {
		all = append(all, c)
	}
	for timer, c := range t.dropped {
		timer.Stop()
		all = append(all, c)
	}
	t.open, t.dropped = nil, nil
	t.mu.Unlock()
	for _, c := range all {
		t.Close(c)
	}
}

// Len returns the number of open connections, dropped ones included.
func (t *Conns[C]) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.open) + len(t.dropped)
}
