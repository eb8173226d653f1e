package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dcs/holdfast/conformance/fault"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/examples/internal/event"
)

// process is one member as its parent sees it.
type process struct {
	name, api string
	store     string // the URL of its store
	dir       string // where its own node keeps its data; empty without one
	addr      string // where its own node is reached, over a proxy; empty without one
	cmd       *exec.Cmd
	stdin     io.Closer
	ending    atomic.Bool   // it is meant to end
	done      chan struct{} // closed when the process has been reaped
}

// cluster is the members, three as a rule, and the directory of their data.
type cluster struct {
	dir     string
	ttl     time.Duration
	shared  string // the URL of a store that was there already, or empty
	token   string // the secret of the members for failsafe mode
	mu      sync.Mutex
	members []*process // under mu once it is made; see all
	events  func(event.Event)
	died    func(error) // a member ended that was not meant to
	http    *http.Client
	readers sync.WaitGroup
	proxies []*fault.Proxy // between the members' own nodes; under mu
}

var memberNames = []string{"a", "b", "c"}

// newCluster chooses addresses and starts the three processes.
func newCluster(ctx context.Context, o options, events func(event.Event), died func(error)) (*cluster, error) {
	dir, err := os.MkdirTemp("", "holdfast-failover-")
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir, ttl: o.ttl, token: rand.Text(), events: events, died: died, http: &http.Client{}}
	addrs, err := fault.FreeAddrs(ctx, 2*len(memberNames))
	if err != nil {
		c.close()
		return nil, err
	}
	for i, name := range memberNames {
		c.members = append(c.members, &process{name: name, api: addrs[len(memberNames)+i], store: o.store})
	}
	if o.store != "" {
		c.shared = ownTree(o.store)
		for _, p := range c.members {
			p.store = c.shared
		}
	} else if err := c.ownNodes(ctx, c.members, addrs); err != nil {
		c.close()
		return nil, err
	}
	for _, p := range c.members {
		if err := c.start(p); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

// ownNodes gives members a node of the store each, which listens on one of addrs. The
// others reach it over a proxy, so that the nodes can be cut off from each other.
func (c *cluster) ownNodes(ctx context.Context, members []*process, addrs []string) error {
	for i, p := range members {
		proxy, err := fault.NewProxy(ctx, "127.0.0.1:0", addrs[i], fault.ProxyOptions{})
		if err != nil {
			return err
		}
		p.dir, p.addr = filepath.Join(c.dir, p.name), proxy.Addr()
		c.mu.Lock()
		c.proxies = append(c.proxies, proxy)
		c.mu.Unlock()
	}
	var peers []string
	for _, p := range c.all() {
		peers = append(peers, p.name+"="+p.addr)
	}
	for i, p := range members {
		p.store = fmt.Sprintf("raft://%s?id=%s&root=demo&listen=%s&peers=%s", filepath.ToSlash(p.dir), p.name, addrs[i], strings.Join(peers, ","))
	}
	return nil
}

// cut keeps the members' own nodes from each other until restore is called.
func (c *cluster) cut() (restore func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var lifts []func()
	for _, proxy := range c.proxies {
		lifts = append(lifts, proxy.Silent())
	}
	return func() {
		for _, lift := range lifts {
			lift()
		}
	}
}

// all returns the members.
func (c *cluster) all() []*process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.members)
}

// newcomer starts one more member, whose node knows those that are there and is
// none of theirs yet.
func (c *cluster) newcomer(ctx context.Context, name string) (*process, error) {
	addrs, err := fault.FreeAddrs(ctx, 2)
	if err != nil {
		return nil, err
	}
	p := &process{name: name, api: addrs[1]}
	c.mu.Lock()
	c.members = append(c.members, p)
	c.mu.Unlock()
	if err := c.ownNodes(ctx, []*process{p}, addrs); err != nil {
		return nil, err
	}
	return p, c.start(p)
}

// forget leaves a member out, which has ended.
func (c *cluster) forget(p *process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members = slices.DeleteFunc(c.members, func(other *process) bool { return other == p })
}

