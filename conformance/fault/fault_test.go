package fault

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// echo answers every line with itself.
func echo(t *testing.T) string {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	serveEcho(t, ln)
	return ln.Addr().String()
}

func serveEcho(t *testing.T, ln net.Listener) {
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

type caller struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, addr string) *caller {
	t.Helper()
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return &caller{t, c, bufio.NewReader(c)}
}

// say sends a line and returns the answer, within limit.
func (c *caller) say(line string, limit time.Duration) (string, error) {
	c.t.Helper()
	_ = c.SetDeadline(time.Now().Add(limit))
	if _, err := fmt.Fprintln(c, line); err != nil {
		return "", err
	}
	s, err := c.r.ReadString('\n')
	if len(s) > 0 {
		s = s[:len(s)-1]
	}
	return s, err
}

const (
	soon = 200 * time.Millisecond
	long = 5 * time.Second
)

func proxied(t *testing.T) (*Proxy, *caller) {
	t.Helper()
	p, err := NewProxy(t.Context(), "127.0.0.1:0", echo(t), ProxyOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	c := dial(t, p.Addr())
	s, err := c.say("hello", long)
	require.NoError(t, err)
	require.Equal(t, "hello", s)
	return p, c
}

func TestProxySilent(t *testing.T) {
	p, c := proxied(t)
	lift := p.Silent()
	_, err := c.say("late", soon)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	fresh := dial(t, p.Addr()) // accepts
	_, err = fresh.say("x", soon)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	lift()
	lift()
	_ = c.SetDeadline(time.Now().Add(long))
	s, err := c.r.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "late\n", s, "pending data were not delivered")
}

func TestProxyRefuse(t *testing.T) {
	p, c := proxied(t)
	lift := p.Refuse()
	_, err := c.say("x", long)
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	_, err = (&net.Dialer{}).DialContext(t.Context(), "tcp", p.Addr())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.NoError(t, lift())
	s, err := dial(t, p.Addr()).say("again", long)
	require.NoError(t, err)
	require.Equal(t, "again", s)
}

func TestProxyReset(t *testing.T) {
	p, c := proxied(t)
	lift := p.Reset()
	_, err := c.say("x", long)
	require.Error(t, err)
	_, err = dial(t, p.Addr()).say("x", long)
	require.ErrorIs(t, err, syscall.ECONNRESET)
	lift()
	_, err = dial(t, p.Addr()).say("x", long)
	require.NoError(t, err)
}

func TestProxyDelayIsPipelined(t *testing.T) {
	p, c := proxied(t)
	lift := p.Delay(300 * time.Millisecond)
	defer lift()
	_ = c.SetDeadline(time.Now().Add(long))
	began := time.Now()
	for range 5 {
		_, err := fmt.Fprintln(c, "x")
		require.NoError(t, err)
	}
	for range 5 {
		_, err := c.r.ReadString('\n')
		require.NoError(t, err)
	}
	took := time.Since(began)
	require.GreaterOrEqual(t, took, 300*time.Millisecond)
	require.Less(t, took, 900*time.Millisecond)
}

func TestProxyDropReply(t *testing.T) {
	p, c := proxied(t)
	lift := p.DropReply()
	_, err := c.say("lost", soon)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	lift()
	_, err = c.say("x", long)
	require.Error(t, err, "a connection that lost bytes must be reset")
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	_, err = dial(t, p.Addr()).say("x", long)
	require.NoError(t, err)
}

func TestProxyThrottle(t *testing.T) {
	p, c := proxied(t)
	defer p.Throttle(10)()
	began := time.Now()
	_, err := c.say("abcde", long) // six bytes, twice
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(began), 600*time.Millisecond)
}

func TestProxyRetarget(t *testing.T) {
	p, c := proxied(t)
	p.Retarget(echo(t))
	_, err := c.say("x", long)
	require.Error(t, err)
	_, err = dial(t, p.Addr()).say("x", long)
	require.NoError(t, err)
	require.EqualValues(t, 2, p.Accepted())
}

