// Command leader is the smallest real program on a store: it takes the lock of
// a scope, keeps it, and says so. Start it several times:
//
//	go run ./examples/leader -store 'etcd3://127.0.0.1:2379/demo' -scope pg -name a
//
// With raft://HOST,HOST,HOST/ROOT it is a client of raftstore's nodes, and with
// raft:///DIRECTORY?… a node itself.
//
// elector.Lead does the election; the work of the leader is in the function lead.
// With -json it prints one event a line. From "leading" to "lost" or "released" it is
// the only leader. SIGTERM and Ctrl-C release the lock.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	_ "github.com/holdfast-dcs/holdfast/consul" // the consul:// scheme
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
	_ "github.com/holdfast-dcs/holdfast/etcd3" // the etcd3:// scheme
	"github.com/holdfast-dcs/holdfast/examples/internal/event"
	_ "github.com/holdfast-dcs/holdfast/raftstore" // the raft:// scheme
	_ "github.com/holdfast-dcs/holdfast/zookeeper" // the zookeeper:// scheme
)

// program is one member of a scope.
type program struct {
	scope, name string
	store       *dcs.Store
	narrator    *event.Narrator
	ended       context.Context //nolint:containedctx // it ends with the program
}

// lead stands for the work that only the leader may do. It returns when ctx ends:
// when the lock is lost or about to run out, or when the program is asked to end. The
// lock is given back after that.
func (p *program) lead(ctx context.Context, l *elector.Leadership) error {
	t := p.narrator.Lead(l)
	<-ctx.Done()
	end, at := event.Released, event.Mono()
	if p.ended.Err() == nil {
		end, at = event.Lost, min(at, t.Deadline())
	}
	t.End(end, at, "")
	return nil
}

// follow prints the present leader.
func (p *program) follow(ctx context.Context) {
	last := ""
	for s, err := range p.store.Watch(ctx, p.scope+"/leader") {
		if err != nil {
			continue // the store does not answer just now: Watch goes on
		}
		e, _ := s.Get(p.scope + "/leader")
		if leader := string(e.Value); leader != last && leader != "" && leader != p.name {
			p.narrator.Emit(event.Event{Event: event.Following, Leader: leader})
		}
		last = string(e.Value)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("leader", flag.ContinueOnError)
	url := f.String("store", "", "the store's URL, like etcd3://10.0.0.1:2379/demo; mandatory")
	scope := f.String("scope", "demo", "whose lock it is: the first part of the keys")
	name := f.String("name", "", "this member's name; mandatory")
	ttl := f.Duration("ttl", 10*time.Second, "how long a lease lives without a renewal")
	asJSON := f.Bool("json", false, "print one JSON event a line")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *url == "" || *name == "" {
		return fmt.Errorf("-store and -name are mandatory, like -store etcd3://127.0.0.1:2379/demo -name a: %w", flag.ErrHelp)
	}
	if err := errors.Join(cluster.CheckScope(*scope), cluster.CheckName(*name)); err != nil {
		return err
	}
	p := &program{scope: *scope, name: *name, ended: ctx, narrator: &event.Narrator{Log: event.NewLog(out), Member: *name}}
	if !*asJSON {
		p.narrator.Log = event.NewText(out)
	}
	var err error
	p.store, err = dcs.Open(ctx, *url, dcs.Options{
		Timing:   dcs.Timing{TTL: *ttl, LoopWait: *ttl / 3, RetryTimeout: *ttl / 3},
		Observer: p.narrator.Observer(),
	})
	if err != nil {
		return err
	}
	defer func() { _ = p.store.Close() }()
	following := make(chan struct{})
	watching, stop := context.WithCancel(ctx)
	go func() { defer close(following); p.follow(watching) }()
	err = elector.Lead(ctx, elector.Config{Store: p.store, Scope: p.scope, Name: p.name}, p.lead)
	stop()
	<-following
	return err
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "leader:", err)
			os.Exit(2) //nolint:gocritic // nothing is open
		}
		fmt.Fprintln(os.Stderr, "leader:", err)
		os.Exit(1)
	}
}
