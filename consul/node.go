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

// nodeOf returns the name of the catalog node of a root. Two roots never have the same
// name, even if upper and lower case are not distinguished, as in Consul.
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
	// metaRoot is the metadata key of a catalog node whose value is the root.
	metaRoot = "holdfast-root"
	// nodeAddress is the address of the sessions' node. Nothing listens there.
	nodeAddress = "127.0.0.1"
)

// register adds the sessions' node to the catalog, unless it exists. The node has no
// checks, so that only a manual deregistration ends its sessions early, and not the death
// of the server on which they were created.
func (b *Backend) register(ctx context.Context, c *conn) error {
	ops := api.TxnOps{{Node: &api.NodeTxnOp{
		Verb: api.NodeCAS, // with index 0: only if the node is absent
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

// checkNode returns an error if the sessions' node belongs to another root, because an
// operator that removes the node of the other root would end the sessions of this one. It
// reports whether the node is visible. It is not if the token may not read the node.
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
		return true, &backend.Failure{Endpoint: c.addr, Kind: dcs.ErrInvalid, Refused: true, Err: fmt.Errorf("the catalog node %q belongs to the root %q, not to %q: name another node in Config.Node (option node)", b.c.Node, root, b.c.Root)}
	}
	b.ownNode.Store(true)
	return true, nil
}

// checkNodeAtOpen calls checkNode at one endpoint after the other. Open calls it.
func (b *Backend) checkNodeAtOpen(ctx context.Context) error {
	a, err := do(b.hooks.named(ctx, "Probe"), b, endpoint.Read, b.checkNode)
	if err != nil {
		return backend.WrapError(backendName, "Open", "", a.Endpoint, err)
	}
	return nil
}
