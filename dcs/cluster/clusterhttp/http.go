// Package clusterhttp lets the members of a cluster ask each other over HTTP for
// their identity. It is the transport of [cluster.Verify]; a program with another one
// does not need it.
package clusterhttp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

// Path is where a member answers, on its APIURL.
const Path = "/identity"

// maxBody bounds an answer.
const maxBody = 64 << 10

// Handler answers GET and HEAD with the Identity that self returns. self must
// not block, because it answers from memory. Mount it at [Path].
func Handler(self func() cluster.Identity) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(self()) // the asking member sees a broken answer
	})
}

// Client asks members over HTTP. It is a [cluster.Asker].
type Client struct {
	http *http.Client
}

// New returns a Client that sends its requests through transport, which decides
// about TLS. Nil is a transport without a proxy. The Client follows no redirect,
// because the answer must be that of the address.
func New(transport http.RoundTripper) *Client {
	if transport == nil {
		transport = &http.Transport{DisableKeepAlives: true} // a connection shows where the address leads now
	}
	return &Client{&http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Ask implements [cluster.Asker].
func (c *Client) Ask(ctx context.Context, apiURL string) (cluster.Identity, error) {
	var id cluster.Identity
	u, err := url.Parse(apiURL)
	if err != nil || u.Host == "" {
		return id, errors.New("api_url is no URL with a host")
	}
	u.Path, u.RawPath, u.RawQuery, u.Fragment = Path, "", "", ""
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return id, errors.New("api_url makes no HTTP request")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return id, cause(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return id, fmt.Errorf("the answer has status %d, want 200", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return id, fmt.Errorf("the answer ended early: %w", err)
	case len(body) > maxBody:
		return id, fmt.Errorf("the answer has more than %d bytes", maxBody)
	case json.Unmarshal(body, &id) != nil, id.Name == "":
		return cluster.Identity{}, errors.New("the answer is not the identity of a member")
	}
	return id, nil
}

// cause returns err without the URL, which can hold a password.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
