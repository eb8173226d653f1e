package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance/fault"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/examples/internal/event"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	"github.com/holdfast-dcs/holdfast/raftstore"
)

const playing = "HOLDFAST_LEADER_PLAY"

// TestMain lets the test binary play the program.
func TestMain(m *testing.M) {
	testcluster.RaftNode{Leads: func(b dcs.Backend) bool { return b.(*raftstore.Backend).Status().State == "Leader" }}.Main()
	if os.Getenv(playing) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// player is one running program.
type player struct {
	*fault.Process
	name   string
	mu     sync.Mutex
	events []event.Event
	more   chan struct{}
}

// play starts the program; led receives it when it leads.
func play(t *testing.T, url, name string, led chan<- *player) *player {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), exe, "-store", url, "-scope", "pg", "-name", name, "-json")
	cmd.Env = append(os.Environ(), playing+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	p := &player{name: name, more: make(chan struct{}, 1)}
	p.Process, err = fault.StartProcess(cmd)
	require.NoError(t, err)
	t.Cleanup(p.Kill)
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var e event.Event
			if json.Unmarshal(lines.Bytes(), &e) != nil {
				continue
			}
			p.mu.Lock()
			p.events = append(p.events, e)
			p.mu.Unlock()
			select {
			case p.more <- struct{}{}:
			default:
			}
			if e.Event == event.Leading {
				led <- p
			}
		}
	}()
	return p
}

// until waits for an event, and returns it.
func (p *player) until(t *testing.T, what string, ok func(event.Event) bool) event.Event {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		p.mu.Lock()
		for _, e := range p.events {
			if ok(e) {
				p.mu.Unlock()
				return e
			}
		}
		all := fmt.Sprintf("%+v", p.events)
		p.mu.Unlock()
		select {
		case <-p.more:
		case <-limit:
			t.Fatalf("%s: no %s: %s", p.name, what, all)
		}
	}
}

func is(name string) func(event.Event) bool {
	return func(e event.Event) bool { return e.Event == name }
}

// scene: one leads, is asked to end, another takes over; the first one's time
// and the second one's do not overlap.
func scene(t *testing.T, url func(i int) string) {
	names := []string{"a", "b", "c"}
	players := map[string]*player{}
	led := make(chan *player, 100) // more room than there are changes of the leader
	for i, name := range names {
		players[name] = play(t, url(i), name, led)
	}
	var first *player
	select {
	case first = <-led:
	case <-time.After(30 * time.Second):
		t.Fatal("nobody leads")
	}
	began := first.until(t, "leading", is(event.Leading))
	renewed := first.until(t, "renewed", is(event.Renewed))
	require.Equal(t, began.Token, renewed.Token)
	require.Greater(t, renewed.DeadlineMono, began.DeadlineMono)
	for _, p := range players {
		if p != first {
			p.until(t, "following", func(e event.Event) bool { return e.Event == event.Following && e.Leader == first.name })
		}
	}
	require.NoError(t, syscall.Kill(first.Pid(), syscall.SIGTERM))
	released := first.until(t, "released", is(event.Released))
	<-first.Done()
	require.NoError(t, first.Err(), "it exits with status 0")
	var second *player
	select {
	case second = <-led:
	case <-time.After(30 * time.Second):
		t.Fatal("nobody takes over")
	}
	next := second.until(t, "leading", is(event.Leading))
	require.Greater(t, next.Mono, released.Mono, "two lead at once")
	require.Greater(t, next.Token, began.Token)
	t.Logf("the second one led %v after the first had released", time.Duration(next.Mono-released.Mono))
}

func TestLeaderOnRaft(t *testing.T) {
	dir := t.TempDir()
	addrs, err := fault.FreeAddrs(t.Context(), 3)
	require.NoError(t, err)
	var peers []string
	for i, addr := range addrs {
		peers = append(peers, string(rune('a'+i))+"="+addr)
	}
	scene(t, func(i int) string {
		name := string(rune('a' + i))
		return fmt.Sprintf("raft://%s?id=%s&root=demo&listen=%s&peers=%s", filepath.ToSlash(filepath.Join(dir, name)), name, addrs[i], strings.Join(peers, ","))
	})
}

func TestLeaderAsRaftClient(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{Kind: testcluster.Raft, Loopback: true})
	scene(t, func(int) string {
		return "raft://" + strings.Join(c.Endpoints(), ",") + "/" + testcluster.RaftRoot + "?discovery=false"
	})
}

func TestLeaderOnEtcd(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{Kind: testcluster.Etcd})
	scene(t, func(int) string { return "etcd3://" + strings.Join(c.Endpoints(), ",") + "/demo" })
}

func TestLeaderOnConsul(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{Kind: testcluster.Consul})
	scene(t, func(int) string { return "consul://" + strings.Join(c.Endpoints(), ",") + "/demo" })
}

func TestLeaderOnZooKeeper(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{Kind: testcluster.ZooKeeper})
	scene(t, func(int) string {
		return fmt.Sprintf("zookeeper://%s/demo?tick=%v", strings.Join(c.Endpoints(), ","), testcluster.ZooKeeperTick)
	})
}

func TestMistakesAreNamed(t *testing.T) {
	for want, args := range map[string][]string{
		"mandatory":      {"-name", "a"},
		"scheme":         {"-store", "nosuch://x/y", "-name", "a"},
		"username":       {"-store", "etcd3://127.0.0.1:1/demo?password_file=x", "-name", "a"},
		"does not begin": {"-store", "etcd3://127.0.0.1:1/demo", "-name", "/a/"},
	} {
		err := run(t.Context(), args, os.Stdout)
		require.Error(t, err)
		if want != "does not begin" {
			require.ErrorContains(t, err, want)
		}
	}
}
