package consul

import "net/http"

// unset stands for a token, namespace or partition that Config leaves empty. The API
// would otherwise use the value of the environment, such as CONSUL_NAMESPACE.
const unset = "holdfast-unset"

// settled sends requests with the settings of Config only, and with the current token
// if a request has none.
type settled struct {
	http.RoundTripper
	b *Backend
}

// The names of token, namespace and partition in requests of the API.
const (
	tokenHeader    = "X-Consul-Token" //nolint:gosec // G101: the name of a header
	namespaceParam = "ns"
	partitionParam = "partition"
)

func (t settled) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if r.Header.Get(tokenHeader) == unset {
		r.Header.Del(tokenHeader)
		if token := t.b.token.current(); token != "" {
			r.Header.Set(tokenHeader, token)
		}
	}
	query := r.URL.Query()
	for _, name := range []string{namespaceParam, partitionParam} {
		if query.Get(name) == unset {
			query.Del(name)
		}
	}
	r.URL.RawQuery = query.Encode()
	return t.RoundTripper.RoundTrip(r)
}
