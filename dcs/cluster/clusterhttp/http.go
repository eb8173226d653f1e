// Package clusterhttp lets the members of a cluster ask each other over HTTP for
// their identity. It is the transport of [cluster.Verify]; a program with another one
// does not need it.
package clusterhttp

import (
	"bytes"
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

// New returns a Client that sends its requests through transport, which decides about
// TLS: an [http.Transport] with a TLSClientConfig. Nil is a transport without a proxy,
// with the authorities of the system. Only Clients may use the transport, because each
// question needs a connection of its own. The Client follows no redirect, because
// the answer must be that of the address.
func New(transport http.RoundTripper) *Client {
	if transport == nil {
		transport = &http.Transport{}
	}
	return &Client{&http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Ask implements [cluster.Asker].
func (c *Client) Ask(ctx context.Context, apiURL string) (cluster.Identity, error) {
	var id cluster.Identity
	err := c.Exchange(ctx, apiURL, Path, "", nil, &id)
	if err == nil && id.Name == "" {
		err = errNoAnswer
	}
	if err != nil {
		return cluster.Identity{}, err
	}
	return id, nil
}

var errNoAnswer = errors.New("the answer is not that of a member")

// Exchange sends a request for path to the member at apiURL, and decodes the JSON of
// the answer into out, which must have the status 200. If in is not nil, it is sent as
// JSON in a POST. A token that is not empty is sent as a bearer token. Errors show
// neither the URL nor the token.
func (c *Client) Exchange(ctx context.Context, apiURL, path, token string, in, out any) error {
	req, err := request(ctx, apiURL, path, in)
	if err != nil {
		return err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return cause(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the answer has status %d, want 200", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return fmt.Errorf("the answer ended early: %w", err)
	case len(body) > maxBody:
		return fmt.Errorf("the answer has more than %d bytes", maxBody)
	case json.Unmarshal(body, out) != nil:
		return errNoAnswer
	}
	return nil
}

// request returns the request for path at apiURL.
func request(ctx context.Context, apiURL, path string, in any) (*http.Request, error) {
	u, err := url.Parse(apiURL)
	if err != nil || u.Host == "" {
		return nil, errors.New("api_url is no URL with a host")
	}
	u.Path, u.RawPath, u.RawQuery, u.Fragment = path, "", "", ""
	method, body := http.MethodGet, io.Reader(http.NoBody)
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		method, body = http.MethodPost, bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, errors.New("api_url makes no HTTP request")
	}
	req.Close = true // a new connection shows where the address leads now
	return req, nil
}

// cause returns err without the URL, which can hold a password.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
