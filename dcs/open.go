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

// Driver opens the backends of one URL scheme. A backend's package registers its
// driver in an init function, so that a program only has to import the package:
//
//	import _ "github.com/holdfast-dcs/holdfast/raftstore"
type Driver interface {
	// Params returns the options that the driver's URLs may carry, except those
	// that are common to all stores (ttl, loop_wait, retry_timeout). Open refuses
	// all other options before it calls the driver. The result must not change.
	Params() []Param
	// Open connects to the store. The URL carries declared options only. The
	// driver must check before any I/O that no required option is missing and that
	// the values are valid, and must return ErrInvalid otherwise. o has its defaults
	// filled in and a Logger. Open must return by the end of ctx. If no server
	// answers, it must return within o.Timing.RetryTimeout, unless an option asks
	// it to wait. A failed Open must release everything that it has acquired. ctx
	// bounds the opening only, not the life of the Backend. Errors must not contain
	// secrets.
	Open(ctx context.Context, u *URL, o Options) (Backend, error)
}

// Param declares one URL option.
type Param struct {
	// Name consists of lower-case letters, digits and underscores.
	Name string
	// Usage describes the option in one line, with its unit and default.
	Usage string
}

// commonParams are the options of every URL. They override Options.Timing.
var commonParams = []Param{
	{Name: "ttl", Usage: "how long a lease lives without a renewal, like 30s"},
	{Name: "loop_wait", Usage: "the longest pause between two renewals, like 10s"},
	{Name: "retry_timeout", Usage: "the budget of one call, like 10s"},
}

var drivers = struct {
	sync.RWMutex
	m map[string]Driver
}{m: map[string]Driver{}}

// Register makes a driver available to [Open] under a scheme. It is meant for init
// functions. It panics if the driver is nil, if the scheme is not a name in lower
// case or is taken, and if the driver declares an option that has an invalid name,
// is declared twice, is common to all stores, or would carry a secret.
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
			panic("dcs: Register of scheme " + scheme + " with option " + p.Name + ", whose name is invalid, declared twice, common to all stores, or that of a secret")
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

// Params returns the options that URLs of a scheme may carry, including those that
// are common to all stores. It returns nil for an unknown scheme.
func Params(scheme string) []Param {
	drivers.RLock()
	d := drivers.m[scheme]
	drivers.RUnlock()
	if d == nil {
		return nil
	}
	return slices.Concat(d.Params(), commonParams)
}

// Open opens the store at rawURL through the driver registered for its scheme. See
// [URL] for the form. The options ttl, loop_wait and retry_timeout of the URL
// override the fields of o.Timing. Open returns [ErrInvalid] before any I/O for a
// malformed URL, an unknown scheme or option, and a setting that cannot work. The
// error names each of them and never repeats the URL. ctx bounds the opening only.
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

// openFailed returns a driver's error with its kind, backend and operation.
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

// resolve parses a URL, finds its driver, and moves the common options into o. It
// does no I/O.
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
		// The rule needs the store's Caps, which only New has.
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
