package etcd3

import (
	"context"
	"strconv"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
)

// clusterName is the id of an etcd cluster and its text, which identifies the store.
type clusterName struct {
	id   uint64
	name string
}

// nameOf returns the text of a cluster's id. It caches the last one.
func (c *conn) nameOf(id uint64) string {
	known := c.cluster.Load()
	if known == nil || known.id != id {
		known = &clusterName{id, strconv.FormatUint(id, 16)}
		c.cluster.Store(known)
	}
	return known.name
}

// askIdentity returns the id of the cluster of the member at addr. A member that is
// cut off from the others answers too.
func (b *Backend) askIdentity(ctx context.Context, addr string) (string, error) {
	c, err := b.connected(addr)
	if err != nil {
		return "", err
	}
	ctx = b.hooks.named(ctx, "Probe")
	s, err := call(ctx, c, func(ctx context.Context, o ...grpc.CallOption) (*pb.StatusResponse, error) {
		return c.state.Status(ctx, &pb.StatusRequest{}, o...)
	})
	if err != nil {
		return "", err
	}
	return c.nameOf(s.Header.ClusterId), nil
}

// admitted returns the connection to addr for a request. It waits until the cluster of
// this Store is known and the member at addr is known to belong to it, so that no
// write and no lease goes to a member of another cluster.
func (b *Backend) admitted(ctx context.Context, addr string) (*conn, error) {
	c, err := b.connected(addr)
	if err != nil {
		return nil, err
	}
	if err := b.ident.AdmitRequest(ctx, addr); err != nil {
		return nil, err
	}
	if dial := c.dials.Load(); dial > 0 && c.verified.Load() == dial {
		return c, nil
	}
	id, err := b.askIdentity(ctx, addr)
	if err == nil {
		err = b.ident.Check(ctx, addr, id)
	}
	if err != nil {
		return nil, backend.NotSent(err)
	}
	c.verified.Store(c.dials.Load())
	return c, nil
}

// seen checks the cluster in the header of an answer, and records the member and the
// revision.
func (b *Backend) seen(c *conn, h *pb.ResponseHeader) error {
	if h == nil {
		return nil
	}
	if err := b.ident.Check(b.life, c.addr, c.nameOf(h.ClusterId)); err != nil {
		return err
	}
	if c.member.Swap(h.MemberId) != h.MemberId {
		b.pool.Identify(c.addr, memberName(h.MemberId))
	}
	b.copy.Saw(revision(h.Revision))
	return nil
}

// follows is like seen, for a linearizable answer to a request that was sent when
// before was the newest known revision. It rejects an older revision.
func (b *Backend) follows(c *conn, before dcs.Revision, h *pb.ResponseHeader) error {
	if h == nil {
		return nil
	}
	if err := b.seen(c, h); err != nil {
		return err
	}
	return b.ident.Follows(c.addr, before, revision(h.Revision))
}
