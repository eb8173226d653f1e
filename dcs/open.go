package dcs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Driver opens backends of one URL scheme. A backend's package registers one
// in an init function, so that importing it is enough:
//
//	import _ "github.com/holdfast-dcs/holdfast/raftstore"
type Driver interface {
	// Params names the options that the driver's URLs may carry, those common
	// to all stores apart (ttl, loop_wait, retry_timeout). Open refuses every
	// other one before the driver is called. The answer never changes.
	Params() []Param
	// Open connects. The URL carries declared options only; whether a needed
	// one is missing, and what the values mean, is the driver's to say, before
	// any I/O and with ErrInvalid. o has its defaults filled in and a Logger.
	// Open comes back by ctx and, where nothing answers, within
	// o.Timing.RetryTimeout, unless an option asks it to wait; having failed
	// it leaves nothing behind. ctx governs the opening only, not the life of
	// the Backend. Errors carry no secrets.
	Open(ctx context.Context, u *URL, o Options) (Backend, error)
}

// Param declares one URL option.
type Param struct {
	// Name has lower-case letters, digits and underscores.
	Name string
	// Usage says in one line what the option does, with its unit and default.
	Usage string
}

// commonParams are the options of every URL; they override Options.Timing.
var commonParams = []Param{
	{Name: "ttl", Usage: "how long a lease lives without a renewal, like 30s"},
	{Name: "loop_wait", Usage: "the longest pause between two renewals, like 10s"},
	{Name: "retry_timeout", Usage: "the budget of one call, like 10s"},
}

var drivers = struct {
	sync.RWMutex
	m map[string]Driver
}{m: map[string]Driver{}}

// Register makes a driver available to [Open] under a scheme. It panics if the
// driver is nil, if the scheme is not a name in lower case or is taken, and if
// the driver declares an option that is wrong, there twice or common to all
// stores: each is a fault of the program. For init functions.
func Register(scheme string, d Driver) {
	if d == nil {
		panic("dcs: Register of a nil driver for scheme " + scheme)
	}
	if !validScheme(scheme) {
		panic("dcs: Register of scheme " + scheme + ", which is not a name in lower case")
	}
	seen := map[string]bool{}
	for _, p := range slices.Concat(commonParams, d.Params()) {
		if seen[p.Name] || !validOption(p.Name) || secretName(p.Name) {
			panic("dcs: Register of scheme " + scheme + " with option " + p.Name + ", which is no name, there twice, common to all stores, or would carry a secret")
		}
		seen[p.Name] = true
	}
	drivers.Lock()
	defer drivers.Unlock()
	if _, taken := drivers.m[scheme]; taken {
		panic("dcs: Register called twice for scheme " + scheme)
	}
	drivers.m[scheme] = d
}

// Schemes returns the schemes that [Open] knows, sorted.
func Schemes() []string {
	drivers.RLock()
	defer drivers.RUnlock()
	return slices.Sorted(maps.Keys(drivers.m))
}

// Params returns the options that URLs of a scheme may carry, those common to
// all stores included, or nil for an unknown scheme.
func Params(scheme string) []Param {
	drivers.RLock()
	d := drivers.m[scheme]
	drivers.RUnlock()
	if d == nil {
		return nil
	}
	return slices.Concat(d.Params(), commonParams)
}

// Open opens the store that rawURL names ([URL] has the form), through the
// driver registered for its scheme. The options ttl, loop_wait and
// retry_timeout of the URL override o.Timing field by field. A URL that is
// wrong in form, an unknown scheme or option, and a setting that cannot work
// are [ErrInvalid], by name and before any I/O; errors never repeat the URL.
// ctx governs the opening only.
func Open(ctx context.Context, rawURL string, o Options) (*Store, error) {
	u, d, err := resolve(rawURL, &o)
	if err != nil {
		return nil, &Error{Op: opOpen.name, Kind: ErrInvalid, Err: err}
	}
	if err := ctx.Err(); err != nil {
		return nil, &Error{Backend: u.Scheme, Op: opOpen.name, Kind: ErrUnavailable, Err: err}
	}
	o.Logger, o.Observer = Detached(o.Logger, o.Observer)
	b, err := d.Open(ctx, u, o)
	if err == nil && b == nil {
		err = errors.New("the driver returned no backend and no error")
	}
	if err != nil {
		return nil, openFailed(u.Scheme, err, ctx.Err())
	}
	s, err := New(b, o)
	if err != nil {
		if closeErr := b.Close(); closeErr != nil {
			o.Logger.Warn("closing a backend that was just opened failed", "backend", u.Scheme, "error", closeErr)
		}
		return nil, err
	}
	return s, nil
}

// openFailed gives a driver's error its kind and its place.
func openFailed(scheme string, err, cut error) *Error {
	e := adopt(err)
	e.Kind = opOpen.kind(err)
	if e.Backend == "" {
		e.Backend = scheme
	}
	if e.Op == "" {
		e.Op = opOpen.name
	}
	if cut != nil && errors.Is(e, ErrUnavailable) && !errors.Is(e, cut) {
		e.Err = withCause(e.Err, cut)
	}
	return e
}

// resolve does everything about a URL that needs no I/O, and puts its common
// options into o.
func resolve(rawURL string, o *Options) (*URL, Driver, error) {
	u, err := parseURL(rawURL)
	if err != nil {
		return nil, nil, err
	}
	drivers.RLock()
	d := drivers.m[u.Scheme]
	drivers.RUnlock()
	if d == nil {
		return nil, nil, fmt.Errorf("scheme %q is unknown: known are %s (a scheme becomes known by importing its backend's package)", clip(u.Scheme), list(Schemes()))
	}
	var faults []error
	known := map[string]bool{}
	for _, p := range Params(u.Scheme) {
		known[p.Name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(u.Params)) {
		if !known[name] {
			faults = append(faults, fmt.Errorf("option %q is unknown: scheme %q knows %s", name, u.Scheme, list(slices.Sorted(maps.Keys(known)))))
		}
	}
	faults = append(faults, timingOptions(u, &o.Timing)...)
	if len(faults) == 0 {
		// The rule needs the store's Caps, which New has; the rest is known.
		s, _ := o.Timing.suggest(Caps{})
		o.Timing = o.Timing.WithDefaults()
		faults = o.Timing.signFaults(s.String() + " works")
	}
	if len(faults) > 0 {
		return nil, nil, join(faults)
	}
	return u, d, nil
}

// timingOptions moves the common options from u into t.
func timingOptions(u *URL, t *Timing) []error {
	var faults []error
	for i, field := range []*time.Duration{&t.TTL, &t.LoopWait, &t.RetryTimeout} {
		name := commonParams[i].Name
		value, given := u.Params[name]
		if !given {
			continue
		}
		delete(u.Params, name)
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 {
			faults = append(faults, fmt.Errorf("option %s=%q is not a duration of more than 0: write it like %s=10s", name, clip(value), name))
			continue
		}
		*field = d
	}
	return faults
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
