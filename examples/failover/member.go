package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	_ "github.com/holdfast-dcs/holdfast/consul" // the consul:// scheme
	"github.com/holdfast-dcs/holdfast/dcs"
	dcscluster "github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/dcs/cluster/clusterhttp"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
	"github.com/holdfast-dcs/holdfast/dcs/elector/electorhttp"
	_ "github.com/holdfast-dcs/holdfast/etcd3" // the etcd3:// scheme
	"github.com/holdfast-dcs/holdfast/examples/internal/event"
	_ "github.com/holdfast-dcs/holdfast/raftstore" // the raft:// scheme
	_ "github.com/holdfast-dcs/holdfast/zookeeper" // the zookeeper:// scheme
)

// The keys of the demonstration: the cluster's, which are the elector's, and those of
// the records.
const (
	scope   = "main"
	dataKey = "data"
)

// member is one of the three processes: a node of the store, a database, and the
// elector that promotes and demotes it.
type member struct {
	api     string
	store   *dcs.Store
	db      *database
	elector *elector.Elector
}

// runMember is the main function of a member process. It ends when standard
// input does, so that it never outlives the process that started it.
func runMember(o options) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	timing, narrator := timingFor(o.ttl), &event.Narrator{Log: event.NewLog(os.Stdout), Member: o.name}
	store, err := dcs.Open(ctx, o.store, dcs.Options{Timing: timing, Observer: narrator.Observer()})
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	m := &member{api: o.api, store: store, db: newDatabase(narrator)}
	m.elector, err = elector.New(elector.Config{
		Store: store, Scope: scope, Name: o.name, Service: m.db, NoKeeper: true,
		Timing: elector.Timing{Timing: timing, HandoverTimeout: o.ttl}, // of a store that grants longer leases, too
		Member: dcscluster.Member{APIURL: "http://" + o.api},
		Asker:  clusterhttp.New(nil), Failsafe: electorhttp.NewFailsafeClient(nil, os.Getenv(tokenEnv)),
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	server, err := m.serve(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }()
	return m.elector.Run(ctx)
}

// timingFor spreads a TTL over Timing's rule, LoopWait + 2*RetryTimeout <= TTL.
func timingFor(ttl time.Duration) dcs.Timing {
	return dcs.Timing{TTL: ttl, LoopWait: ttl / 3, RetryTimeout: ttl / 3}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// serve starts the member's HTTP service.
func (m *member) serve(ctx context.Context) (*http.Server, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", m.api)
	if err != nil {
		return nil, fmt.Errorf("the service's address: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", electorhttp.New(m.elector, electorhttp.Options{FailsafeToken: os.Getenv(tokenEnv)}))
	mux.HandleFunc("POST /write/{n}", m.write)
	mux.HandleFunc("POST /switchover/{to}", m.switchover)
	mux.HandleFunc("POST /failsafe-mode/{on}", m.failsafeMode)
	mux.HandleFunc("POST /hang", m.hang)
	mux.HandleFunc("POST /stale-write", m.staleWrite)
	mux.HandleFunc("GET /data", m.data)
	mux.HandleFunc("GET /node", m.node)
	mux.HandleFunc("POST /members/add/{id}/{addr}", m.addMember)
	mux.HandleFunc("POST /members/remove/{id}", m.removeMember)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	go func() { _ = server.Serve(l) }()
	return server, nil
}
