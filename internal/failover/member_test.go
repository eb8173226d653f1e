//go:build linux

package failover

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
	"github.com/holdfast-dcs/holdfast/dcs/elector/guardian"
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
	switch {
	case os.Getenv(serviceToken) != "":
		end(runService())
	case os.Getenv(memberStore) != "":
		end(runMember())
	}
	os.Exit(m.Run())
}

func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
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
	// Called is when Promote was called that ended in a promotion.
	Called int64 `json:"called,omitempty"`
	// Service is the process group of a service that was promoted, if it has one.
	Service int `json:"service,omitempty"`
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
	at := clock()
	s.add(event{Event: promoted, Token: s.last, At: at, Called: at})
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
	return record(s.leadership != nil), nil
}

// record returns the record of a member whose service is running.
func record(primary bool) cluster.Member {
	m := cluster.Member{Role: cluster.RoleReplica, State: cluster.StateRunning}
	if primary {
		m.Role = cluster.RolePrimary
	}
	return m
}

// runMember runs a member until SIGTERM.
func runMember() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	file, err := openRecord()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	store, err := dcs.Open(ctx, os.Getenv(memberStore), dcs.Options{Logger: log})
	if err != nil {
		return err
	}
	c := elector.Config{Store: store, Scope: os.Getenv(memberScope), Name: os.Getenv(memberName), Logger: log}
	var r *recorder
	var led func() bool
	if os.Getenv(memberGuarded) != "" {
		g, err := guardian.New(guardian.Options{})
		if err != nil {
			return err
		}
		s := &guardedService{recorder: recorder{file: file}, guardian: g}
		c.Service, c.Guardian, r, led = s, g, &s.recorder, s.led
	} else {
		s := &service{recorder: recorder{file: file}}
		c.Service, r, led = s, &s.recorder, s.led
		go s.act(ctx)
	}
	serve, err := takePart(&c)
	if err != nil {
		return err
	}
	e, err := elector.New(c)
	if err != nil {
		return err
	}
	serve(e)
	go r.reportReady(ctx, e, led)
	if err := e.Run(ctx); err != nil {
		return err
	}
	return store.Close()
}

func (s *service) led() bool { return s.last != 0 }

// openRecord opens the record of this process.
func openRecord() (*os.File, error) {
	return os.OpenFile(os.Getenv(memberRecord), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // G703: the file that the test names
}

// reportReady writes an event when the member follows another one, unless its service was
// primary before.
func (r *recorder) reportReady(ctx context.Context, e *elector.Elector, led func() bool) {
	for t := time.NewTicker(actEvery); ctx.Err() == nil; <-t.C {
		status, v := e.Status(), e.View()
		if v == nil || status.State != elector.Following || status.Leader == "" {
			continue
		}
		if m, _ := v.Member(os.Getenv(memberName)); m.Instance == e.Identity().Instance {
			r.mu.Lock()
			defer r.mu.Unlock()
			if !led() {
				r.add(event{Event: ready, At: clock()})
			}
			return
		}
	}
}
