// Command leader is the smallest real program on a store: it takes the lock of
// a scope, keeps it, and says so. Start it several times:
//
//	go run ./examples/leader -store 'etcd3://127.0.0.1:2379/demo' -scope pg -name a
//
// With raft://HOST,HOST,HOST/ROOT it is a client of raftstore's nodes, and with
// raft:///DIRECTORY?… a node itself.
//
// Its logic is in the functions compete and lead. With -json it prints one
// event a line; "leading" until "lost" or "released" is exactly the time in
// which it was the leader. SIGTERM and Ctrl-C release the lock.
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
	_ "github.com/holdfast-dcs/holdfast/etcd3" // the etcd3:// scheme
	"github.com/holdfast-dcs/holdfast/examples/internal/event"
	_ "github.com/holdfast-dcs/holdfast/raftstore" // the raft:// scheme
	_ "github.com/holdfast-dcs/holdfast/zookeeper" // the zookeeper:// scheme
)

// program is one member of a scope.
type program struct {
	scope, name string
	store       *dcs.Store
	say         *event.Narrator
}

// compete publishes the member's key and takes the lock whenever it is free,
// for as long as the session lives.
func (p *program) compete(ctx context.Context) error {
	s, err := p.store.NewSession(ctx, dcs.SessionOptions{})
	if err != nil {
		return err
	}
	defer p.shortly(s.Close) // releases the lock
	if _, err := s.Publish(ctx, p.scope+"/members/"+p.name, []byte(p.name)); err != nil {
		return err
	}
	for s.Err() == nil {
		hold, err := s.Acquire(ctx, p.scope+"/leader", []byte(p.name))
		if err != nil {
			return err
		}
		p.lead(ctx, hold)
	}
	return s.Err()
}

// lead stands for the work that only the leader may do.
func (p *program) lead(ctx context.Context, hold *dcs.Hold) {
	leading := p.say.Lead(hold)
	select {
	case <-hold.Done(): // lost: stop at once
		leading.Ended()
	case <-ctx.Done(): // asked to end: hand over
		p.shortly(func(ctx context.Context) error { leading.Release(ctx); return nil })
	}
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
			p.say.Emit(event.Event{Event: event.Following, Leader: leader})
		}
		last = string(e.Value)
	}
}

// shortly does the work of the end, within the budget of two calls.
func (p *program) shortly(f func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*p.store.Timing().RetryTimeout)
	defer cancel()
	if err := f(ctx); err != nil {
		p.say.Emit(event.Event{Event: event.Error, Reason: err.Error()})
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
	if err := dcs.CheckMemberKey(*scope + "/members/" + *name); err != nil {
		return err
	}
	p := &program{scope: *scope, name: *name, say: &event.Narrator{Log: event.NewLog(out), Member: *name}}
	if !*asJSON {
		p.say.Log = event.NewText(out)
	}
	var err error
	p.store, err = dcs.Open(ctx, *url, dcs.Options{
		Timing:   dcs.Timing{TTL: *ttl, LoopWait: *ttl / 3, RetryTimeout: *ttl / 3},
		Observer: p.say.Observer(),
	})
	if err != nil {
		return err
	}
	defer func() { _ = p.store.Close() }()
	following := make(chan struct{})
	go func() { defer close(following); p.follow(ctx) }()
	for ctx.Err() == nil {
		if err := p.compete(ctx); err != nil && ctx.Err() == nil {
			p.say.Emit(event.Event{Event: event.Error, Reason: err.Error()})
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	<-following
	return nil
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
