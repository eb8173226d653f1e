package endpoint

import "github.com/holdfast-dcs/holdfast/dcs"

// Fault is the failure of a call at one endpoint.
type Fault struct {
	Endpoint string // empty if the cause is in this process
	Err      error
}

// Error returns the endpoint and the error.
func (f *Fault) Error() string {
	if f.Endpoint == "" {
		return f.Err.Error()
	}
	return f.Endpoint + ": " + f.Err.Error()
}

// Unwrap returns Err.
func (f *Fault) Unwrap() error { return f.Err }

// Refusals records the endpoints that refused one call for a reason that may be
// limited to them. The zero value is ready to use. A Refusals is not safe for
// concurrent use.
type Refusals struct {
	by    map[string]refusal
	down  map[string]bool // failed endpoints, true if it could not be reached
	other map[string]bool // endpoints whose last failure was a Doubt
}

type refusal struct {
	err         error
	unconfirmed bool
	reason      string
}

// Note records the failure of a copy of the call at an endpoint.
func (r *Refusals) Note(endpoint string, err error, v Verdict) {
	if r.by == nil {
		r.by, r.down, r.other = map[string]refusal{}, map[string]bool{}, map[string]bool{}
	}
	if v.Doubt {
		delete(r.by, endpoint)
		r.other[endpoint] = true
		return
	}
	delete(r.other, endpoint)
	r.down[endpoint] = v.Unreachable
	if v.Unconfirmed || dcs.KindOf(err) == dcs.ErrUnauthorized { //nolint:errorlint // KindOf returns a sentinel
		r.by[endpoint] = refusal{err, v.Unconfirmed, v.Reason}
	}
}

// Asked returns the endpoints that have failed.
func (r *Refusals) Asked() []string {
	var out []string
	for _, m := range []map[string]bool{r.down, r.other} {
		for addr := range m {
			out = append(out, addr)
		}
	}
	return out
}

// Any reports whether an endpoint has refused the call with an Unconfirmed verdict, or an
// ErrUnauthorized.
func (r *Refusals) Any() bool { return len(r.by) > 0 }

// ByAll reports whether every endpoint has refused the call with an error of which is
// returns true.
func (r *Refusals) ByAll(p *Pool, is func(error) bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.members {
		if f, refused := r.by[m.addr]; !m.shadowed && !(refused && is(f.err)) {
			return false
		}
	}
	return true
}

// Unanimous returns an Unconfirmed refusal and its endpoint, if every endpoint that
// can be reached has refused the call. Otherwise err is nil.
func (r *Refusals) Unanimous(p *Pool) (endpoint string, err error) {
	if len(r.other) > 0 {
		return "", nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.members {
		f, refused := r.by[m.addr]
		switch {
		case refused && f.unconfirmed:
			endpoint, err = m.addr, f.err
		case !r.down[m.addr] && !(m.ejected && m.unreachable):
			return "", nil
		}
	}
	return endpoint, err
}

// uncontradicted returns a refusal and its endpoint, unless the last failure of some
// endpoint was a Doubt.
func (r *Refusals) uncontradicted() (endpoint string, err error) {
	if len(r.other) > 0 {
		return "", nil
	}
	for addr, f := range r.by {
		if endpoint == "" || addr < endpoint {
			endpoint, err = addr, f.err
		}
	}
	return endpoint, err
}

// Served counts a failure of each endpoint that refused the call, because endpoint has
// served it.
func (r *Refusals) Served(p *Pool, endpoint string) {
	for addr, f := range r.by {
		if f.unconfirmed && addr != endpoint {
			p.Blame(addr, f.reason)
		}
	}
}
