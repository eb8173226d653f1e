package electorhttp

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/dcs/cluster/clusterhttp"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
)

const (
	failsafePath = "/failsafe"
	// maxQuestion bounds the body of a question, and maxJudging the time for its answer.
	maxQuestion = 64 << 10
	maxJudging  = 2 * time.Second
)

// FailsafeClient carries the questions of failsafe mode over HTTP. It is an
// [elector.FailsafeTransport].
type FailsafeClient struct {
	client  *clusterhttp.Client
	token   string
	tlsOnly bool
}

// NewFailsafeClient returns a client that sends the token that the members share. The
// token must be that of their [Options.FailsafeToken]. transport decides about TLS, as in
// [clusterhttp.New], and may be that of the Asker. With an [http.Transport] that has a
// TLSClientConfig, the token is sent over TLS only: an address of a member with http is an
// error. With another transport it is sent to such an address in clear text.
func NewFailsafeClient(transport http.RoundTripper, token string) *FailsafeClient {
	t, ok := transport.(*http.Transport)
	return &FailsafeClient{clusterhttp.New(transport), token, ok && t.TLSClientConfig != nil}
}

// AskFailsafe implements [elector.FailsafeTransport].
func (c *FailsafeClient) AskFailsafe(ctx context.Context, apiURL string, r elector.FailsafeRequest) (elector.FailsafeAnswer, error) {
	var a elector.FailsafeAnswer
	if c.token == "" {
		return a, errors.New("the failsafe token is empty: no member answers without one")
	}
	if u, err := url.Parse(apiURL); c.tlsOnly && (err != nil || u.Scheme != "https") {
		return a, errors.New("api_url is no https URL, and the failsafe token is sent only over TLS")
	}
	err := c.client.Exchange(ctx, apiURL, failsafePath, c.token, r, &a)
	return a, err
}

// failsafe answers the leader's question, and the requests of operators for the list.
func (h *handler) failsafe(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPost:
		h.acceptFailsafe(w, r)
	case http.MethodDelete:
		if _, ok := h.writes(w, r, http.MethodDelete); !ok {
			return
		}
		ctx, cancel := h.bounded(r)
		defer cancel()
		if err := h.e.EmptyFailsafe(ctx); err != nil {
			fail(w, err)
			return
		}
		answer(w, http.StatusOK, map[string]string{"result": "the list is empty"})
	default:
		h.read(func(v *cluster.View) any { return v.Failsafe.Members }, http.MethodPost, http.MethodDelete)(w, r)
	}
}

// acceptFailsafe answers the question of a leader. The answer has the status 200 also
// where it is a refusal, because it must name the process that refuses.
func (h *handler) acceptFailsafe(w http.ResponseWriter, r *http.Request) {
	got, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || h.o.FailsafeToken == "" || equalSecrets(got, h.o.FailsafeToken) != 1 {
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "the failsafe token is not that of this member", http.StatusUnauthorized)
		return
	}
	var q elector.FailsafeRequest
	if err := readBody(w, r, maxQuestion, &q); err != nil {
		http.Error(w, "the body is no question of a leader", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), maxJudging)
	defer cancel()
	a, err := h.e.AcceptFailsafe(ctx, q)
	if err != nil {
		http.Error(w, "the elector has not answered", http.StatusServiceUnavailable)
		return
	}
	answer(w, http.StatusOK, a)
}

// equalSecrets returns 1 if the texts are equal, in constant time.
func equalSecrets(a, b string) int {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:])
}
