package dcs

import (
	"context"
	"errors"
)

// Driver opens backends of one URL scheme.
type Driver interface {
	// Params names the options that the driver's URLs may carry.
	Params() []Param
	// Open connects.
	Open(ctx context.Context, u *URL, o Options) (Backend, error)
}

// Param declares one URL option.
type Param struct {
	Name  string
	Usage string
}

// URL is a parsed store URL: scheme://host[:port][,host…]/path?option=value.
type URL struct {
	Scheme string
	Hosts  []string // host or host:port, IPv6 in brackets; may be empty
	Path   string   // with its leading slash, unescaped, may be empty
	Params map[string]string
}

// Register makes a driver available to Open.
func Register(scheme string, d Driver) {}

var errStub = errors.New("not built yet")

// Open opens the store that rawURL names.
func Open(ctx context.Context, rawURL string, o Options) (*Store, error) { return nil, errStub }
