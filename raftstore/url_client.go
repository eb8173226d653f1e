package raftstore

import (
	"context"
	"strings"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
)

// clientOptions are the URL options that only a client has.
var clientOptions = []dcs.Param{
	{Name: "discovery", Usage: "of a client: false limits it to the nodes in the URL and does not ask them for the others; default true"},
	{Name: "wait", Usage: "of a client: true waits at Open for nodes that do not answer yet, until the context ends; default false"},
}

// openClient opens a client, and fails unless a node answers one request.
func openClient(ctx context.Context, u *dcs.URL, o dcs.Options) (dcs.Backend, error) {
	config, err := clientConfigFromURL(u, o)
	if err != nil {
		return nil, err
	}
	c, err := NewClient(config)
	if err != nil {
		return nil, err
	}
	return backend.Open[dcs.Backend](ctx, c, c.config.Timing, c.config.Logger, u.Params["wait"] == "true", c.ready)
}

// clientConfigFromURL turns a URL that names nodes into settings. Its error names every
// option that is wrong.
func clientConfigFromURL(u *dcs.URL, o dcs.Options) (ClientConfig, error) {
	f := &faults{}
	var common Config
	for _, opt := range options {
		value, given := u.Params[opt.name]
		switch {
		case !given:
		case !opt.client:
			f.add("option %s is for a node, whose URL has a data directory and no host, like %s", opt.name, exampleURL)
		default:
			if err := opt.set(&common, value); err != nil {
				f.add("option %s=%s: %v", opt.name, value, err)
			}
		}
	}
	yes := func(name string, def bool) bool {
		switch u.Params[name] {
		case "":
			return def
		case "true":
			return true
		case "false":
		default:
			f.add("option %s=%s: it must be true or false", name, u.Params[name])
		}
		return false
	}
	yes("wait", false)
	c := ClientConfig{
		Endpoints: u.Hosts, Root: strings.Trim(u.Path, "/"), NoDiscovery: !yes("discovery", true),
		TLS: common.TLS, PlaintextBeyondLoopback: common.PlaintextBeyondLoopback, MinTTL: common.MinTTL,
		Timing: o.Timing, Logger: o.Logger, Observer: o.Observer,
	}
	if c.Root == "" {
		f.add("the root is missing: it is the URL's path, like %s", exampleClientURL)
	}
	return c, f.err()
}
