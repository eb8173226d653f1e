package raftstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// exampleURL is an example that works on any machine.
const exampleURL = "raft:///var/lib/holdfast/a?id=a&root=pg/main&listen=127.0.0.1:7001"

// examplePeers is an example of the peers option. An "@" may stand for the "=" of a
// pair, but must be written as %40 in a URL.
const examplePeers = "a=10.0.0.1:7001,b=10.0.0.2:7001,c=10.0.0.3:7001"

// exampleNames is an example of the tls_names option.
const exampleNames = "a=node-a.example,b=node-b.example"

func init() { dcs.Register("raft", driver{}) }

// driver opens raft:///data/dir?id=…&root=…, a node within this process, and
// raft://host,host/root, a client of nodes in other processes. The options are the
// fields of Config and of ClientConfig.
type driver struct{}

// option is one URL option and sets its field. Options of a client are kept in a Config,
// too.
type option struct {
	name, usage string
	set         func(c *Config, value string) error
	client      bool // a client has it, too
}

var options = []option{
	{"id", "this node's name, like a; mandatory", setString(func(c *Config) *string { return &c.ID }), false},
	{"root", "the tree that the cluster keeps, like pg/main; mandatory", setString(func(c *Config) *string { return &c.Root }), false},
	{"listen", "host:port to listen on; default: this node's address in peers", setString(func(c *Config) *string { return &c.Listen }), false},
	{"advertise", "host:port at which the others reach this node; default: its address in peers, else listen", setString(func(c *Config) *string { return &c.Advertise }), false},
	{"peers", "every node at the first start, this one too, like " + examplePeers + "; for a node that joins itself and some members; default: this node alone", setPeers, false},
	{"rejoin", "true allows a node whose data are damaged, or that was replaced, to get all data from the others again; default false", setBool(func(c *Config) *bool { return &c.Rejoin }), false},
	{"tls_cert", "PEM file with the certificate of this node or client; switches mutual TLS on", setTLS(func(t *TLS) *string { return &t.CertFile }), true},
	{"tls_key", "PEM file with the key of tls_cert", setTLS(func(t *TLS) *string { return &t.KeyFile }), true},
	{"tls_ca", "PEM file with the authority that signs all nodes' certificates", setTLS(func(t *TLS) *string { return &t.CAFile }), true},
	{"plaintext_beyond_loopback", "true allows addresses beyond loopback without TLS; default false", setBool(func(c *Config) *bool { return &c.PlaintextBeyondLoopback }), true},
	{"tls_names", "names that the nodes' certificates must be valid for, like " + exampleNames + "; default: the host of each node's address in peers", setNames, true},
	{"min_ttl", "the shortest lease granted, like 2s", setDuration(func(c *Config) *time.Duration { return &c.MinTTL }), true},
	{"heartbeat_timeout", "silence of the Raft leader before an election, like 300ms; default ttl/30 within 300ms and 1s", setDuration(func(c *Config) *time.Duration { return &c.HeartbeatTimeout }), false},
	{"election_timeout", "how long a candidate waits for votes; default heartbeat_timeout", setDuration(func(c *Config) *time.Duration { return &c.ElectionTimeout }), false},
	{"snapshot_threshold", "log entries after which a snapshot is made; default 8192", setThreshold, false},
	{"snapshot_interval", "how often the number of log entries is checked; default 2m", setDuration(func(c *Config) *time.Duration { return &c.SnapshotInterval }), false},
}

// Params implements dcs.Driver.
func (driver) Params() []dcs.Param {
	params := make([]dcs.Param, 0, len(options))
	for _, o := range options {
		params = append(params, dcs.Param{Name: o.name, Usage: o.usage})
	}
	return append(params, clientOptions...)
}