// start runs p and forwards its events. It does not wait for anything.
func (c *cluster) start(p *process) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	//nolint:gosec,noctx // G204: this very program, whose life is bounded by its standard input and by close
	cmd := exec.Command(exe, "-member", "-name", p.name, "-api", p.api, "-store", p.store, "-ttl", c.ttl.String())
	cmd.Env = append(os.Environ(), memberEnv+"=1", tokenEnv+"="+c.token)
	endWithParent(cmd)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var stderr tail
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	p.cmd, p.stdin, p.done = cmd, stdin, done
	p.ending.Store(false)
	c.readers.Go(func() {
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			var e event.Event
			if err := json.Unmarshal(lines.Bytes(), &e); err == nil {
				c.events(e)
			}
		}
		err := cmd.Wait()
		if !p.ending.Load() {
			c.died(fmt.Errorf("member %s ended by itself (%w): %s", p.name, err, stderr.String()))
		}
		close(done)
	})
	return nil
}

// memberEnv marks a member process, for a test binary that plays the program.
const memberEnv = "HOLDFAST_FAILOVER_MEMBER"

// tokenEnv has the secret of the members for failsafe mode.
const tokenEnv = "HOLDFAST_FAILOVER_TOKEN"

// tail keeps the last bytes written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - 4096; over > 0 {
		t.b = t.b[over:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}

// member returns the process of that name.
func (c *cluster) member(name string) *process {
	for _, p := range c.all() {
		if p.name == name {
			return p
		}
	}
	return nil
}

// kill ends p at once and waits until it is gone.
func (c *cluster) kill(p *process) {
	if p.cmd == nil {
		return
	}
	p.ending.Store(true)
	_ = p.cmd.Process.Kill()
	<-p.done
}

// empty removes the data of p's node. p does not run.
func (c *cluster) empty(p *process) error {
	if err := os.RemoveAll(p.dir); err != nil {
		return err
	}
	return os.Mkdir(p.dir, 0o700)
}

// answerLimit bounds a request that needs no demotion.
const answerLimit = 5 * time.Second

// post sends an empty request to a member's service.
func (c *cluster) post(ctx context.Context, p *process, path string) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	return c.postLong(ctx, p, path)
}

// postLong is post for a request that may take as long as ctx.
func (c *cluster) postLong(ctx context.Context, p *process, path string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.api+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	return resp.StatusCode, strings.TrimSpace(string(text)), err
}

// get decodes a member's answer into v.
func (c *cluster) get(ctx context.Context, p *process, path string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.api+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(v)
}

// end ends every process, the frozen ones too.
func (c *cluster) end() {
	for _, p := range c.all() {
		if p.cmd != nil {
			p.ending.Store(true)
			_ = p.cmd.Process.Kill()
			_ = p.stdin.Close()
		}
	}
	c.readers.Wait()
}

// close ends every process and removes their data.
func (c *cluster) close() {
	c.end()
	for _, proxy := range c.proxies {
		_ = proxy.Close()
	}
	c.http.CloseIdleConnections()
	_ = os.RemoveAll(c.dir)
}

// ownTree is the store's URL with a tree of this run's own below its root.
func ownTree(url string) string {
	place, options, _ := strings.Cut(url, "?")
	place = strings.TrimRight(place, "/") + "/failover-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	if options != "" {
		return place + "?" + options
	}
	return place
}

// clear removes the keys of a run from a store that was there already. The members have
// ended.
func (c *cluster) clear(ctx context.Context) error {
	if c.shared == "" {
		return nil
	}
	store, err := dcs.Open(ctx, c.shared, dcs.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	s, err := store.Snapshot(ctx, "")
	if err != nil {
		return err
	}
	// Keys bound to a lease go with its member.
	s.Entries = slices.DeleteFunc(s.Entries, func(e dcs.Entry) bool { return e.Lease != "" })
	for entries := range slices.Chunk(s.Entries, 50) {
		var t dcs.Txn
		for _, e := range entries {
			t.Then = append(t.Then, dcs.Delete(e.Key))
		}
		if _, err := store.Commit(ctx, t); err != nil {
			return err
		}
	}
	return nil
}
