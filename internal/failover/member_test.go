//go:build linux

package failover

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
	_ "github.com/holdfast-dcs/holdfast/etcd3"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	"github.com/holdfast-dcs/holdfast/raftstore"
)

// The environment variables with which this test binary runs as a member.
const (
	memberStore  = "HOLDFAST_FAILOVER_STORE" // the URL
	memberScope  = "HOLDFAST_FAILOVER_SCOPE"
	memberName   = "HOLDFAST_FAILOVER_NAME"
	memberRecord = "HOLDFAST_FAILOVER_RECORD" // the file for the events
)

// TestMain lets the test binary run as a member, and as a node of the embedded store.
func TestMain(m *testing.M) {
	testcluster.RaftNode{Leads: func(b dcs.Backend) bool { return b.(*raftstore.Backend).Status().State == "Leader" }}.Main()
	if os.Getenv(memberStore) != "" {
		if err := runMember(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The events of a member.
const (
	ready    = "ready"    // it follows, and its record is published
	promoted = "promoted" // its service is primary
	acted    = "acted"    // its service was primary and its leadership valid
	demoted  = "demoted"  // its service is not primary any more
)

// event is a line in the record of a member. At is a reading of CLOCK_BOOTTIME in
// nanoseconds, which all processes share.
type event struct {
	Event string `json:"event"`
	Token uint64 `json:"token,omitempty"`
	At    int64  `json:"at"`
	Cause string `json:"cause,omitempty"`
}

// clock returns a reading of CLOCK_BOOTTIME.
func clock() int64 {
	at, _ := dcs.Now().Boottime()
	return at
}

// recorder writes events to a file, each with one call of the system, so that a process
// that is killed has written all of them.
type recorder struct {
	mu   sync.Mutex
	file *os.File
}

func (r *recorder) add(e event) {
	line, err := json.Marshal(e)
	if err == nil {
		_, err = r.file.Write(append(line, '\n'))
	}
	if err != nil {
		panic(err) // an event that is missing would hide a fault
	}
}

// service is a service within the process of its elector. While it is primary it acts
// every few milliseconds, if the leadership is valid.
type service struct {
	recorder

	leadership *elector.Leadership // nil unless the service is primary
	last       uint64              // the token of the last leadership
}

const actEvery = 2 * time.Millisecond

// act runs until ctx ends.
func (s *service) act(ctx context.Context) {
	for t := time.NewTicker(actEvery); ctx.Err() == nil; <-t.C {
		s.mu.Lock()
		if at := clock(); s.leadership != nil && s.leadership.Valid() { // it is valid after at, and so it was at that time
			s.add(event{Event: acted, Token: uint64(s.leadership.Token()), At: at})
		}
		s.mu.Unlock()
	}
}

// Promote implements [elector.Service].
func (s *service) Promote(_ context.Context, l *elector.Leadership) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leadership, s.last = l, uint64(l.Token())
	s.add(event{Event: promoted, Token: s.last, At: clock()})
	return nil
}

// Demote implements [elector.Service].
func (s *service) Demote(_ context.Context, r elector.Reason) error { return s.stop(r) }

// Fence implements [elector.Fencer].
func (s *service) Fence(r elector.Reason) error { return s.stop(r) }

func (s *service) stop(r elector.Reason) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leadership != nil {
		s.leadership = nil
		s.add(event{Event: demoted, Token: s.last, At: clock(), Cause: r.String()})
	}
	return nil
}

// Report implements [elector.Reporter].
func (s *service) Report(context.Context) (cluster.Member, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := cluster.Member{Role: cluster.RoleReplica, State: cluster.StateRunning}
	if s.leadership != nil {
		m.Role = cluster.RolePrimary
	}
	return m, nil
}

// runMember runs a member until SIGTERM.
func runMember() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	file, err := os.OpenFile(os.Getenv(memberRecord), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // G703: the file that the test names
	if err != nil {
		return err
	}
	store, err := dcs.Open(ctx, os.Getenv(memberStore), dcs.Options{})
	if err != nil {
		return err
	}
	s := &service{recorder: recorder{file: file}}
	e, err := elector.New(elector.Config{Store: store, Scope: os.Getenv(memberScope), Name: os.Getenv(memberName), Service: s})
	if err != nil {
		return err
	}
	go s.act(ctx)
	go reportReady(ctx, e, s)
	if err := e.Run(ctx); err != nil {
		return err
	}
	return store.Close()
}

// follows writes that the member is ready, unless the service was primary before.
func (s *service) follows() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == 0 {
		s.add(event{Event: ready, At: clock()})
	}
}

// reportReady writes an event when the member follows another one.
func reportReady(ctx context.Context, e *elector.Elector, s *service) {
	for t := time.NewTicker(actEvery); ctx.Err() == nil; <-t.C {
		status, v := e.Status(), e.View()
		if v == nil || status.State != elector.Following || status.Leader == "" {
			continue
		}
		if m, _ := v.Member(os.Getenv(memberName)); m.Instance == e.Identity().Instance {
			s.follows()
			return
		}
	}
}
