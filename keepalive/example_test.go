package keepalive_test

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/holdfast-dcs/holdfast/keepalive"
)

// linux is the row of the table that the examples use, so that they print the same on every system.
func linux() keepalive.Limits { return keepalive.Systems()[0] }

func ExampleDeriveFor() {
	values, report := keepalive.DeriveFor(linux(), 30*time.Second, 10*time.Second)
	fmt.Println(values)
	fmt.Println("within the budget:", report.Met)
	// Output:
	// idle 15s, interval 3s, count 3, user timeout 17s
	// within the budget: true
}

// A TTL of one second cannot be met with timers of whole seconds: the report has the shortest time that can.
func ExampleDeriveFor_tooSmall() {
	_, report := keepalive.DeriveFor(linux(), time.Second, 300*time.Millisecond)
	fmt.Println("within the budget:", report.Met)
	for _, line := range report.Adjustments {
		fmt.Println(line)
	}
	// Output:
	// within the budget: false
	// idle 0s is below Linux's 1s: using 1s
	// interval 0s is below Linux's 1s: using 1s
	// a budget of 1s cannot be met on Linux: silence is noticed after 2.285714285s at the latest
}

func ExampleConfig_ClampFor() {
	c := keepalive.Config{Idle: 20 * time.Second, Interval: 33326 * time.Second, Count: 3}
	c, adjusted := c.ClampFor(linux())
	fmt.Println(c)
	for _, a := range adjusted {
		fmt.Println(a)
	}
	// Output:
	// idle 20s, interval 32767s, count 3, user timeout off
	// interval 33326s is above Linux's 32767s: using 32767s
}

// The silence that goes unnoticed when the user timeout is the TTL, here 30 s, and data is written 18 s into it.
func ExampleConfig_SilenceFor() {
	c := keepalive.Config{Idle: 20 * time.Second, Interval: 3 * time.Second, Count: 3, UserTimeout: 30 * time.Second}
	_, unacked := c.SilenceFor(linux(), 18*time.Second)
	fmt.Println("up to", unacked.Round(time.Second))
	// Output: up to 53s
}

func ExampleDialer() {
	values, _ := keepalive.Derive(30*time.Second, 10*time.Second)
	ctx := context.Background()
	ln, err := keepalive.Listen(ctx, "tcp", "127.0.0.1:0", values)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ln.Close()

	d := &keepalive.Dialer{Config: values, Timeout: time.Second, Wrapped: true}
	conn, err := d.DialContext(ctx, "tcp", ln.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	_, recognised := conn.(*net.TCPConn)
	fmt.Println("recognised as a bare TCP connection:", recognised)
	// Output: recognised as a bare TCP connection: false
}

func ExampleApply() {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	fmt.Println(keepalive.Apply(a, keepalive.Default())) // not TCP: left alone
	_, err := keepalive.Effective(a)
	fmt.Println(err)
	// Output:
	// <nil>
	// keepalive: not a TCP connection
}
