package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dcs/holdfast/internal/machinelock"
)

// A Network is a few hosts, each in a network namespace, joined by a router in another one.
// The router drops the packets of the faults without a reply, in both directions, on
// existing and on new connections. This machine reaches the hosts through a separate
// interface. The rest of its network is not changed.
type Network struct {
	router string
	near   string // this machine's address
	hosts  []*Host

	mu sync.Mutex
}

var (
	errNoNetwork = fmt.Errorf("%w: packets are dropped only in a fault.Network", ErrUnsupported)

	networkMu sync.Mutex
	networks  int
)

// rangesLock is held while a range of addresses is chosen and before its route
// exists, because another process may choose at the same time.
const rangesLock = "/var/run/" + prefix + ".lock"

// prefix begins the name of every namespace, and the pid of the process that made it follows.
const prefix = "hfnet"

// NewNetwork makes a network of so many hosts (at most 50). It requires root and the command
// ip. Otherwise the error wraps [ErrUnsupported] and has the reason. Callers must remove the
// network with Close. The next NewNetwork removes the networks of killed processes.
func NewNetwork(ctx context.Context, hosts int) (*Network, error) {
	if os.Getuid() != 0 {
		return nil, fmt.Errorf("%w: network namespaces require root", ErrUnsupported)
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return nil, fmt.Errorf("%w: the command ip is missing", ErrUnsupported)
	}
	networkMu.Lock()
	defer networkMu.Unlock()
	sweep(ctx)
	networks++
	n := &Network{router: fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), networks)}
	if err := ip(ctx, "netns add "+n.router); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if err := n.build(ctx, hosts); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func (n *Network) build(ctx context.Context, hosts int) error {
	if _, err := inside(n.router, func() (any, error) {
		return nil, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o600)
	}); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	base, err := n.uplink(ctx)
	if err != nil {
		return err
	}
	for i := range hosts {
		h := &Host{name: fmt.Sprintf("%sh%d", n.router, i), addr: fmt.Sprintf("%s.%d", base, 4*i+6), n: n}
		gate := fmt.Sprintf("%s.%d", base, 4*i+5)
		if err := ip(ctx,
			"netns add "+h.name,
			fmt.Sprintf("link add h%d netns %s type veth peer name e0 netns %s", i, n.router, h.name),
			fmt.Sprintf("-n %s address add %s/30 dev h%d", n.router, gate, i),
			fmt.Sprintf("-n %s link set h%d up", n.router, i),
			fmt.Sprintf("-n %s address add %s/30 dev e0", h.name, h.addr),
			fmt.Sprintf("-n %s link set e0 up", h.name),
			fmt.Sprintf("-n %s link set lo up", h.name),
			fmt.Sprintf("-n %s route add default via %s", h.name, gate),
		); err != nil {
			return err
		}
		n.hosts = append(n.hosts, h)
	}
	return nil
}

// uplink connects this machine to the router, in a range of private addresses that no route
// of the machine covers yet.
func (n *Network) uplink(ctx context.Context) (base string, err error) {
	dev := fmt.Sprintf("hf%d-%d", os.Getpid(), networks)
	unlock, err := machinelock.Lock(rangesLock)
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := ip(ctx, fmt.Sprintf("link add %s type veth peer name near netns %s", dev, n.router)); err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	routes, err := exec.CommandContext(ctx, "ip", "route", "show", "table", "all").Output()
	if err != nil {
		return "", err
	}
	for i := range 250 {
		base = fmt.Sprintf("10.213.%d", (os.Getpid()+networks+i)%250+1)
		if !strings.Contains(string(routes), base+".") {
			break
		}
	}
	n.near = base + ".2"
	return base, ip(ctx,
		fmt.Sprintf("address add %s.2/30 dev %s", base, dev),
		fmt.Sprintf("link set %s up", dev),
		fmt.Sprintf("-n %s address add %s.1/30 dev near", n.router, base),
		fmt.Sprintf("-n %s link set near up", n.router),
		fmt.Sprintf("route add %s.0/24 via %s.1", base, base),
	)
}

// Host returns the host with that index.
func (n *Network) Host(i int) *Host { return n.hosts[i] }

// cut drops the packets from the first to the second address of each pair.
func (n *Network) cut(pairs [][2]string) (func() error, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	rule := func(do string, p [2]string) string {
		return fmt.Sprintf("-n %s rule %s from %s to %s blackhole", n.router, do, p[0], p[1])
	}
	for _, p := range pairs {
		if err := ip(ctx, rule("add", p)); err != nil {
			return nil, err
		}
	}
	var once sync.Once
	return func() (err error) {
		once.Do(func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			for _, p := range pairs {
				err = errors.Join(err, ip(ctx, rule("del", p)))
			}
		})
		return err
	}, nil
}

// Close removes the network. Its processes must have ended.
func (n *Network) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var err error
	for _, h := range n.hosts {
		err = errors.Join(err, ip(ctx, "netns del "+h.name))
	}
	return errors.Join(err, ip(ctx, "netns del "+n.router)) // and the interface, with its other end
}

// sweep removes the networks of processes that have ended.
func sweep(ctx context.Context) {
	out, err := exec.CommandContext(ctx, "ip", "netns", "list").Output()
	if err != nil {
		return
	}
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		digits, _, _ := strings.Cut(rest, "-")
		pid, err := strconv.Atoi(digits)
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = ip(ctx, "netns del "+name) // another process may remove it at the same time
		}
	}
}

func ip(ctx context.Context, commands ...string) error {
	for _, c := range commands {
		out, err := exec.CommandContext(ctx, "ip", strings.Fields(c)...).CombinedOutput() //nolint:gosec // G204: the arguments are those of this package
		if err != nil {
			return fmt.Errorf("ip %s: %w: %s", c, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// inside runs f on a separate thread in a namespace. A socket stays in the namespace in
// which it was made, so only that must happen there. The thread is not reused. It ends with
// its goroutine.
func inside[T any](namespace string, f func() (T, error)) (T, error) {
	if namespace == "" {
		return f()
	}
	type result struct {
		value T
		err   error
	}
	ch := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		var r result
		if r.err = enter(namespace); r.err == nil {
			r.value, r.err = f()
		}
		ch <- r
	}()
	r := <-ch
	return r.value, r.err
}

func enter(namespace string) error {
	file, err := os.Open("/var/run/netns/" + namespace) //nolint:gosec // G304: a name of our own
	if err != nil {
		return err
	}
	defer file.Close()
	return unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
}
