package testcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Token is the management token of a Consul cluster with Security.
const Token = "5f2d7c1e-9d1b-4f5e-8c39-0d5c7b1a2e3f" //nolint:gosec // G101: of a test's server

type consul struct{}

func (*consul) ports() map[string]int {
	return map[string]int{"client": 8500, "server": 8300, "serf": 8301}
}

// election at raft_multiplier 1: Consul's heartbeat and election timeouts of
// 1 s each, up to twice, measured up to 2.8 s.
func (*consul) election(Options) time.Duration { return 3 * time.Second }

func (*consul) command(ctx context.Context, c *Cluster, s *Server, _ bool) (*exec.Cmd, error) {
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
		"performance": map[string]any{"raft_multiplier": 1}, "session_ttl_min": "1s",
		"log_level": "warn", "leave_on_terminate": false, "ui_config": map[string]any{"enabled": false},
	}
	if c.o.Security {
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

func (*consul) ready(ctx context.Context, c *Cluster, s *Server) (bool, error) {
	var leader string
	if err := get(ctx, s, "/v1/status/leader", &leader); err != nil {
		return false, err
	}
	if leader == "" {
		return false, errors.New("it has no leader")
	}
	var peers []string
	if err := get(ctx, s, "/v1/status/peers", &peers); err != nil {
		return false, err
	}
	if len(peers) != len(c.Servers()) {
		return false, fmt.Errorf("it knows %d servers", len(peers))
	}
	var keys []string // a consistent read, which the quorum answers
	if err := get(ctx, s, "/v1/kv/?keys&consistent", &keys); err != nil {
		return false, err
	}
	return leader == s.addr("server"), nil
}

func get(ctx context.Context, s *Server, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, moment)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Direct()+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("X-Consul-Token", Token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return nil // no keys yet
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

func (*consul) started(context.Context, *Cluster) error { return nil }
