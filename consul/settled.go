package consul

import (
	"net/http"
	"strings"
)

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
	r = r.WithContext(r.Context()) // a copy, because a RoundTripper must not change a request
	if r.Header.Get(tokenHeader) == unset {
		r.Header = r.Header.Clone()
		r.Header.Del(tokenHeader)
		if token := t.b.token.current(); token != "" {
			r.Header.Set(tokenHeader, token)
		}
	}
	if strings.Contains(r.URL.RawQuery, unset) {
		u := *r.URL
		u.RawQuery = withoutUnset(u.RawQuery)
		r.URL = &u
	}
	return t.RoundTripper.RoundTrip(r)
}

// withoutUnset removes namespace and partition from an encoded query if they are unset.
func withoutUnset(query string) string {
	kept := make([]string, 0, 8)
	for param := range strings.SplitSeq(query, "&") {
		if param != namespaceParam+"="+unset && param != partitionParam+"="+unset {
			kept = append(kept, param)
		}
	}
	return strings.Join(kept, "&")
}
