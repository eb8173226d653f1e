package testcluster

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/holdfast-dcs/holdfast/conformance/fault"
)

// Partition cuts server i off from its peers until heal is called. Clients still reach it.
func (c *Cluster) Partition(i int) (heal func() error, err error) {
	return c.Servers()[i].host.CutPeers()
}

// Blackhole drops the packets between server i and clients until heal is called. Its
// peers still reach it.
func (c *Cluster) Blackhole(i int) (heal func() error, err error) {
	return c.Servers()[i].host.CutClients()
}

// retirer is implemented by drivers of stores with a procedure before the stop of a
// server.
type retirer interface {
	retire(c *Cluster, s *Server) error
}

// Retire prepares the stop of the server with the procedure of the store, if it has one.
func (s *Server) Retire() error {
	if r, ok := s.c.drv.(retirer); ok {
		return r.retire(s.c, s)
	}
	return nil
}

// replacer is implemented by drivers of stores whose members can be replaced.
type replacer interface {
	// leave removes s from the members. join adds s, which is not started yet, to
	// them. welcome waits until s, which is started then, serves.
	leave(ctx context.Context, c *Cluster, s *Server) error
	join(ctx context.Context, c *Cluster, s *Server) error
	welcome(ctx context.Context, c *Cluster, s *Server) error
}

// Replace replaces server i with a new server at a new address, without data. In a
// network each server may be replaced once.
func (c *Cluster) Replace(ctx context.Context, i int) error {
	r, ok := c.drv.(replacer)
	if !ok {
		return fmt.Errorf("%w: %s", fault.ErrUnsupported, c.o.Kind)
	}
	if err := c.replace(ctx, r, i); err != nil {
		return c.giveUp(fmt.Errorf("testcluster: cannot replace server %d of %s: %w%s", i, c.o.Kind, err, c.outputs()))
	}
	return c.Healthy(ctx)
}

func (c *Cluster) replace(ctx context.Context, r replacer, i int) error {
	old := c.Servers()[i]
	if err := r.leave(ctx, c, old); err != nil {
		return err
	}
	old.Stop()
	old.proxy.Close()
	if old.output != nil {
		old.output.Close()
	}
	c.mu.Lock()
	c.servers = slices.Delete(c.servers, i, i+1)
	c.mu.Unlock()
	s, err := c.newServer(ctx)
	if err != nil {
		return err
	}
	if _, ok := c.drv.(interface{ inheritsNames() }); ok && c.names != nil {
		s.label = old.label
		c.names.Set(s.hostName(), netip.MustParseAddr(s.host.Addr()))
	}
	if err := r.join(ctx, c, s); err != nil {
		return err
	}
	c.mu.Lock()
	c.servers = slices.Insert(c.servers, i, s)
	c.mu.Unlock()
	if err := s.start(true); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return r.welcome(ctx, c, s)
}

// moment is the timeout of a readiness check of one server.
const moment = 500 * time.Millisecond
