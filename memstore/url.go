package memstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

func init() { dcs.Register("mem", driver{}) }

// driver opens mem://name/root. All opens of one name in this process share a Server. The
// first one creates it, and it is dropped when the last client has closed.
type driver struct{}

// shared holds the servers that were opened by name.
var shared = struct {
	sync.Mutex
	servers map[string]*sharedServer
}{servers: map[string]*sharedServer{}}

type sharedServer struct {
	s      *Server
	params map[string]string
	users  int
}

// option sets one field of Options from a URL.
type option struct {
	usage string
	set   func(o *Options, value string) error
}

func duration(field func(*Options) *time.Duration) func(*Options, string) error {
	return func(o *Options, value string) error {
		d, err := time.ParseDuration(value)
		if err == nil && d <= 0 {
			err = errors.New("the duration must be positive")
		}
		*field(o) = d
		return err
	}
}

func boolean(field func(*Options) *bool) func(*Options, string) error {
	return func(o *Options, value string) (err error) {
		*field(o), err = strconv.ParseBool(value)
		return err
	}
}

var options = map[string]option{
	"min_ttl": {"the shortest TTL that is granted, like 1s (default 100ms)", duration(func(o *Options) *time.Duration { return &o.MinTTL })},
	"max_ttl": {"the longest TTL that is granted, like 1h (default 1000h)", duration(func(o *Options) *time.Duration { return &o.MaxTTL })},
	"latency": {"the time that each message takes in each direction, like 1ms (default 0)", duration(func(o *Options) *time.Duration { return &o.Latency })},
	"expiry_factor": {"how many TTLs a lease lives at the server, 1 to 10 (default 1)", func(o *Options, value string) (err error) {
		o.ExpiryFactor, err = strconv.ParseFloat(value, 64)
		if err == nil && !(o.ExpiryFactor >= 1 && o.ExpiryFactor <= 10) {
			err = errors.New("the factor must be from 1 to 10")
		}
		return err
	}},
	"endpoints": {"the number of the server's endpoints, 1 to 99 (default 3)", func(o *Options, value string) (err error) {
		o.Endpoints, err = strconv.Atoi(value)
		if err == nil && (o.Endpoints < 1 || o.Endpoints > 99) {
			err = errors.New("the number must be from 1 to 99")
		}
		return err
	}},
	"duplicating":    {"true: clients expect requests that arrive twice (default false)", boolean(func(o *Options) *bool { return &o.Duplicating })},
	"no_rebind":      {"true: a changed binding re-creates a key (default false)", boolean(func(o *Options) *bool { return &o.NoRebind })},
	"no_self_expiry": {"true: keys of expired leases stay until another client has a live lease (default false)", boolean(func(o *Options) *bool { return &o.NoSelfExpiry })},
	"modified_only":  {"true: the store checks conditions on Modified only (default false)", boolean(func(o *Options) *bool { return &o.ModifiedOnly })},
}

// Params implements [dcs.Driver].
func (driver) Params() []dcs.Param {
	var out []dcs.Param
	for _, n := range slices.Sorted(maps.Keys(options)) {
		out = append(out, dcs.Param{Name: n, Usage: options[n].usage})
	}
	return out
}

// Open implements [dcs.Driver].
func (driver) Open(_ context.Context, u *dcs.URL, o dcs.Options) (dcs.Backend, error) {
	invalid := func(format string, args ...any) error {
		return &dcs.Error{Backend: name, Op: "Open", Kind: dcs.ErrInvalid, Err: fmt.Errorf(format, args...)}
	}
	if len(u.Hosts) != 1 || u.Hosts[0] == "" {
		return nil, invalid("the store has no name, or several: use mem://name/root")
	}
	if err := checkRoot(u.Path); err != nil {
		return nil, invalid("root: %w", err)
	}
	var so Options
	for _, n := range slices.Sorted(maps.Keys(u.Params)) {
		opt, ok := options[n]
		if !ok {
			return nil, invalid("option %q is unknown", n)
		}
		if err := opt.set(&so, u.Params[n]); err != nil {
			return nil, invalid("option %s=%q: %w; usage: %s", n, u.Params[n], err, opt.usage)
		}
	}
	if d := so.withDefaults(); so.MaxTTL > 0 && so.MaxTTL < d.MinTTL {
		return nil, invalid("option max_ttl=%v is less than min_ttl, which is %v: set max_ttl=%[2]v or more, or a smaller min_ttl", so.MaxTTL, d.MinTTL)
	}
	shared.Lock()
	defer shared.Unlock()
	host := u.Hosts[0]
	e, ok := shared.servers[host]
	switch {
	case !ok:
		e = &sharedServer{s: NewServer(so), params: maps.Clone(u.Params)}
		shared.servers[host] = e
	case len(u.Params) > 0 && !maps.Equal(u.Params, e.params):
		return nil, invalid("store %q is open with other options: give the same ones, or none to share it as it is", host)
	}
	e.users++
	b := e.s.Open(ClientOptions{
		Root:   strings.TrimPrefix(u.Path, "/"),
		Timing: o.Timing, Logger: o.Logger, Observer: o.Observer,
	})
	b.onClose = func() {
		shared.Lock()
		defer shared.Unlock()
		if e.users--; e.users == 0 {
			delete(shared.servers, host)
		}
	}
	return b, nil
}

// Shared returns the server that mem://name/… URLs share, for fault injection. It returns
// nil if none is open.
func Shared(name string) *Server {
	shared.Lock()
	defer shared.Unlock()
	if e, ok := shared.servers[name]; ok {
		return e.s
	}
	return nil
}