// Open implements dcs.Driver.
func (driver) Open(ctx context.Context, u *dcs.URL, o dcs.Options) (dcs.Backend, error) {
	if len(u.Hosts) > 0 {
		return openClient(ctx, u, o)
	}
	c, err := configFromURL(u, o)
	if err != nil {
		return nil, err
	}
	b, err := New(ctx, c)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// configFromURL turns a URL into settings. Its error names every option that is wrong or
// missing. It does no I/O, and leaves checks that involve several settings to New.
func configFromURL(u *dcs.URL, o dcs.Options) (Config, error) {
	c := Config{Dir: u.Path, Timing: o.Timing, Logger: o.Logger, Observer: o.Observer}
	f := &faults{}
	if strings.Trim(u.Path, "/") == "" {
		f.add("the data directory is missing: it is the URL's path, like %s", exampleURL)
	}
	for _, name := range []string{"id", "root"} {
		if u.Params[name] == "" {
			f.add("option %s is missing: set it, like %s", name, exampleURL)
		}
	}
	if u.Params["listen"] == "" && u.Params["peers"] == "" {
		f.add("options listen and peers are both missing: set listen for a single node, like %s, or peers for a cluster, like peers=%s", exampleURL, examplePeers)
	}
	for _, p := range clientOptions {
		if _, given := u.Params[p.Name]; given {
			f.add("option %s is for a client, whose URL names nodes, like %s", p.Name, exampleClientURL)
		}
	}
	for _, opt := range options {
		value, given := u.Params[opt.name]
		if !given || (value == "" && (opt.name == "id" || opt.name == "root")) {
			continue
		}
		if err := opt.set(&c, value); err != nil {
			f.add("option %s=%s: %v", opt.name, value, err)
		}
	}
	id := u.Params["id"]
	if len(c.Peers) > 0 && id != "" && !slices.ContainsFunc(c.Peers, func(p Peer) bool { return p.ID == id }) {
		f.add("option peers does not list this node, id=%s: list every node on every node, like peers=%s", id, examplePeers)
	}
	return c, f.err()
}

func setString(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, value string) error {
		*field(c) = value
		return nil
	}
}

func setTLS(field func(*TLS) *string) func(*Config, string) error {
	return func(c *Config, value string) error {
		if c.TLS == nil {
			c.TLS = &TLS{}
		}
		*field(c.TLS) = value
		return nil
	}
}

func setDuration(field func(*Config) *time.Duration) func(*Config, string) error {
	return func(c *Config, value string) error {
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 {
			return errors.New("it must be a positive duration, like 300ms or 2s")
		}
		*field(c) = d
		return nil
	}
}

func setBool(field func(*Config) *bool) func(*Config, string) error {
	return func(c *Config, value string) error {
		if value != "true" && value != "false" {
			return errors.New("it must be true or false")
		}
		*field(c) = value == "true"
		return nil
	}
}

func setThreshold(c *Config, value string) error {
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil || n == 0 {
		return errors.New("it must be a positive number, like 8192")
	}
	c.SnapshotThreshold = n
	return nil
}

// setPeers reads a=host:port,b=host:port.
func setPeers(c *Config, value string) error {
	return eachPair(value, "id=host:port", examplePeers, func(id, addr string) { c.Peers = append(c.Peers, Peer{ID: id, Addr: addr}) })
}

// setNames reads a=name,b=name.
func setNames(c *Config, value string) error {
	if c.TLS == nil {
		c.TLS = &TLS{}
	}
	c.TLS.Names = map[string]string{}
	return eachPair(value, "id=name", exampleNames, func(id, name string) { c.TLS.Names[id] = name })
}

// eachPair calls use for each id=value of a list. The name of a node has no "=" or "@".
func eachPair(list, form, example string, use func(id, value string)) error {
	for item := range strings.SplitSeq(list, ",") {
		at := strings.IndexAny(item, "=@")
		if at <= 0 || at == len(item)-1 {
			return fmt.Errorf("%q is not %s: write the list like %s", item, form, example)
		}
		use(item[:at], item[at+1:])
	}
	return nil
}
