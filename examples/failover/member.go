package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	_ "github.com/holdfast-dcs/holdfast/consul" // the consul:// scheme
	"github.com/holdfast-dcs/holdfast/dcs"
	_ "github.com/holdfast-dcs/holdfast/etcd3" // the etcd3:// scheme
	"github.com/holdfast-dcs/holdfast/examples/internal/event"
	_ "github.com/holdfast-dcs/holdfast/raftstore" // the raft:// scheme
	_ "github.com/holdfast-dcs/holdfast/zookeeper" // the zookeeper:// scheme
)

// The keys of the demonstration's tree.
const (
	leaderKey   = "leader"
	membersKey  = "members"
	failoverKey = "failover"
	dataKey     = "data"
)

// memberRecord is the record that a member publishes.
type memberRecord struct {
	API string `json:"api"`
}

// switchover is the value of failoverKey: the member that is to lead next.
type switchover struct {
	Candidate string `json:"candidate"`
}

// member is one of the three processes: a node of the store, a session, and a
// service that only the leader serves.
type member struct {
	name, api string
	timing    dcs.Timing
	store     *dcs.Store
	narrator  *event.Narrator
	hold      atomic.Pointer[lead] // the present hold, or nil
	last      atomic.Pointer[lead] // the last one, for the fencing check
	sawLeader string               // the leader that the last "following" named
}

// lead is one time of leading.
type lead struct {
	*event.ReportedHold
	release chan string // names the successor; closed by nobody
}

// runMember is the main function of a member process. It ends when standard
// input does, so that it never outlives the process that started it.
func runMember(o options) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	m := &member{name: o.name, api: o.api, timing: timingFor(o.ttl), narrator: &event.Narrator{Log: event.NewLog(os.Stdout), Member: o.name}}
	store, err := dcs.Open(ctx, o.store, dcs.Options{
		Timing:   m.timing,
		Observer: m.narrator.Observer(),
	})
	if err != nil {
		return err
	}
	m.store = store
	defer func() { _ = store.Close() }()
	server, err := m.serve(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }()
	for ctx.Err() == nil {
		if err := m.session(ctx); err != nil && ctx.Err() == nil {
			m.emit(event.Event{Event: event.Error, Reason: err.Error()})
			pause(ctx, 100*time.Millisecond)
		}
	}
	return nil
}

// timingFor spreads a TTL over Timing's rule, LoopWait + 2*RetryTimeout <= TTL.
func timingFor(ttl time.Duration) dcs.Timing {
	return dcs.Timing{TTL: ttl, LoopWait: ttl / 3, RetryTimeout: ttl / 3}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func (m *member) emit(e event.Event) { m.narrator.Emit(e) }

// session is one life of a session: publish the member key, then follow and
// lead in turn until the session is over.
func (m *member) session(ctx context.Context) error {
	s, err := m.store.NewSession(ctx, dcs.SessionOptions{})
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.Background(), m.timing.RetryTimeout)
		defer cancel()
		_ = s.Close(end)
	}()
	record, err := json.Marshal(memberRecord{API: m.api})
	if err != nil {
		return err
	}
	if _, err := s.Publish(ctx, membersKey+"/"+m.name, record); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-s.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	for snapshot, err := range m.store.Watch(ctx, "") {
		if err != nil {
			if s.Err() != nil {
				return s.Err()
			}
			continue // the store does not answer just now: Watch goes on
		}
		if !m.myTurn(snapshot) {
			continue
		}
		if hold := m.take(ctx, s); hold != nil {
			m.lead(ctx, hold)
		}
	}
	return s.Err()
}

// take tries to take the free lock until a member holds it. A lock that
// another member was quicker to take shows in the next snapshot.
func (m *member) take(ctx context.Context, s *dcs.Session) *dcs.Hold {
	for ctx.Err() == nil && s.Err() == nil {
		hold, err := s.TryAcquire(ctx, leaderKey, []byte(m.name))
		if err == nil {
			return hold
		}
		if errors.Is(err, dcs.ErrConflict) {
			return nil
		}
		pause(ctx, 20*time.Millisecond) // the outcome is not known
	}
	return nil
}

// myTurn reports whether the lock is free for this member: nobody holds it, and
// no switchover names another member that is alive.
func (m *member) myTurn(s dcs.Snapshot) bool {
	if e, ok := s.Get(leaderKey); ok {
		leader := string(e.Value)
		if leader != m.name && leader != m.sawLeader {
			m.emit(event.Event{Event: event.Following, Leader: leader})
		}
		m.sawLeader = leader
		return false
	}
	m.sawLeader = ""
	e, ok := s.Get(failoverKey)
	if !ok {
		return true
	}
	var to switchover
	if json.Unmarshal(e.Value, &to) != nil || to.Candidate == m.name {
		return true
	}
	_, alive := s.Get(membersKey + "/" + to.Candidate)
	return !alive
}

// lead serves as the leader until the hold is over.
func (m *member) lead(ctx context.Context, hold *dcs.Hold) {
	l := &lead{ReportedHold: m.narrator.Lead(hold), release: make(chan string)}
	m.last.Store(l)
	m.hold.Store(l)
	defer m.hold.Store(nil)
	m.clearSwitchover(ctx, hold)
	select {
	case <-hold.Done():
		l.Ended()
	case to := <-l.release:
		m.handOver(l, to)
	case <-ctx.Done():
		m.handOver(l, "")
	}
}

// clearSwitchover removes a switchover that has been carried out, guarded by
// the new hold, so that a leader of the past cannot do it.
func (m *member) clearSwitchover(ctx context.Context, hold *dcs.Hold) {
	_, err := m.store.Commit(ctx, dcs.Txn{If: []dcs.Cond{hold.Guard()}, Then: []dcs.Write{dcs.Delete(failoverKey)}})
	if err != nil && ctx.Err() == nil {
		m.emit(event.Event{Event: event.Error, Reason: "clearing the switchover: " + err.Error()})
	}
}

// handOver names the successor, if there is one, and releases the lock.
func (m *member) handOver(l *lead, to string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*m.timing.RetryTimeout)
	defer cancel()
	if to != "" {
		value, err := json.Marshal(switchover{Candidate: to})
		if err == nil {
			_, err = m.store.Commit(ctx, dcs.Txn{If: []dcs.Cond{l.Guard()}, Then: []dcs.Write{dcs.Put(failoverKey, value)}})
		}
		if err != nil {
			m.emit(event.Event{Event: event.Error, Reason: "naming the successor: " + err.Error()})
		}
	}
	l.Release(ctx)
}

// serve starts the member's HTTP service.
func (m *member) serve(ctx context.Context) (*http.Server, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", m.api)
	if err != nil {
		return nil, fmt.Errorf("the service's address: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /write/{n}", m.write)
	mux.HandleFunc("POST /switchover/{to}", m.switchover)
	mux.HandleFunc("POST /stale-write", m.staleWrite)
	mux.HandleFunc("GET /data", m.data)
	mux.HandleFunc("GET /node", m.node)
	mux.HandleFunc("POST /members/add/{id}/{addr}", m.addMember)
	mux.HandleFunc("POST /members/remove/{id}", m.removeMember)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(l) }()
	return server, nil
}
