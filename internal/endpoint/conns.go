package endpoint

import (
	"sync"
	"time"
)

// Conns holds the connection to each endpoint. One that is dropped gets no new
// call, and is closed after a grace time, so that the calls under way end by
// themselves. Its fields must be set before the first use.
type Conns[C any] struct {
	// Close closes a connection. It is called with no lock held.
	Close func(C)
	// Grace is how long a dropped connection is kept: as long as a call may take.
	Grace time.Duration
	// Known reports whether an endpoint is one of the Pool's: see [Pool.Knows].
	Known func(endpoint string) bool

	mu      sync.Mutex
	open    map[string]C
	dropped map[*time.Timer]C
}

// Get returns the connection to an endpoint, or a new one that open returns if
// there is none or usable refuses it. usable and open are called under a lock and
// must not block. After [Conns.CloseAll] has begun, open must fail.
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

// Drop gives up the connection to an endpoint.
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

// CloseAll closes every connection, also those that were dropped.
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

// Len returns how many connections there are, dropped ones included.
func (t *Conns[C]) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.open) + len(t.dropped)
}
