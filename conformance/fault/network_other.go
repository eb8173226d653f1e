//go:build !linux

package fault

import (
	"context"
	"fmt"
)

// A Network is a few hosts whose packets can be dropped. Only Linux supports it.
type Network struct {
	near  string
	hosts []*Host
}

var errNoNetwork = fmt.Errorf("%w: only Linux has network namespaces", ErrUnsupported)

// NewNetwork fails, because only Linux has network namespaces.
func NewNetwork(context.Context, int) (*Network, error) { return nil, errNoNetwork }

// Host returns the host with that index.
func (n *Network) Host(i int) *Host { return n.hosts[i] }

// Close does nothing.
func (n *Network) Close() error { return nil }

func (n *Network) cut([][2]string) (func() error, error) { return nil, errNoNetwork }

func inside[T any](_ string, f func() (T, error)) (T, error) { return f() }
