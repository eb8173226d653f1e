package endpoint

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// pooled is a Backend whose Get goes through a Pool.
type pooled struct {
	dcs.Backend
	p    *Pool
	call func(ctx context.Context, addr string) (dcs.Entry, error)
}

func (b pooled) Name() string   { return "pooled" }
func (b pooled) Caps() dcs.Caps { return dcs.Caps{} }
func (b pooled) Close() error   { return nil }

func (b pooled) Get(ctx context.Context, _ string) (dcs.Entry, error) {
	a, err := Do(ctx, b.p, Read, b.call)
	return a.Value, err
}

// The observer of a call learns which endpoint answered it.
func TestObserverLearnsTheEndpoint(t *testing.T) {
	p := started(Options{Seeds: []string{"a"}, Budget: time.Second, SampleInterval: -1})
	defer p.Close()
	b := pooled{p: p, call: func(context.Context, string) (dcs.Entry, error) { return dcs.Entry{}, nil }}
	answered := make(chan string, 1)
	s, err := dcs.New(b, dcs.Options{Observer: dcs.Observer{Call: func(ev dcs.CallEvent) { answered <- ev.Endpoint }}})
	require.NoError(t, err)
	defer s.Close()
	_, err = s.Get(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, "a", <-answered)
}
