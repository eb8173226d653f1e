package consul

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// identityIn separates the random part of an identity from the name of the datacenter in
// which it was created. An identity without a datacenter is valid everywhere.
const identityIn = "@"

// newIdentity returns an identity for a store in the datacenter dc, which is empty if it
// is not known.
func newIdentity(dc string) string {
	if dc == "" {
		return rand.Text()
	}
	return rand.Text() + identityIn + dc
}

// located returns the identity of the store at the agent addr of the datacenter dc, where
// the identity key has the value stored. In another datacenter than its own the value is
// a copy, for example by consul-replicate, and so the identity of another store. If dc is
// empty, the datacenter is not known, and the agent counts as one of this Store's.
func (b *Backend) located(addr, stored, dc string) string {
	id, created, recorded := strings.Cut(stored, identityIn)
	switch {
	case !recorded || dc == created:
		return stored
	case dc == "":
		now := b.ident.ID()
		if own, _, _ := strings.Cut(now, identityIn); own == id {
			return now
		}
		return stored
	}
	b.agents.copied.Do(func() {
		b.c.Logger.Warn("the keys of an agent were copied from another datacenter: do not replicate keys below the root", "endpoint", addr, "datacenter", dc, "created_in", created)
	})
	return id + identityIn + dc
}

// locatedOn is located for the value that was read on a new connection. It reads the
// agent's datacenter on that connection if it is needed to judge the identity, or to
// create one.
func (c *conn) locatedOn(ctx context.Context, nc net.Conn, client *api.Client, stored string) (string, error) {
	b := c.b
	dc := b.c.Datacenter // each request names it
	if dc == "" && (stored == "" || strings.Contains(stored, identityIn)) && b.agents.answers(c.addr, silentFor*b.c.Timing.RetryTimeout) {
		var err error
		if dc, err = c.datacenterOn(ctx, nc, client); err != nil {
			return "", err
		}
	}
	b.agents.learn(c.addr, dc)
	if stored == "" {
		return "", nil
	}
	return b.located(c.addr, stored, dc), nil
}

const (
	// catalogShare is the number of parts of RetryTimeout of which one is the limit for
	// reading the datacenter.
	catalogShare = 4
	// silentFor is the number of RetryTimeouts for which the datacenter of an agent that
	// does not return it is not read again.
	silentFor = 3
	// unreadable is the number of reads in a row after which an agent counts as one that
	// does not return its datacenter. One read may be cut short by a call that has ended.
	unreadable = 2
)

// errSilentCatalog means that an agent did not return its datacenter in time. The
// connection cannot be used, and the datacenter is not read on the next one.
var errSilentCatalog = errors.New("the agent did not return its datacenter in time")

// datacenterOn reads the datacenter of the agent on a connection that is not in use yet.
func (c *conn) datacenterOn(ctx context.Context, nc net.Conn, client *api.Client) (string, error) {
	limit, cancel := context.WithTimeout(ctx, c.b.c.Timing.RetryTimeout/catalogShare)
	defer cancel()
	stop := context.AfterFunc(limit, func() { nc.Close() })
	defer stop()
	dc, err := readDatacenter(limit, client)
	switch {
	case err == nil:
		return dc, nil
	case ctx.Err() != nil:
		err = ctx.Err()
	case limit.Err() != nil:
		c.b.agents.silent(c.addr, unreadable)
		return "", errSilentCatalog
	}
	c.b.agents.silent(c.addr, 1)
	return "", err
}

// readDatacenter returns the datacenter of the agent that client uses, or "" if the agent
// refuses to return it. The list of datacenters begins with that of the agent. Reading
// the list requires no permission and no leader, and no other datacenter takes part. An
// error means that the connection cannot be used.
func readDatacenter(ctx context.Context, client *api.Client) (string, error) {
	var list []string
	_, err := client.Raw().Query("/v1/catalog/datacenters", &list, (&api.QueryOptions{}).WithContext(ctx))
	var answer *statusError
	var failed *url.Error
	switch {
	case err == nil && len(list) > 0:
		return list[0], nil
	case errors.As(err, &failed) && !errors.As(err, &answer):
		return "", failed.Err
	}
	return "", nil
}

// datacenters holds the datacenters of agents.
type datacenters struct {
	copied sync.Once // logs that the keys of an agent were copied

	mu sync.Mutex
	of map[string]agentCatalog // by endpoint
}

// agentCatalog is the outcome of the reads of an agent's datacenter.
type agentCatalog struct {
	datacenter string // "" if it is not known
	failures   int    // in a row
	failedAt   dcs.Instant
}

// mostAgents bounds the number of addresses that are remembered, because the addresses of
// a name may change for years.
const mostAgents = 1000

func (d *datacenters) set(addr string, a agentCatalog) {
	if d.of == nil || len(d.of) >= mostAgents {
		d.of = map[string]agentCatalog{}
	}
	d.of[addr] = a
}

// datacenter returns the datacenter that was last read at addr, or "".
func (d *datacenters) datacenter(addr string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.of[addr].datacenter
}

// learn records the datacenter at addr. Empty means that the agent does not return it.
func (d *datacenters) learn(addr, datacenter string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.of[addr]
	if a.datacenter = datacenter; datacenter != "" {
		a.failures = 0
	}
	d.set(addr, a)
}

// silent records n failed reads of the datacenter at addr.
func (d *datacenters) silent(addr string, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.of[addr]
	a.failures, a.failedAt = a.failures+n, dcs.Now()
	d.set(addr, a)
}

// answers reports whether the agent at addr may return its datacenter. It does not if reads
// failed within the last pause.
func (d *datacenters) answers(addr string, pause time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.of[addr]
	return a.failures < unreadable || a.failedAt.Elapsed() >= pause
}
