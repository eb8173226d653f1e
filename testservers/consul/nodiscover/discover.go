// Package discover replaces the package of the same name, whose clients of a dozen clouds
// take a large part of the time to build Consul. It knows no provider, so that a server can
// join others by their addresses only.
package discover

import (
	"errors"
	"log"
)

// Provider is a way to find servers.
type Provider interface {
	Addrs(args map[string]string, l *log.Logger) ([]string, error)
	Help() string
}

// Providers is empty.
var Providers = map[string]Provider{}

// Discover finds nothing.
type Discover struct{}

// Option is an option of New, which ignores it.
type Option func(*Discover) error

// New returns a Discover.
func New(...Option) (*Discover, error) { return &Discover{}, nil }

// WithUserAgent has no effect.
func WithUserAgent(string) Option { return nil }

// WithProviders has no effect.
func WithProviders(map[string]Provider) Option { return nil }

// Names returns the names of the providers.
func (*Discover) Names() []string { return nil }

// Help returns the help of the providers.
func (*Discover) Help() string { return "" }

// Addrs returns an error.
func (*Discover) Addrs(string, *log.Logger) ([]string, error) {
	return nil, errors.New("this Consul was built without the discovery of servers by providers")
}
