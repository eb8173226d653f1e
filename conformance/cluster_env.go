package conformance

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// cluster returns the servers when all of them are healthy.
func (e *env) cluster() *Cluster {
	c := e.s.Cluster
	e.needs(c != nil, "Cluster")
	e.needs(e.s.OpenWith != nil, "OpenWith")
	c.Healthy(e)
	return c
}

// injectFault injects a fault into server i until restore, or until the case ends.
func (e *env) injectFault(i int, t ServerFault) (restore func()) {
	lift := e.s.Cluster.InjectFault(e, i, t)
	var once sync.Once
	restore = func() { once.Do(lift) }
	e.Cleanup(func() {
		restore()
		e.s.Cluster.Healthy(e)
	})
	return restore
}

// injectFaultAll injects a fault into every server.
func (e *env) injectFaultAll(t ServerFault) (restore func()) {
	var restores []func()
	for i := range e.s.Cluster.Endpoints {
		restores = append(restores, e.injectFault(i, t))
	}
	return func() {
		for _, restore := range restores {
			restore()
		}
	}
}

// election returns the additional time that a call may take because of verb at server i.
// It is E if the server leads the store and cannot continue to lead, else 0.
func (e *env) election(i int, verb ServerFaultVerb) time.Duration {
	switch verb {
	case Refused, Blackholed, Silent, ResetAll, Delayed, Unresolved: // its peers still reach it
		return 0
	case Killed, Stopped, Frozen, Partitioned:
	}
	if e.s.Cluster.Leader(e) == i {
		return e.s.Cluster.Election
	}
	return 0
}

// decisions collects the decisions of a client's backend about its servers.
type decisions struct {
	mu     sync.Mutex
	events []dcs.EndpointEvent
}

func (d *decisions) add(ev dcs.EndpointEvent) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, ev)
}

// of returns the decisions about a server since the n-th.
func (d *decisions) of(endpoint string, n int, changes ...dcs.EndpointChange) []dcs.EndpointEvent {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []dcs.EndpointEvent
	for _, ev := range d.events[min(n, len(d.events)):] {
		if ev.From == endpoint && (len(changes) == 0 || slices.Contains(changes, ev.Change)) {
			out = append(out, ev)
		}
	}
	return out
}

func (d *decisions) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.events)
}

// openWith opens a client with settings of its own, and collects its decisions.
func (e *env) openWith(o Opening) (*client, *decisions, error) {
	d := &decisions{}
	o.Observer.Endpoint = d.add
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(e.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if o.Timing == (dcs.Timing{}) {
		o.Timing = e.timing
	}
	raw, err := e.s.OpenWith(e, o)
	if err != nil {
		return nil, d, err
	}
	return e.wrapTimed(raw, o.Timing), d, nil
}

func (e *env) opened(o Opening) (*client, *decisions) {
	c, d, err := e.openWith(o)
	require.NoError(e, err, "OpenWith")
	return c, d
}

// others returns all servers except i.
func (e *env) others(i int) []string {
	return slices.Delete(slices.Clone(e.s.Cluster.Endpoints), i, i+1)
}

// inUse returns the index of the server that answers c's calls.
func (e *env) inUse(c *client) int {
	for range 20 {
		_, err := c.Snapshot(e.ctx, e.prefix)
		require.NoError(e, err)
	}
	at := c.answers.Load()
	if at == nil {
		e.Fatal("the backend does not report which server answers (dcs.AnsweredBy)")
	}
	i := slices.Index(e.s.Cluster.Endpoints, *at)
	if i < 0 {
		e.Fatalf("%q answers, which is none of %v", *at, e.s.Cluster.Endpoints)
	}
	return i
}

// measured is the outcome of one call of a load.
type measured struct {
	op          string
	began, took time.Duration // since the load began
	err         error
}

// tally has the calls of a load.
type tally struct {
	mu    sync.Mutex
	calls []measured
	began time.Time
	ended time.Time
}

func (t *tally) time(op string, f func() error) {
	begin := time.Now()
	err := f()
	took := time.Since(begin)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.calls = append(t.calls, measured{op, begin.Sub(t.began), took, err})
}

// after returns the durations of the calls that began after d, sorted.
func (t *tally) after(d time.Duration) []time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []time.Duration
	for _, m := range t.calls {
		if m.began >= d {
			out = append(out, m.took)
		}
	}
	slices.Sort(out)
	return out
}

