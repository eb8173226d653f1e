package testcluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// Token is the management token of a Consul cluster with Security.
const Token = "5f2d7c1e-9d1b-4f5e-8c39-0d5c7b1a2e3f" //nolint:gosec // G101: of a test's server

// ConsulRules returns the ACL rules that docs/ gives for a client with keys below
// "holdfast/" and sessions on node.
func ConsulRules(node string) string {
	return fmt.Sprintf("key_prefix %q { policy = \"write\" }\nsession %q { policy = \"write\" }\nnode %q { policy = \"write\" }\n", strings.TrimPrefix(SuitePrefix, "/"), node, node)
}

// ConsulReader is the ACL rules of a client that may only read keys.
const ConsulReader = "key_prefix \"holdfast/\" { policy = \"read\" }\nsession_prefix \"\" { policy = \"read\" }\n"

type consul struct{}

func (*consul) ports() map[string]int {
	return map[string]int{"client": 8500, "server": 8300, "serf": 8301}
}

// election at raft_multiplier 1: the heartbeat and election timeouts of Consul are 1 s
// each, may double, and are repeated if votes are split. Most elections take 2 to 3 s.
// The longest of 92 took 4.3 s and the next 3.7 s.
func (*consul) election(Options) time.Duration { return 4500 * time.Millisecond }

func (*consul) command(ctx context.Context, c *Cluster, s *Server, joins bool) (*exec.Cmd, error) {
	path, err := program(Consul, c.o.Version)
	if err != nil {
		return nil, err
	}
	var join []string
	for _, m := range c.Servers() {
		join = append(join, m.addr("serf"))
	}
	conf := map[string]any{
		"node_name": s.name, "server": true, "bootstrap_expect": len(join), "retry_join": join, "retry_interval": "200ms",
		"data_dir": s.dir + "/data", "bind_addr": s.host.Addr(), "client_addr": s.host.Addr(),
		"ports": map[string]int{
			"http": s.ports["client"], "server": s.ports["server"], "serf_lan": s.ports["serf"],
			"serf_wan": -1, "dns": -1, "grpc": -1, "grpc_tls": -1,
		},
		"disable_update_check": true, "telemetry": map[string]any{"disable_hostname": true},
		"performance": map[string]any{"raft_multiplier": 1, "leave_drain_time": "100ms"}, "session_ttl_min": "1s",
		// All clients of a test have one address; a new server votes at once.
		"limits":    map[string]any{"http_max_conns_per_client": 10000},
		"autopilot": map[string]any{"server_stabilization_time": "200ms"},
		"log_level": "warn", "leave_on_terminate": false, "ui_config": map[string]any{"enabled": false},
	}
	if c.o.Defaults {
		delete(conf, "session_ttl_min")
		delete(conf, "autopilot")
	}
	if s.agent {
		conf["server"] = false
	}
	if joins {
		delete(conf, "bootstrap_expect")
	}
	if c.o.Security {
		cert := c.ca.Server()
		conf["ports"].(map[string]int)["http"], conf["ports"].(map[string]int)["https"] = -1, s.ports["client"]
		conf["tls"] = map[string]any{"https": map[string]any{
			"ca_file": c.ca.File(), "cert_file": cert.Cert, "key_file": cert.Key, "verify_incoming": true,
		}}
		conf["acl"] = map[string]any{
			"enabled": true, "default_policy": "deny",
			"tokens": map[string]string{"initial_management": Token, "agent": Token},
		}
	}
	data, err := json.Marshal(conf)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(s.dir, "consul.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return nil, err
	}
	return s.host.Command(ctx, path, append([]string{"agent", "-config-file", file}, c.o.Flags...)...), nil
}

// serfFailed is the status of a member that a server believes to have failed.
const serfFailed = 4

