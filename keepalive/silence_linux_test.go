package keepalive

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// requireServers makes a test that cannot run fail instead of being skipped.
const requireServers = "HOLDFAST_REQUIRE_SERVERS"

func cannotRun(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv(requireServers) == "1" {
		t.Fatalf("%s=1: "+format, append([]any{requireServers}, args...)...)
	}
	t.Skipf(format, args...)
}

var networks atomic.Int32

// network is two network namespaces joined by a cable: a packet that is dropped in one never reaches the other, and neither
// touches the machine's own network.
type network struct {
	near, far         string // namespaces
	nearAddr, farAddr string
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	if os.Getuid() != 0 {
		cannotRun(t, "a network namespace takes root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		cannotRun(t, "there is no ip command: %v", err)
	}
	id := fmt.Sprintf("hfka%d-%d", os.Getpid(), networks.Add(1))
	n := &network{near: id + "a", far: id + "b", nearAddr: "10.99.0.1", farAddr: "10.99.0.2"}
	const nearMAC, farMAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
	if out, err := run(t, "netns add "+n.near); err != nil {
		cannotRun(t, "a network namespace cannot be made: %v: %s", err, out)
	}
	t.Cleanup(func() { n.mustRun(t, "netns del "+n.near) })
	n.mustRun(t, "netns add "+n.far)
	t.Cleanup(func() { n.mustRun(t, "netns del "+n.far) })
	if out, err := run(t, fmt.Sprintf("link add v0 netns %s address %s type veth peer name v0 netns %s address %s",
		n.near, nearMAC, n.far, farMAC)); err != nil {
		cannotRun(t, "a veth pair cannot be made: %v: %s", err, out)
	}
	// The neighbours are fixed, so that a silent peer is silent and not "no route to host".
	n.mustRun(t, "-n "+n.near+" address add "+n.nearAddr+"/24 dev v0")
	n.mustRun(t, "-n "+n.far+" address add "+n.farAddr+"/24 dev v0")
	n.mustRun(t, "-n "+n.near+" link set v0 up")
	n.mustRun(t, "-n "+n.far+" link set v0 up")
	n.mustRun(t, "-n "+n.near+" neigh replace "+n.farAddr+" lladdr "+farMAC+" dev v0 nud permanent")
	n.mustRun(t, "-n "+n.far+" neigh replace "+n.nearAddr+" lladdr "+nearMAC+" dev v0 nud permanent")
	return n
}

func run(t *testing.T, args string) (string, error) {
	// Not t.Context: cleanups run after it has ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ip", strings.Fields(args)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (n *network) mustRun(t *testing.T, args string) {
	t.Helper()
	if out, err := run(t, args); err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

// silence drops every packet that the given side would send, acknowledgements included.
func (n *network) silence(t *testing.T, namespace string) {
	t.Helper()
	victim := n.nearAddr
	if namespace == n.near {
		victim = n.farAddr
	}
	n.mustRun(t, "-n "+namespace+" route add blackhole "+victim+"/32")
}

// inside runs f on a thread of its own in the namespace. A socket stays in the namespace it was made in, so only making
// it has to happen there. The thread is not given back: it ends with its goroutine.
func inside[T any](t *testing.T, namespace string, f func() (T, error)) T {
	t.Helper()
	type result struct {
		value T
		err   error
	}
	ch := make(chan result)
	go func() {
		runtime.LockOSThread()
		var r result
		r.err = enter(namespace)
		if r.err == nil {
			r.value, r.err = f()
		}
		ch <- r
	}()
	r := <-ch
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.value
}

func enter(namespace string) error {
	file, err := os.Open("/var/run/netns/" + namespace)
	if err != nil {
		return err
	}
	defer file.Close()
	return unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
}

// connect makes a connection from near to far with our values on both ends.
func (n *network) connect(t *testing.T, c Config) (near, far net.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	ln := inside(t, n.far, func() (net.Listener, error) { return Listen(ctx, "tcp", n.farAddr+":0", c) })
	defer ln.Close()
	near = inside(t, n.near, func() (net.Conn, error) {
		return (&Dialer{Config: c, Wrapped: true}).DialContext(ctx, "tcp", ln.Addr().String())
	})
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	for _, conn := range []net.Conn{near, far} {
		if got := effective(t, conn); got != c {
			t.Fatalf("the socket holds %v, want %v", got, c)
		}
	}
	return near, far
}

// silentCase is one connection whose peer goes silent.
type silentCase struct {
	name       string
	config     Config
	writeAfter time.Duration // zero: nothing is written
	accepted   bool          // the accepting side is the one that is left alone
	late       bool          // the TTL passes unnoticed

	conn      net.Conn
	lastHeard time.Time
	wrote     time.Duration // when it was really written, after lastHeard
	took      time.Duration
	err       error
}

// start makes the connection, lets the peer speak once and silences it.
func (c *silentCase) start(t *testing.T) {
	t.Helper()
	n := newNetwork(t)
	conn, other := n.connect(t, c.config)
	quiet := n.far
	if c.accepted {
		conn, other, quiet = other, conn, n.near
	}
	if _, err := other.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	c.conn, c.lastHeard = conn, time.Now()
	n.silence(t, quiet)
}

// wait writes when it is time to and waits until the kernel gives the connection up, or for limit.
func (c *silentCase) wait(limit time.Duration) {
	if c.writeAfter > 0 {
		timer := time.NewTimer(time.Until(c.lastHeard.Add(c.writeAfter)))
		defer timer.Stop()
		<-timer.C
		if _, c.err = c.conn.Write([]byte("y")); c.err != nil {
			return
		}
		c.wrote = time.Since(c.lastHeard)
	}
	if c.err = c.conn.SetReadDeadline(c.lastHeard.Add(limit)); c.err != nil {
		return
	}
	_, c.err = c.conn.Read(make([]byte, 1))
	c.took = time.Since(c.lastHeard)
}

// A peer that goes silent, its packets dropped, is noticed within the time that Derive promises: on an idle connection,
// on one that is written to, and on the accepting side. The last case is why the user timeout is not simply the TTL.
func TestSilentPeerIsNoticed(t *testing.T) {
	t.Parallel()
	const ttl, loopWait = 6 * time.Second, 2 * time.Second
	derived, rep := Derive(ttl, loopWait)
	if !rep.Met {
		t.Fatalf("a TTL of %s is not met: %+v", ttl, rep)
	}
	cases := []*silentCase{
		{name: "idle", config: derived},
		{name: "written to", config: derived, writeAfter: rep.MaxGap},
		{name: "accepted, idle", config: derived, accepted: true},
		{name: "accepted, written to", config: derived, accepted: true, writeAfter: rep.MaxGap},
		// As Patroni has it: loop_wait+retry_timeout, the rest of the TTL over three probes, the TTL as user timeout.
		{
			name: "TTL as user timeout", late: true, writeAfter: rep.MaxGap,
			config: Config{Idle: 4 * time.Second, Interval: time.Second, Count: 3, UserTimeout: ttl},
		},
	}
	for _, c := range cases {
		c.start(t)
	}
	var all sync.WaitGroup
	for _, c := range cases {
		all.Go(func() { c.wait(2 * ttl) })
	}
	stop := make(chan struct{})
	lag := measureLag(stop)
	all.Wait()
	close(stop)
	slack := <-lag
	for _, c := range cases {
		// The machine may have been late to write and late to wake the reader: neither is the kernel's doing.
		promised := rep.Achievable + slack + max(0, c.wrote-c.writeAfter)
		t.Logf("%s: %v: noticed after %s (promised %s, TTL %s, machine late by %s)", c.name, c.config,
			c.took.Round(time.Millisecond), rep.Achievable.Round(time.Millisecond), ttl, slack.Round(time.Millisecond))
		switch {
		case !errors.Is(c.err, syscall.ETIMEDOUT):
			t.Errorf("%s: after %s the connection ended with %v, want ETIMEDOUT", c.name, c.took, c.err)
		case c.late && c.took <= ttl:
			t.Errorf("%s: noticed within the TTL after %s: the comparison no longer shows anything", c.name, c.took)
		case !c.late && c.took > promised:
			t.Errorf("%s: noticed after %s, promised were %s", c.name, c.took, promised)
		case c.took < c.config.Idle:
			t.Errorf("%s: noticed after %s, before the first probe was due: not for silence", c.name, c.took)
		}
	}
}

// measureLag sends, once stop is closed, the most that a timer of this process was late meanwhile.
func measureLag(stop <-chan struct{}) <-chan time.Duration {
	most := make(chan time.Duration, 1)
	go func() {
		const period = 20 * time.Millisecond
		var worst time.Duration
		for {
			began := time.Now()
			select {
			case <-stop:
				most <- worst
				return
			case <-time.After(period):
				worst = max(worst, time.Since(began)-period)
			}
		}
	}()
	return most
}
