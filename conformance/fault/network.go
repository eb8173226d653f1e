package fault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"runtime"
	"strconv"

	"github.com/holdfast-dcs/holdfast/internal/listener"
)

// A Host is one machine of a [Network], or this one.
type Host struct {
	name string // of its namespace; empty for this machine
	addr string
	n    *Network
}

// Loopback returns this machine as a Host, for servers without a separate network. It
// cannot drop packets. On Linux each call returns a Host with another loopback address,
// so that the servers of two tests never need the same port.
func Loopback() *Host {
	if runtime.GOOS != "linux" { // other systems have no address but 127.0.0.1 by default
		return &Host{addr: "127.0.0.1"}
	}
	part := func() int { return 1 + rand.IntN(254) } //nolint:gosec // G404: only has to differ
	return &Host{addr: fmt.Sprintf("127.%d.%d.%d", part(), part(), part())}
}

// FreePorts returns n different ports of the Host that were free a moment ago, for a server
// that listens on them later, also after a restart. On Linux they lie below 32768, where
// the system's range of ports for outgoing connections begins by default: a server such as
// Consul, which connects from the address on which it listens, could otherwise take the
// port of its own listener.
func (h *Host) FreePorts(ctx context.Context, n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := h.listenFree(ctx)
		if err != nil {
			return nil, err
		}
		defer CloseListener(l) // at the end, so that no two ports are equal
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

const (
	lowPort  = 10000
	highPort = 32767
)

func (h *Host) listenFree(ctx context.Context) (l net.Listener, err error) {
	if runtime.GOOS != "linux" {
		return h.Listen(ctx, "tcp", net.JoinHostPort(h.addr, "0"))
	}
	for range 100 {
		port := lowPort + rand.IntN(highPort-lowPort+1) //nolint:gosec // G404: only has to differ
		if l, err = h.Listen(ctx, "tcp", net.JoinHostPort(h.addr, strconv.Itoa(port))); err == nil {
			return l, nil
		}
	}
	return nil, err
}

// FreeAddrs returns n different addresses, each a port of [Host.FreePorts] on a host of
// [Loopback].
func FreeAddrs(ctx context.Context, n int) ([]string, error) {
	var addrs []string
	for range n {
		l, err := Loopback().listenFree(ctx)
		if err != nil {
			return nil, err
		}
		defer CloseListener(l) // at the end, so that no two addresses are equal
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

// CloseListener closes l, whose port is then free. A process that this one is starting has a
// copy of each socket until it executes its program. After Close alone, connections to the
// copy of a listener are accepted, and to listen on its port again fails with EADDRINUSE.
// On Linux CloseListener also ends the copies; on other systems it is Close.
func CloseListener(l net.Listener) { _ = listener.Close(l) }

// Addr returns the Host's IP address.
func (h *Host) Addr() string { return h.addr }

// Command returns a command that runs on the Host when it is started.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if h.name != "" {
		args = append([]string{"netns", "exec", h.name, name}, args...)
		name = "ip"
	}
	return exec.CommandContext(ctx, name, args...) //nolint:gosec // G204: the caller's command is the purpose
}

// Listen listens on the Host. It can be used in [ProxyOptions].
func (h *Host) Listen(ctx context.Context, network, addr string) (net.Listener, error) {
	return inside(h.name, func() (net.Listener, error) {
		return (&net.ListenConfig{}).Listen(ctx, network, addr)
	})
}

// Dial connects from the Host. It can be used in [ProxyOptions]. addr must be an IP address
// with a port.
func (h *Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return inside(h.name, func() (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	})
}

// CutPeers drops every packet between the Host and the other Hosts. Clients on
// this machine still reach it.
func (h *Host) CutPeers() (lift func() error, err error) {
	if h.n == nil {
		return nil, errNoNetwork
	}
	var pairs [][2]string
	for _, o := range h.n.hosts {
		if o != h {
			pairs = append(pairs, [2]string{h.addr, o.addr}, [2]string{o.addr, h.addr})
		}
	}
	return h.n.cut(pairs)
}

// CutClients drops every packet between the Host and this machine. The other
// Hosts still reach it.
func (h *Host) CutClients() (lift func() error, err error) {
	if h.n == nil {
		return nil, errNoNetwork
	}
	return h.n.cut([][2]string{{h.addr, h.n.near}, {h.n.near, h.addr}})
}