// failed describes the calls that failed.
func (t *tally) failed() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for _, m := range t.calls {
		if m.err != nil {
			out = append(out, fmt.Sprintf("%s at %v after %v: %v", m.op, m.began.Round(time.Millisecond), m.took.Round(time.Millisecond), m.err))
		}
	}
	return out
}

// quantile returns the q-quantile of sorted durations, or 0 if there are none.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// driver makes calls of every kind through one client, at an ordinary rate.
type driver struct {
	e    *env
	c    *client
	hold *dcs.Hold
}

// drive opens a client that holds a lock and watches, and warms it up.
func (e *env) drive(o Opening) (*driver, *decisions) {
	c, d := e.opened(o)
	s := c.session()
	drv := &driver{e: e, c: c, hold: e.acquire(s, e.key("lock", c.serial), "v")}
	return drv, d
}

// load makes calls for a while.
func (d *driver) load(limit time.Duration) *tally { return d.loadUntil(limit, 0, 0) }

// loadUntil is load, and continues for up to three times as long until so many calls began
// after a time.
func (d *driver) loadUntil(limit, after time.Duration, calls int) *tally {
	t := &tally{began: time.Now()}
	enough := func() bool {
		is := time.Since(t.began)
		return is >= 4*limit || is >= limit && (calls == 0 || len(t.after(after)) >= calls)
	}
	e := d.e
	loops := []struct {
		op string
		do func() error
	}{
		{"Get", func() error { _, err := d.c.Get(e.ctx, d.hold.Key()); return err }},
		{"Commit", func() error {
			_, err := d.c.Commit(e.ctx, dcs.Txn{Then: []dcs.Write{dcs.Put(e.key("load", d.c.serial), []byte("x"))}})
			return err
		}},
		{"Confirm", func() error { return d.hold.Confirm(e.ctx) }},
	}
	e.together(len(loops), func(i int) {
		for !enough() {
			t.time(loops[i].op, loops[i].do)
			e.breathe(10 * time.Millisecond)
		}
	})
	t.ended = time.Now()
	return t
}

// moving follows changes that another client makes.
type moving struct {
	writes *tally // the other client's commits

	mu    sync.Mutex
	slow  time.Duration // the longest from the write's answer to the Wait that returned it
	wrote map[string]time.Time
}

// moves makes writer change a key from time to time, and reader wait for it.
func (e *env) moves(reader, writer *client) (stop func() *moving) {
	m := &moving{writes: &tally{began: time.Now()}, wrote: map[string]time.Time{}}
	key := e.key("moves", reader.serial)
	writer.put(key, "0")
	over := make(chan struct{})
	began := reader.snapshot(key).Revision
	watching := e.start(func() {
		for since := began; ; {
			s, err := reader.Wait(e.ctx, key, since)
			select {
			case <-over:
				return
			default:
			}
			if err != nil {
				e.Errorf("Wait while a server has a fault: %v", err)
				return
			}
			since = s.Revision
			if en, ok := s.Get(key); ok {
				m.sight(string(en.Value))
			}
		}
	})
	writing := e.start(func() {
		for n := 1; ; n++ {
			value := fmt.Sprint(n)
			m.writes.time("Commit", func() error {
				_, err := writer.Commit(e.ctx, dcs.Txn{Then: []dcs.Write{dcs.Put(key, []byte(value))}})
				if err == nil {
					m.write(value)
				}
				return err
			})
			select {
			case <-over:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	return func() *moving {
		m.age()
		close(over)
		<-writing
		writer.put(key, "last") // ends the Wait
		e.within(2*e.budget(), watching, "the last change is seen")
		return m
	}
}

func (m *moving) write(value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.wrote[value]; !ok {
		m.wrote[value] = time.Now()
	}
}

// age counts the values that were written and not seen.
func (m *moving) age() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, at := range m.wrote {
		m.slow = max(m.slow, time.Since(at))
	}
}

// sight counts a value, and with it all before it.
func (m *moving) sight(value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var n int
	_, _ = fmt.Sscan(value, &n)
	for v, at := range m.wrote {
		var k int
		if _, _ = fmt.Sscan(v, &k); k <= n {
			m.slow = max(m.slow, time.Since(at))
			delete(m.wrote, v)
		}
	}
}