// cat is a process that echoes lines.
func cat(t *testing.T) (*Process, *bufio.Reader, io.Writer) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "cat")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	p, err := StartProcess(cmd)
	require.NoError(t, err)
	t.Cleanup(p.Kill)
	return p, bufio.NewReader(out), in
}

func TestProcessFreezeThawKill(t *testing.T) {
	p, out, in := cat(t)
	thaw, err := p.Freeze()
	require.NoError(t, err)
	_, err = fmt.Fprintln(in, "hello")
	require.NoError(t, err)
	got := make(chan string, 1)
	go func() {
		s, _ := out.ReadString('\n')
		got <- s
	}()
	select {
	case s := <-got:
		t.Fatalf("a frozen process answered %q", s)
	case <-time.After(soon):
	}
	thaw()
	require.Equal(t, "hello\n", <-got)
	p.Kill()
	require.Error(t, p.Err())
	_, err = p.Freeze()
	require.Error(t, err)
}

func TestProcessTerminateWhileFrozen(t *testing.T) {
	p, _, _ := cat(t)
	_, err := p.Freeze()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	p.Terminate(ctx)
	require.NoError(t, ctx.Err(), "the process had to be killed")
}

func network(t *testing.T, hosts int) *Network {
	t.Helper()
	n, err := NewNetwork(t.Context(), hosts)
	if errors.Is(err, ErrUnsupported) && os.Getenv("HOLDFAST_REQUIRE_SERVERS") != "1" {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	return n
}

func timedOut(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

func TestNetworkCuts(t *testing.T) {
	n := network(t, 3)
	var conns []*caller
	for i := range 3 {
		ln, err := n.Host(i).Listen(t.Context(), "tcp", n.Host(i).Addr()+":7000")
		require.NoError(t, err)
		serveEcho(t, ln)
		conns = append(conns, dial(t, n.Host(i).Addr()+":7000"))
	}
	peer := func(from, to int, limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		c, err := n.Host(from).Dial(ctx, "tcp", n.Host(to).Addr()+":7000")
		if err == nil {
			c.Close()
		}
		return err
	}
	client := func(i int, limit time.Duration) error {
		_, err := conns[i].say("x", limit)
		return err
	}
	require.NoError(t, peer(0, 1, long))

	heal, err := n.Host(0).CutPeers()
	require.NoError(t, err)
	require.True(t, timedOut(peer(0, 1, soon)))
	require.True(t, timedOut(peer(2, 0, soon)))
	require.NoError(t, peer(1, 2, long))
	require.NoError(t, client(0, long), "clients still reach it")
	require.NoError(t, heal())
	require.NoError(t, peer(0, 1, long))

	heal, err = n.Host(1).CutClients()
	require.NoError(t, err)
	require.ErrorIs(t, client(1, soon), os.ErrDeadlineExceeded)
	require.NoError(t, peer(0, 1, long), "its peers still reach it")
	require.NoError(t, client(0, long))
	require.NoError(t, heal())
	require.NoError(t, heal())
	_, err = Loopback().CutPeers()
	require.ErrorIs(t, err, ErrUnsupported)
}

// Packages are tested at the same time, and each process must choose ranges of addresses
// that the others do not have.
func TestNetworksOfSeveralProcesses(t *testing.T) {
	const child = "HOLDFAST_FAULT_NETWORKS"
	if os.Getenv(child) != "" {
		for range 5 {
			network(t, 1)
		}
		return
	}
	network(t, 1) // skips the test without network namespaces
	var all []*exec.Cmd
	var outputs [4]bytes.Buffer
	for i := range outputs {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$") //nolint:gosec // G702: this test binary
		cmd.Env = append(os.Environ(), child+"=1")
		cmd.Stdout, cmd.Stderr = &outputs[i], &outputs[i]
		require.NoError(t, cmd.Start())
		all = append(all, cmd)
	}
	for i, cmd := range all {
		require.NoError(t, cmd.Wait(), "%s", &outputs[i])
	}
}

func TestNetworkCommand(t *testing.T) {
	n := network(t, 1)
	out, err := n.Host(0).Command(t.Context(), "ip", "-o", "address").CombinedOutput()
	require.NoError(t, err)
	require.Contains(t, string(out), n.Host(0).Addr()+"/30")
}

func TestResolver(t *testing.T) {
	r := NewResolver(map[string][]netip.Addr{
		"a.test": {netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")},
	})
	look := func() ([]string, error) { return r.Net().LookupHost(t.Context(), "a.test") }
	addrs, err := look()
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"127.0.0.1", "::1"}, addrs)
	lift := r.Fail("A.test.")
	_, err = look()
	require.Error(t, err)
	lift()
	r.Set("a.test", netip.MustParseAddr("127.0.0.2"))
	addrs, err = look()
	require.NoError(t, err)
	require.Equal(t, []string{"127.0.0.2"}, addrs)
	_, err = r.Net().LookupHost(t.Context(), "b.test")
	var dns *net.DNSError
	require.ErrorAs(t, err, &dns)
	require.True(t, dns.IsNotFound)
	require.Positive(t, r.Asked())
}

func FuzzResolverReply(f *testing.F) {
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x04test\x00\x00\x01\x00\x01"))
	r := &Resolver{hosts: map[string][]netip.Addr{"a.test": {netip.MustParseAddr("127.0.0.1")}}, failed: map[string]int{}}
	f.Fuzz(func(t *testing.T, query []byte) {
		if reply := r.reply(query); reply != nil && (len(reply) < 12 || reply[2]&0x80 == 0) {
			t.Errorf("no answer: %x", reply)
		}
	})
}

// A test of a program whose store falls silent.
func ExampleProxy() {
	ctx := context.Background()
	store, _ := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	defer store.Close()
	p, err := NewProxy(ctx, "127.0.0.1:0", store.Addr().String(), ProxyOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Close()
	// The program under test is given p.Addr() instead of the store's address.
	lift := p.Silent()
	// ... it must give up its leadership by its deadline ...
	lift()
	// ... and find the store again.
	fmt.Println(p.Accepted(), "connections")
	// Output: 0 connections
}

func TestFreePorts(t *testing.T) {
	h := Loopback()
	ports, err := h.FreePorts(t.Context(), 20)
	require.NoError(t, err)
	seen := map[int]bool{}
	for _, port := range ports {
		require.False(t, seen[port])
		seen[port] = true
		if runtime.GOOS == "linux" {
			require.Less(t, port, 32768, "a port for outgoing connections")
		}
		l, err := h.Listen(t.Context(), "tcp", net.JoinHostPort(h.Addr(), strconv.Itoa(port)))
		require.NoError(t, err)
		require.NoError(t, l.Close())
	}
}

// A process that is being started has a copy of each socket until it executes its program.
func TestPortIsFreeWhileProcessesAreStarted(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can end the copies of a listener")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var starting sync.WaitGroup
	defer starting.Wait()
	defer cancel()
	for range 4 {
		starting.Go(func() {
			for ctx.Err() == nil {
				_ = exec.CommandContext(ctx, "true").Run() // the end of the test kills it
			}
		})
	}
	target := echo(t)
	for range 200 {
		addrs, err := FreeAddrs(ctx, 1)
		require.NoError(t, err)
		p, err := NewProxy(ctx, addrs[0], target, ProxyOptions{})
		require.NoError(t, err)
		lift := p.Refuse()
		_, err = (&net.Dialer{}).DialContext(ctx, "tcp", p.Addr())
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.NoError(t, lift())
		require.NoError(t, p.Close())
		p, err = NewProxy(ctx, addrs[0], target, ProxyOptions{})
		require.NoError(t, err)
		require.NoError(t, p.Close())
	}
}
