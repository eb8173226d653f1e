package elector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/memstore"
)

const scope = "pg"

// world is a store, its members and the record of the services that were primary, by
// the one clock of the bubble.
type world struct {
	t      *testing.T
	server *memstore.Server
	end    chan struct{} // releases every callback that hangs

	mu      sync.Mutex
	primary map[*fake]bool
	faults  []string
	members map[string]*member
	events  []string
}

// inWorld runs f in a bubble.
func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	inStore(t, memstore.Options{}, f)
}

func inStore(t *testing.T, o memstore.Options, f func(t *testing.T, w *world)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		w := &world{t: t, server: memstore.NewServer(o), end: make(chan struct{}), primary: map[*fake]bool{}, members: map[string]*member{}}
		defer w.close()
		f(t, w)
	})
}

func (w *world) close() {
	close(w.end)
	w.server.Up()
	for _, m := range w.members {
		m.stop()
		_ = m.store.Close()
	}
	pass(time.Minute) // a callback that was fenced may run on for a while
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.faults) > 0 {
		w.t.Errorf("%s\n%s", strings.Join(w.faults, "\n"), strings.Join(w.events, "\n"))
	}
}

var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // when a bubble begins

func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, fmt.Sprintf("%v ", time.Since(epoch))+fmt.Sprintf(format, args...))
}

// set records that f is primary, or not any more.
func (w *world) set(f *fake, primary bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.primary[f] == primary {
		return
	}
	w.events = append(w.events, fmt.Sprintf("%v %s primary %v", time.Since(epoch), f.name, primary))
	delete(w.primary, f)
	if !primary {
		return
	}
	for other := range w.primary {
		w.faults = append(w.faults, fmt.Sprintf("%v: %s and %s are primary", time.Since(epoch), f.name, other.name))
	}
	w.primary[f] = true
}

// fake is a service that records when it is primary. The functions, if they are set,
// run before the change that the method makes.
type fake struct {
	w    *world
	name string

	onPromote func(context.Context) error
	onDemote  func(context.Context, Reason) error
	onFence   func(Reason) error
	onReport  func() (cluster.Member, error)

	mu       sync.Mutex
	primary  bool
	fences   int
	demotes  []Reason
	promotes int
	running  int // callbacks
	position int64
	promoted time.Time
	demoted  time.Time
	fenced   time.Time
	ends     time.Time // the deadline of the last Demote
}

func (f *fake) enter(name string) func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.w.note("%s %s", f.name, name)
	if f.running++; f.running > 1 {
		f.w.mu.Lock()
		f.w.faults = append(f.w.faults, f.name+": E8: callbacks overlap")
		f.w.mu.Unlock()
	}
	return func() {
		f.mu.Lock()
		f.running--
		f.mu.Unlock()
		f.w.note("%s %s ends", f.name, name)
	}
}

func (f *fake) turn(primary bool) {
	f.primary = primary
	f.w.set(f, primary)
}

func (f *fake) Promote(ctx context.Context, l *Leadership) error {
	defer f.enter("Promote")()
	f.mu.Lock()
	fences, hook := f.fences, f.onPromote
	f.promotes++
	f.mu.Unlock()
	if !l.Valid() {
		f.w.note("%s promoted without a valid leadership", f.name)
	}
	if hook != nil {
		if err := hook(ctx); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fences == fences { // after Fence it has no effect
		f.promoted = time.Now()
		f.turn(true)
	}
	return nil
}

func (f *fake) Demote(ctx context.Context, r Reason) error {
	defer f.enter("Demote " + r.Cause.String())()
	f.mu.Lock()
	f.demotes = append(f.demotes, r)
	f.demoted = time.Now()
	f.ends, _ = ctx.Deadline()
	hook := f.onDemote
	f.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, r); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn(false)
	return nil
}

