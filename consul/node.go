package consul

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// nodeOf names the catalog node of a root. Two roots never have the same name,
// also not to Consul, which does not distinguish upper and lower case.
func nodeOf(root string) string {
	var b strings.Builder
	b.WriteString("holdfast-")
	for i := range len(root) {
		switch c := root[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			b.WriteByte(c)
		case c == '/':
			b.WriteString("--")
		default:
			fmt.Fprintf(&b, "-%02x", c)
		}
	}
	return b.String()
}

const (
	// metaRoot is the metadata of a catalog node that names its root.
	metaRoot = "holdfast-root"
	// nodeAddress is the address of the sessions' node. Nothing listens there.
	nodeAddress = "127.0.0.1"
)

// register puts the sessions' node into the catalog, unless it is there. It has
// no checks, so that only a deregistration by hand ends its sessions early, and
// not the death of the server on which they were made.
func (b *Backend) register(ctx context.Context, c *conn) error {
	ops := api.TxnOps{{Node: &api.NodeTxnOp{
		Verb: api.NodeCAS, // with index 0: only if it is absent
		Node: api.Node{Node: b.c.Node, Address: nodeAddress, Meta: map[string]string{"made-by": backendSession, metaRoot: b.c.Root}},
	}}}
	registered, err := call(ctx, c, func(ctx context.Context, token string) (bool, error) {
		ok, resp, _, err := c.api.Txn().Txn(ops, (&api.QueryOptions{Token: token}).WithContext(ctx))
		if err == nil && !ok {
			err = deniedIn(resp.Errors)
		}
		return ok, err
	})
	if registered {
		b.c.Logger.Info("registered the catalog node that sessions belong to", "node", b.c.Node, "endpoint", c.addr)
	}
	return err
}

// checkNode fails if the sessions' node belongs to another root: an operator that
// removes the other root's node would end our sessions. It reports whether the
// node was seen. A token that may not read the node sees none.
func (b *Backend) checkNode(ctx context.Context, c *conn) (seen bool, err error) {
	if b.ofAgent() || b.ownNode.Load() {
		return true, nil
	}
	n, err := call(ctx, c, func(ctx context.Context, token string) (*api.CatalogNode, error) {
		n, _, err := c.api.Catalog().Node(b.c.Node, c.reading(ctx, token))
		return n, err
	})
	switch {
	case errors.Is(err, dcs.ErrUnauthorized):
		return false, nil
	case err != nil:
		return false, err
	case n == nil || n.Node == nil:
		return false, nil
	}
	if root := n.Node.Meta[metaRoot]; root != "" && root != b.c.Root {
		return true, &backend.Failure{Endpoint: c.addr, Kind: dcs.ErrInvalid, Refused: true, Err: fmt.Errorf("the catalog node %q belongs to the root %q, not to %q: name another one in Config.Node (option node)", b.c.Node, root, b.c.Root)}
	}
	b.ownNode.Store(true)
	return true, nil
}

// checkNodeAtOpen is checkNode for Open, at any endpoint.
func (b *Backend) checkNodeAtOpen(ctx context.Context) error {
	a, err := do(b.c.name(ctx, "Probe"), b, endpoint.Read, b.checkNode)
	if err != nil {
		return backend.WrapError(backendName, "Open", "", a.Endpoint, err)
	}
	return nil
}