func (*consul) ready(ctx context.Context, c *Cluster, s *Server) (bool, error) {
	admin, err := c.consulAdmin(s)
	if err != nil {
		return false, err
	}
	var leader string
	if err := get(ctx, admin, "/v1/status/leader", &leader); err != nil {
		return false, err
	}
	if leader == "" {
		return false, errors.New("the server knows no leader")
	}
	// A server that was cut off for some seconds may have been removed, and votes
	// again only some time after it has returned.
	var raft api.RaftConfiguration
	if err := get(ctx, admin, raftMembers, &raft); err != nil {
		return false, err
	}
	voters := 0
	for _, r := range raft.Servers {
		if r.Voter {
			voters++
		}
	}
	if voters != len(c.Servers()) || len(raft.Servers) != voters {
		return false, fmt.Errorf("%d of %d servers vote", voters, len(raft.Servers))
	}
	// A new leader removes the servers that it believes to have failed. It may believe
	// so for some seconds after a partition has ended.
	var members []struct{ Status int }
	if err := get(ctx, admin, "/v1/agent/members", &members); err != nil {
		return false, err
	}
	for _, m := range members {
		if m.Status == serfFailed {
			return false, errors.New("the server believes that another server has failed")
		}
	}
	return leader == s.addr("server"), follows(ctx, admin, s.name)
}

// raftMembers is the path that returns an [api.RaftConfiguration].
const raftMembers = "/v1/operator/raft/configuration"

// follows returns an error unless a write that was committed through a server is soon in
// that server's own copy. After a partition, the connection on which the leader sends the
// log may be stalled for some seconds longer than the others. The store then needs the
// third server for a quorum, so that no test may stop it next.
func follows(ctx context.Context, admin *api.Client, name string) error {
	ctx, cancel := context.WithTimeout(ctx, moment)
	defer cancel()
	mark := &api.KVPair{Key: "holdfast-follows/" + name, Value: []byte(rand.Text())}
	if _, err := admin.KV().Put(mark, (&api.WriteOptions{}).WithContext(ctx)); err != nil {
		return err
	}
	return until(ctx, 5*time.Millisecond, func() error {
		own, _, err := admin.KV().Get(mark.Key, (&api.QueryOptions{AllowStale: true}).WithContext(ctx))
		if err == nil && (own == nil || !bytes.Equal(own.Value, mark.Value)) {
			err = errors.New("the server does not follow the leader")
		}
		return err
	})
}

// ConsulAdmin returns a client of one server with all rights, which does not use the
// proxy.
func (c *Cluster) ConsulAdmin(i int) (*api.Client, error) {
	return c.consulAdmin(c.Servers()[i])
}

// consulTimeout bounds each request, because Consul's API has no timeout.
const consulTimeout = 15 * time.Second

// consulAdmin returns a client that keeps no idle connections.
func (c *Cluster) consulAdmin(s *Server) (*api.Client, error) {
	t, scheme := &http.Transport{DisableKeepAlives: true}, "http"
	if c.ca != nil {
		conf, err := c.ca.Client().Config(c.ca)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig, scheme = conf, "https"
	}
	return api.NewClient(&api.Config{
		Address: s.Direct(), Scheme: scheme, Token: Token, HttpClient: &http.Client{Transport: t, Timeout: consulTimeout},
	})
}

// ConsulAgent starts an agent in front of the servers, like one on a client's machine,
// and returns its address.
func (c *Cluster) ConsulAgent(ctx context.Context) (addr string, err error) {
	s, err := c.newServer(ctx)
	if err != nil {
		return "", err
	}
	s.agent = true
	c.agents = append(c.agents, s)
	if err := s.start(true); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return s.Direct(), (&consul{}).welcome(ctx, c, s)
}

// ConsulReadOnly makes the servers refuse writes and answer reads until heal is called.
// It uses Consul's rate limit for requests.
func (c *Cluster) ConsulReadOnly() (heal func() error, err error) {
	limit := func(rate float64) error {
		for _, s := range c.Servers() {
			if err := c.limitWrites(s, rate); err != nil {
				return err
			}
		}
		return nil
	}
	return func() error { return limit(-1) }, limit(0)
}