func (f *fake) Fence(r Reason) error {
	f.w.note("%s Fence %v", f.name, r.Cause)
	f.mu.Lock()
	f.fences++
	f.fenced = time.Now()
	hook := f.onFence
	f.mu.Unlock()
	if hook != nil {
		if err := hook(r); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn(false)
	return nil
}

func (f *fake) Report(context.Context) (cluster.Member, error) {
	f.mu.Lock()
	hook := f.onReport
	f.mu.Unlock()
	if hook != nil {
		return hook()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m := cluster.Member{Role: cluster.RoleReplica, State: cluster.StateRunning, Position: f.position}
	if f.primary {
		m.Role = cluster.RolePrimary
	}
	return m, nil
}

// do reads or changes f while its member runs.
func (f *fake) do(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// calls returns how often the methods were called.
func (f *fake) calls() (promotes, demotes, fences int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.promotes, len(f.demotes), f.fences
}

func (f *fake) is() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.primary
}

func (f *fake) lastCause() Cause {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.demotes) == 0 {
		return 255
	}
	return f.demotes[len(f.demotes)-1].Cause
}

// hang blocks until the test ends.
func (w *world) hang() error { <-w.end; return errors.New("released at the end of the test") }

// member is one process.
type member struct {
	w      *world
	name   string // of its client too
	svc    *fake
	e      *Elector
	store  *dcs.Store
	cancel context.CancelFunc
	ended  chan struct{}
	err    error
	exited chan Reason
}

// open makes a member that does not run yet.
func (w *world) open(name string, change ...func(*Config)) *member {
	w.t.Helper()
	return w.openAs(name, name, change...)
}

func (w *world) openAs(client, name string, change ...func(*Config)) *member {
	w.t.Helper()
	store, err := dcs.New(w.server.Open(memstore.ClientOptions{Name: client, Seed: uint64(len(w.members) + 1)}), dcs.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	m := &member{w: w, name: client, svc: &fake{w: w, name: client}, store: store, ended: make(chan struct{}), exited: make(chan Reason, 8)}
	c := Config{Store: store, Scope: scope, Name: name, Service: m.svc, Exit: m.exit}
	for _, f := range change {
		f(&c)
	}
	if m.e, err = New(c); err != nil {
		w.t.Fatal(err)
	}
	w.members[client] = m
	return m
}

// exit ends the process: its service dies, and nothing of it is heard.
func (m *member) exit(r Reason) {
	m.w.note("%s exits", m.name)
	m.w.server.Inject(memstore.Match{Client: m.name}, memstore.Hang())
	m.svc.mu.Lock()
	m.svc.fences++
	m.svc.turn(false)
	m.svc.mu.Unlock()
	m.exited <- r
}

func (m *member) start() *member {
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	go func() { // ends with the member
		defer close(m.ended)
		m.err = m.e.Run(ctx)
	}()
	return m
}

func (m *member) stop() {
	if m.cancel == nil {
		return
	}
	m.cancel()
	select {
	case <-m.ended:
	case <-time.After(10 * time.Minute):
		m.w.t.Errorf("%s does not stop", m.name)
	}
}

func (w *world) start(name string, change ...func(*Config)) *member {
	w.t.Helper()
	return w.open(name, change...).start()
}

// pass lets time go by until everything of that moment has happened.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// wait passes time until cond holds.
func (w *world) wait(limit time.Duration, text string, cond func() bool) {
	w.t.Helper()
	for end := time.Now().Add(limit); ; {
		synctest.Wait()
		if cond() {
			return
		}
		if time.Now().After(end) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.t.Fatalf("%s: not within %v\n%s", text, limit, strings.Join(w.events, "\n"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// leads waits until m leads.
func (w *world) leads(m *member) {
	w.t.Helper()
	w.wait(2*time.Minute, m.name+" leads", func() bool { return m.e.Leading() != nil && m.svc.is() })
}

// pair starts two members, of which the first leads.
func (w *world) pair(change ...func(*Config)) (a, b *member) {
	w.t.Helper()
	a = w.start("a", change...)
	w.leads(a)
	b = w.start("b", change...)
	w.wait(time.Minute, "b follows", func() bool { return b.e.Status().State == Following && w.published("b") })
	return a, b
}

func (w *world) view() *cluster.View {
	w.t.Helper()
	var s dcs.Snapshot
	for _, e := range w.server.Entries("default") {
		if strings.HasPrefix(e.Key, scope+"/") {
			s.Entries = append(s.Entries, e)
		}
	}
	slices.SortFunc(s.Entries, func(a, b dcs.Entry) int { return strings.Compare(a.Key, b.Key) })
	return cluster.Decode(scope, s, nil)
}

func (w *world) published(name string) bool {
	_, ok := w.view().Member(name)
	return ok
}

func (w *world) put(t *testing.T, key, value string) {
	t.Helper()
	if err := w.server.Put("default", cluster.Key(scope, key), []byte(value)); err != nil {
		t.Fatal(err)
	}
}

// between requires that got is in [from, to].
func between(t *testing.T, text string, got, from, to time.Duration) {
	t.Helper()
	if got < from || got > to {
		t.Errorf("%s after %v, want %v to %v", text, got, from, to)
	}
}
