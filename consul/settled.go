package consul

import "net/http"

// unset stands for a token, namespace or partition that our settings leave out.
// The API would take the environment's instead, such as CONSUL_NAMESPACE.
const unset = "holdfast-unset"

// settled sends requests with our settings only, and with the current token
// where a request has none.
type settled struct {
	http.RoundTripper
	b *Backend
}

// The API's names for token, namespace and partition.
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