func (c *Cluster) limitWrites(s *Server, rate float64) error {
	file := filepath.Join(s.dir, "consul.json")
	data, err := os.ReadFile(file) //nolint:gosec // G304: our own
	if err != nil {
		return err
	}
	var conf map[string]any
	if err := json.Unmarshal(data, &conf); err != nil {
		return err
	}
	limits, _ := conf["limits"].(map[string]any)
	limits["request_limits"] = map[string]any{"mode": "enforcing", "read_rate": -1, "write_rate": rate}
	if data, err = json.Marshal(conf); err != nil {
		return err
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return err
	}
	return c.put(context.Background(), s, "/v1/agent/reload")
}

// leave makes s leave the cluster by its own API. A leader transfers the leadership
// first. A server that has left does not always answer the request (1.22.0), so that the
// other servers are checked.
func (*consul) leave(ctx context.Context, c *Cluster, s *Server) error {
	err := c.put(ctx, s, "/v1/agent/leave")
	return settled(ctx, func() error {
		gone, looking := c.without(ctx, s)
		if gone {
			return nil
		}
		return errors.Join(err, looking)
	})
}

// without reports whether s is no longer a member according to another server.
func (c *Cluster) without(ctx context.Context, s *Server) (gone bool, err error) {
	for _, other := range c.Servers() {
		if other == s {
			continue
		}
		var admin *api.Client
		if admin, err = c.consulAdmin(other); err != nil {
			return false, err
		}
		var raft api.RaftConfiguration
		if err = get(ctx, admin, raftMembers, &raft); err != nil {
			continue
		}
		for _, r := range raft.Servers {
			if r.Address == s.addr("server") {
				return false, fmt.Errorf("%s still counts %s as a server", other.name, s.name)
			}
		}
		return true, nil
	}
	return false, err
}

// put sends a write request whose answer has no content.
func (c *Cluster) put(ctx context.Context, s *Server, path string) error {
	admin, err := c.consulAdmin(s)
	if err != nil {
		return err
	}
	_, err = admin.Raw().Write(path, nil, nil, (&api.WriteOptions{}).WithContext(ctx))
	return err
}

// join does nothing, because a server that starts finds the others.
func (*consul) join(context.Context, *Cluster, *Server) error { return nil }

func (k *consul) welcome(ctx context.Context, c *Cluster, s *Server) error {
	err := until(ctx, 50*time.Millisecond, func() error { _, err := k.ready(ctx, c, s); return err })
	if err != nil {
		return fmt.Errorf("testcluster: server %s does not join: %w", s.name, errors.Join(ctx.Err(), err))
	}
	return nil
}

// retire transfers the leadership, as Consul's manual requires before a server is
// restarted. Otherwise the other servers must first detect that the leader has stopped.
func (k *consul) retire(c *Cluster, s *Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var leads bool
	err := until(ctx, 100*time.Millisecond, func() (err error) { leads, err = k.ready(ctx, c, s); return err })
	if err != nil || !leads {
		return err
	}
	admin, err := c.consulAdmin(s)
	if err != nil {
		return err
	}
	_, err = admin.Operator().RaftLeaderTransfer("", (&api.QueryOptions{}).WithContext(ctx))
	return err
}

// rejoin makes every server join the others, like `consul join`. Without it, servers that
// had been cut off for some seconds needed up to 51 s, because Serf tries to contact a
// failed member every 30 s, and not always then.
func (*consul) rejoin(ctx context.Context, c *Cluster) {
	for _, s := range c.Servers() {
		for _, other := range c.Servers() {
			if other == s {
				continue
			}
			ctx, cancel := context.WithTimeout(ctx, moment)
			_ = c.put(ctx, s, "/v1/agent/join/"+other.addr("serf")) // the caller checks the outcome
			cancel()
		}
	}
}

// inheritsNames marks a store whose clients find a new server by the name of the old
// one. Consul does not publish the HTTP addresses of its servers.
func (*consul) inheritsNames() {}

// get sends a query that a server can answer at once.
func get(ctx context.Context, admin *api.Client, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, moment)
	defer cancel()
	_, err := admin.Raw().Query(path, into, (&api.QueryOptions{}).WithContext(ctx))
	return err
}

func (*consul) started(context.Context, *Cluster) error { return nil }
