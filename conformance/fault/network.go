package fault

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// Host is one machine of a [Network], or this one.
type Host struct {
	name string // of its namespace; empty for this machine
	addr string
	n    *Network
}

// Loopback is this machine as a Host, for servers without a network of their
// own. It cannot cut anything.
func Loopback() *Host { return &Host{addr: "127.0.0.1"} }

// Addr is the Host's IP address.
func (h *Host) Addr() string { return h.addr }

// Command is a command that runs on the Host when it is started.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if h.name != "" {
		args = append([]string{"netns", "exec", h.name, name}, args...)
		name = "ip"
	}
	return exec.CommandContext(ctx, name, args...) //nolint:gosec // G204: the caller's command is the purpose
}

// Listen listens on the Host. It fits [ProxyOptions].
func (h *Host) Listen(ctx context.Context, network, addr string) (net.Listener, error) {
	return inside(h.name, func() (net.Listener, error) {
		return (&net.ListenConfig{}).Listen(ctx, network, addr)
	})
}

// Dial connects from the Host. It fits [ProxyOptions]. addr is an IP address
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

// Stalled reports whether a connection between the Host and another one waits
// to send again what was not acknowledged. TCP doubles that wait with every try:
// after a cut of seconds a connection stays silent for seconds more, though
// every packet would pass.
func (h *Host) Stalled() (bool, error) {
	if h.n == nil {
		return false, nil
	}
	tables, err := inside(h.name, func() (string, error) {
		v4, err := os.ReadFile("/proc/thread-self/net/tcp")
		if err != nil {
			return "", err
		}
		v6, err := os.ReadFile("/proc/thread-self/net/tcp6")
		return string(v4) + string(v6), err
	})
	for line := range strings.Lines(tables) {
		if to, again := resending(line); again && slices.ContainsFunc(h.n.hosts, func(o *Host) bool { return o != h && o.addr == to }) {
			return true, nil
		}
	}
	return false, err
}

// resending reads a line of the kernel's table: whereto the connection goes, and
// whether something was sent again and is to be once more.
func resending(line string) (to string, again bool) {
	const (
		remote, timer, tries = 2, 5, 6 // columns
		retransmit           = "01:"
	)
	f := strings.Fields(line)
	if len(f) <= tries {
		return "", false
	}
	addr, _, _ := strings.Cut(f[remote], ":")
	word, err := strconv.ParseUint(addr[max(0, len(addr)-8):], 16, 32) // IPv4, and that in IPv6
	if err != nil {
		return "", false // the table's title
	}
	var v4 [net.IPv4len]byte
	binary.NativeEndian.PutUint32(v4[:], uint32(word))
	return netip.AddrFrom4(v4).String(), strings.HasPrefix(f[timer], retransmit) && strings.Trim(f[tries], "0") != ""
}

// CutClients drops every packet between the Host and this machine. The other
// Hosts still reach it.
func (h *Host) CutClients() (lift func() error, err error) {
	if h.n == nil {
		return nil, errNoNetwork
	}
	return h.n.cut([][2]string{{h.addr, h.n.near}, {h.n.near, h.addr}})
}
