package testcluster

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Ejection waits for the ejection of an endpoint for belonging to another store.
type Ejection struct {
	at   string
	once sync.Once
	seen chan struct{}
}

// NewEjection returns the Ejection of endpoint, for one client.
func NewEjection(endpoint string) *Ejection {
	return &Ejection{at: endpoint, seen: make(chan struct{})}
}

// Observer returns the client's observer.
func (e *Ejection) Observer() dcs.Observer {
	return dcs.Observer{Endpoint: func(ev dcs.EndpointEvent) {
		if ev.Change == dcs.Ejected && ev.From == e.at && strings.Contains(ev.Reason, "the server belongs to ") {
			e.once.Do(func() { close(e.seen) })
		}
	}}
}

// Await requires that the endpoint is ejected.
func (e *Ejection) Await(t *testing.T) {
	t.Helper()
	select {
	case <-e.seen:
	case <-time.After(10 * time.Second):
		require.Fail(t, "the server of another store is not ejected", e.at)
	}
}
