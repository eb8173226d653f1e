// Command failover is a demonstration that needs nothing but Go: three real
// processes, each with an embedded Raft node and an elector, elect a leader, hand
// over, and survive a kill -9, a freeze, a database that does not stop, an outage of
// the store with and without failsafe mode, and the death of the store's own leader,
// while a client writes through the leader. At the end it reports the cost of each event, and exits with status 1 if
// a guarantee was broken.
//
//	go run ./examples/failover
//
// With -store URL it plays on a store that is there already, in a tree of its
// own, which it removes at the end; the store's own servers are left alone.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	ttl  time.Duration
	acts []string
	json bool

	// store is the URL of a store that is there already; empty means the
	// members' own nodes.
	store string
	// The settings of a member process, which the demonstration starts itself.
	member    bool
	name, api string
}

// actNames lists the acts in the order in which they are played.
var actNames = []string{"election", "switchover", "hang", "kill", "freeze", "failsafe", "outage", "store-leader", "disk-lost", "replace"}

// ownActs are those that injure the members' own nodes.
var ownActs = []string{"failsafe", "outage", "store-leader", "disk-lost", "replace"}

func parse(args []string) (options, error) {
	o := options{}
	var acts string
	f := flag.NewFlagSet("failover", flag.ContinueOnError)
	f.DurationVar(&o.ttl, "ttl", 3*time.Second, "how long a lease lives without a renewal, 1.5s to 30s")
	f.StringVar(&acts, "acts", strings.Join(actNames, ","), "the acts to play, in this order; election is always the first")
	f.BoolVar(&o.json, "json", false, "print one JSON event a line instead of the timeline")
	f.BoolVar(&o.member, "member", false, "run as a member process (the demonstration starts these itself)")
	f.StringVar(&o.name, "name", "", "with -member: its name")
	f.StringVar(&o.api, "api", "", "with -member: the address of its service")
	f.StringVar(&o.store, "store", "", "the URL of a store that is there already, like etcd3://10.0.0.1:2379/demo; default: the members' own nodes")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q: the demonstration takes none", f.Arg(0))
	}
	if o.ttl < 1500*time.Millisecond || o.ttl > 30*time.Second {
		return o, fmt.Errorf("-ttl %v is outside 1.5s to 30s: try -ttl 3s", o.ttl)
	}
	given := false
	f.Visit(func(f *flag.Flag) { given = given || f.Name == "acts" })
	for _, a := range strings.Split(acts, ",") {
		a = strings.TrimSpace(a)
		if !slices.Contains(actNames, a) {
			return o, fmt.Errorf("-acts: unknown act %q: choose from %s", a, strings.Join(actNames, ", "))
		}
		if slices.Contains(ownActs, a) && o.store != "" {
			if given {
				return o, fmt.Errorf("-acts %s is for the members' own nodes: leave it out with -store", a)
			}
			continue
		}
		if a != "election" {
			o.acts = append(o.acts, a)
		}
	}
	o.acts = append([]string{"election"}, o.acts...)
	return o, nil
}

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "failover:", err)
		return 2
	}
	if o.member {
		if err := runMember(o); err != nil {
			fmt.Fprintf(os.Stderr, "failover: member %s: %v\n", o.name, err)
			return 1
		}
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), endings()...)
	defer stop()
	broken, err := play(ctx, o)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "failover: interrupted; every process has been ended")
		return 130
	case err != nil:
		fmt.Fprintln(os.Stderr, "failover:", err)
		return 1
	case broken:
		return 1
	}
	return 0
}

// endings are the signals after which everything is cleaned up: Ctrl-C, a
// terminal that was closed, and a reader of the output that went away.
func endings() []os.Signal {
	list := []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE}
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		list = append(list, syscall.SIGHUP)
	}
	return list
}
