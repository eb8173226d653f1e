//go:build unix

// Command vip keeps a virtual address, or anything else that one command starts and
// another one stops, on one member of a cluster, as keepalived does, but by a lock in a
// store. README.md has the installation:
//
//	vip -store 'etcd3://10.0.0.1:2379/demo' -scope web -name a -listen 10.0.0.1:8008 \
//		-promote 'ip addr replace 10.0.0.100/32 dev eth0' -demote 'ip addr flush dev eth0 to 10.0.0.100/32'
//
// elector.Run does the election, and electorhttp serves the health checks of load
// balancers. SIGTERM and Ctrl-C hand over. The exit status is 70 if the service could
// be stopped neither by -demote nor by -fence.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	_ "github.com/holdfast-dcs/holdfast/consul" // the consul:// scheme
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
	"github.com/holdfast-dcs/holdfast/dcs/elector/electorhttp"
	_ "github.com/holdfast-dcs/holdfast/etcd3"     // the etcd3:// scheme
	_ "github.com/holdfast-dcs/holdfast/raftstore" // the raft:// scheme
	_ "github.com/holdfast-dcs/holdfast/zookeeper" // the zookeeper:// scheme
)

// passwordEnv is the environment variable with the password of requests that change
// the cluster. The user is admin.
const passwordEnv = "HOLDFAST_PASSWORD"

// options are the command line.
type options struct {
	store, scope, name, listen, api string
	promote, demote, check, fence   string
	ttl                             time.Duration
}

func parse(args []string) (o options, err error) {
	f := flag.NewFlagSet("vip", flag.ContinueOnError)
	f.StringVar(&o.store, "store", "", "the store's `URL`, like etcd3://10.0.0.1:2379/demo; mandatory")
	f.StringVar(&o.scope, "scope", "vip", "the name of the cluster: the first part of the keys")
	f.StringVar(&o.name, "name", "", "this member's name, which no other one has; mandatory")
	f.StringVar(&o.listen, "listen", "127.0.0.1:8008", "the `address` of the health checks")
	f.StringVar(&o.api, "api", "", "the `URL` of the health checks for other machines; default: http://LISTEN")
	f.StringVar(&o.promote, "promote", "", "the `command` that makes this member the primary; mandatory")
	f.StringVar(&o.demote, "demote", "", "the `command` that ends that; mandatory")
	f.StringVar(&o.check, "check", "", "the `command` that exits with status 0 on the primary and with 1 on a replica; default: the last command that succeeded counts")
	f.StringVar(&o.fence, "fence", "", "the `command` that ends it by force if -demote fails or takes too long; default: -demote, once more")
	f.DurationVar(&o.ttl, "ttl", 10*time.Second, "how long a lease lives without a renewal")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	for _, name := range []string{"store", "name", "promote", "demote"} {
		if f.Lookup(name).Value.String() == "" {
			return o, fmt.Errorf("-%s is mandatory: %w", name, flag.ErrHelp)
		}
	}
	if o.fence == "" {
		o.fence = o.demote
	}
	if o.api == "" {
		host, _, _ := net.SplitHostPort(o.listen)
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			return o, fmt.Errorf("-api is mandatory with -listen %s, which is no address of this machine: %w", o.listen, flag.ErrHelp)
		}
		o.api = "http://" + o.listen
	}
	return o, errors.Join(cluster.CheckScope(o.scope), cluster.CheckName(o.name))
}

// timing spreads the TTL: a third of it is for a demotion when renewals fail, of which
// the second half is for fencing.
func (o options) timing() elector.Timing {
	return elector.Timing{
		Timing:      dcs.Timing{TTL: o.ttl, LoopWait: o.ttl / 5, RetryTimeout: o.ttl / 5},
		StopTimeout: o.ttl / 3, FenceTimeout: o.ttl / 6, PromoteTimeout: o.ttl,
	}
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	timing, log := o.timing(), slog.New(slog.NewTextHandler(os.Stderr, nil))
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen) // a second process of this member ends here
	if err != nil {
		return fmt.Errorf("-listen: %w", err)
	}
	defer func() { _ = listener.Close() }()
	s := &service{options: o, timing: timing, log: log, running: map[int]chan struct{}{}}
	if err := s.reset(ctx); err != nil {
		return err
	}
	store, err := dcs.Open(ctx, o.store, dcs.Options{Timing: timing.Timing, Logger: log})
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	e, err := elector.New(elector.Config{
		Store: store, Scope: o.scope, Name: o.name, Service: s, NoKeeper: true, Timing: timing, Logger: log,
		Member: cluster.Member{APIURL: o.api},
	})
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           electorhttp.New(e, electorhttp.Options{Authorize: electorhttp.BasicAuth("admin", os.Getenv(passwordEnv))}),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
	}
	defer func() { _ = server.Close() }()
	go func() { _ = server.Serve(listener) }() // ends with Close
	return e.Run(ctx)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "vip:", err)
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(2) //nolint:gocritic // nothing is open
		}
		os.Exit(1)
	}
}
