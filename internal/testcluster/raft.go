package testcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// RaftRoot is the root of the tree of every cluster of the embedded store.
const RaftRoot = "holdfast/suite"

const (
	// The environment variables with which a test binary runs as a node.
	raftURL   = "HOLDFAST_TESTCLUSTER_RAFT"
	raftAdmin = "HOLDFAST_TESTCLUSTER_RAFT_ADMIN"

	// raftHeartbeat is the heartbeat timeout of every cluster without an Election.
	raftHeartbeat = 250 * time.Millisecond
)

// RaftNode has the functions of the embedded store that a test binary needs to run as a
// node, because this package does not import the store.
type RaftNode struct {
	// Leads reports whether the node leads.
	Leads func(b dcs.Backend) bool
	// Orders are the operations of [Server.Order]. "move" changes the address of the
	// node id to addr.
	Orders map[string]func(b dcs.Backend, args url.Values) error
}

// Main runs the process as a node if a cluster has started it as one, and otherwise
// returns. It must be called at the beginning of a TestMain.
func (n RaftNode) Main() {
	u := os.Getenv(raftURL)
	if u == "" {
		return
	}
	if err := n.run(u, os.Getenv(raftAdmin)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (n RaftNode) run(u, admin string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	store, err := dcs.Open(ctx, u, dcs.Options{})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/ready", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), moment/2)
		defer cancel()
		if _, err := store.Get(ctx, "ready"); err != nil && !errors.Is(err, dcs.ErrNotFound) {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, n.Leads(store.Unwrap()))
	})
	for name, do := range n.Orders {
		mux.HandleFunc("/"+name, func(w http.ResponseWriter, r *http.Request) {
			if err := do(store.Unwrap(), r.URL.Query()); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	server := &http.Server{Addr: admin, Handler: mux, ReadHeaderTimeout: time.Second}
	go func() { _ = server.ListenAndServe() }()
	<-ctx.Done()
	_ = server.Close()
	return store.Close()
}

// raft is the driver of a cluster of test binaries.
type raft struct {
	replaced string // name of the node whose server has left
}

func (*raft) ports() map[string]int { return map[string]int{"client": 7001, "admin": 7002} }

func (*raft) heartbeat(o Options) time.Duration {
	if o.Election > 0 {
		return o.Election / 2
	}
	return raftHeartbeat
}

// election: a follower waits for up to two heartbeat timeouts, and a split vote takes up
// to two election timeouts more.
func (d *raft) election(o Options) time.Duration { return 4 * d.heartbeat(o) }

func (d *raft) command(ctx context.Context, c *Cluster, s *Server, _ bool) (*exec.Cmd, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var peers []string
	for _, m := range c.Servers() {
		peers = append(peers, m.name+"="+m.Direct())
	}
	u := fmt.Sprintf("raft://%s/data?id=%s&root=%s&peers=%s&heartbeat_timeout=%v&min_ttl=1s&ttl=6500ms&loop_wait=400ms&retry_timeout=3s",
		s.dir, s.name, RaftRoot, strings.Join(peers, ","), d.heartbeat(c.o))
	if c.ca != nil {
		pair := c.ca.Server()
		u += fmt.Sprintf("&tls_cert=%s&tls_key=%s&tls_ca=%s", pair.Cert, pair.Key, c.ca.File())
	} else {
		u += "&plaintext_beyond_loopback=true"
	}
	cmd := s.host.Command(ctx, exe, "-test.run=^$")
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, raftURL+"="+u, raftAdmin+"="+s.addr("admin"))
	return cmd, nil
}

func (*raft) started(context.Context, *Cluster) error { return nil }

// A replaced node moves to another address. A server with its name and no data is started
// there, and another node is notified of the address.
func (d *raft) leave(_ context.Context, _ *Cluster, s *Server) error {
	d.replaced = s.name
	return nil
}

func (d *raft) join(_ context.Context, _ *Cluster, s *Server) error {
	s.name = d.replaced
	return nil
}

func (d *raft) welcome(ctx context.Context, c *Cluster, s *Server) error {
	for _, other := range c.Servers() {
		if other == s {
			continue
		}
		if err := other.Order(ctx, "move", url.Values{"id": {s.name}, "addr": {s.Direct()}}); err != nil {
			return err
		}
		break
	}
	return until(ctx, 25*time.Millisecond, func() error {
		_, err := d.ready(ctx, c, s)
		return err
	})
}

func (d *raft) ready(ctx context.Context, _ *Cluster, s *Server) (leads bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, moment)
	defer cancel()
	said, err := s.order(ctx, "ready", nil)
	return said == "true", err
}

// Order makes a node of the embedded store run the operation name of [RaftNode.Orders].
func (s *Server) Order(ctx context.Context, name string, args url.Values) error {
	_, err := s.order(ctx, name, args)
	return err
}

func (s *Server) order(ctx context.Context, name string, args url.Values) (said string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.addr("admin")+"/"+name+"?"+args.Encode(), http.NoBody)
	if err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(body)))
	}
	return string(body), err
}
