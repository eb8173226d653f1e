package electorhttp_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster/clusterhttp"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
	"github.com/holdfast-dcs/holdfast/dcs/elector/electorhttp"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/memstore"
)

var _ elector.FailsafeTransport = (*electorhttp.FailsafeClient)(nil)

// routes carries requests to handlers by host, without a network.
type routes struct {
	mu sync.Mutex
	to map[string]http.Handler
}

func (r *routes) RoundTrip(req *http.Request) (*http.Response, error) {
	r.mu.Lock()
	h := r.to[req.URL.Host]
	r.mu.Unlock()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w.Result(), nil
}

// failsafeMember returns an elector with the client of token as its transport.
func failsafeMember(t *testing.T, server *memstore.Server, name, token string, net *routes) member {
	t.Helper()
	store, err := dcs.New(server.Open(memstore.ClientOptions{Name: name}), dcs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m := member{service: &service{}}
	c := elector.Config{Store: store, Scope: "pg", Name: name, Service: m.service, Asker: clusterhttp.New(net), Failsafe: electorhttp.NewFailsafeClient(net, token)}
	c.Member.APIURL = "http://" + name
	if m.e, err = elector.New(c); err != nil {
		t.Fatal(err)
	}
	m.h = electorhttp.New(m.e, electorhttp.Options{Authorize: electorhttp.BasicAuth("admin", "secret"), FailsafeToken: token})
	net.mu.Lock()
	net.to[name] = m.h
	net.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	t.Cleanup(func() { cancel(); <-ended; _ = store.Close() })
	go func() { defer close(ended); _ = m.e.Run(ctx) }() // ends with the test
	return m
}

// Members that share a token keep the leader in an outage; one with another token ends
// its leadership.
func TestFailsafeOverHTTP(t *testing.T) {
	for token, survives := range map[string]bool{"secret": true, "other": false, "": false} {
		bubble.Test(t, func(t *testing.T) {
			server := memstore.NewServer(memstore.Options{})
			if err := server.Put("default", "pg/config", []byte(`{"failsafe_mode":true}`)); err != nil {
				t.Fatal(err)
			}
			net := &routes{to: map[string]http.Handler{}}
			start := func(name, token string) member {
				m := failsafeMember(t, server, name, token, net)
				time.Sleep(5 * time.Second)
				return m
			}
			a := start("a", "secret")
			start("b", token)
			if code, body := a.do(http.MethodGet, "/failsafe", ""); code != 200 || !strings.Contains(body, `"b":"http://b"`) {
				t.Errorf("%d %s", code, body)
			}
			server.Down()
			time.Sleep(5 * time.Minute)
			if got := a.code("/primary") == 200; got != survives {
				t.Errorf("token %q: leads %v", token, got)
			}
			server.Up()
			time.Sleep(time.Minute)
		})
	}
}

// The checks show failsafe mode from memory: the answers of the members, and a leader
// that was accepted.
func TestFailsafeState(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		server := memstore.NewServer(memstore.Options{})
		net := &routes{to: map[string]http.Handler{}}
		a := failsafeMember(t, server, "a", "secret", net)
		time.Sleep(5 * time.Second)
		shows := func(m member, path string, want ...string) {
			t.Helper()
			_, body := m.do(http.MethodGet, path, "")
			for _, text := range want {
				if !strings.Contains(body, text) {
					t.Errorf("%s has no %s: %s", path, text, body)
				}
			}
		}
		if _, body := a.do(http.MethodGet, "/primary", ""); strings.Contains(body, "failsafe") {
			t.Errorf("where the mode is off: %s", body)
		}
		if err := server.Put("default", "pg/config", []byte(`{"failsafe_mode":true}`)); err != nil {
			t.Fatal(err)
		}
		b := failsafeMember(t, server, "b", "secret", net)
		time.Sleep(5 * time.Second)
		shows(a, "/primary", `"failsafe":{"enabled":true,"ready":true}`)
		server.Down()
		time.Sleep(time.Minute)
		shows(a, "/primary", `"failsafe_mode_is_active":true`, `"asked":[{"name":"a","accepted":true},{"name":"b","accepted":true}]`, `"leads_for_ms":`, `"asked_ago_ms":`)
		shows(b, "/patroni", `"failsafe_mode_is_active":true`, `"accepted":"a"`, `"blocked_for_ms":`)
		net.mu.Lock()
		net.to["b"] = http.NotFoundHandler()
		net.mu.Unlock()
		time.Sleep(time.Minute)
		shows(a, "/patroni", `{"name":"b","accepted":false,"reason":"the answer has status 404, want 200"}`)
		if _, body := a.do(http.MethodGet, "/patroni", ""); strings.Contains(body, "is_active") {
			t.Errorf("after the demotion: %s", body)
		}
		server.Up()
	})
}

// A question needs the shared token and a body that is usable.
func TestFailsafeRequests(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		net := &routes{to: map[string]http.Handler{}}
		m := failsafeMember(t, memstore.NewServer(memstore.Options{}), "a", "secret", net)
		time.Sleep(5 * time.Second)
		bearer := func(token string) func(*http.Request) {
			return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
		}
		for _, test := range []struct {
			method, body string
			auth         func(*http.Request)
			want         int
			text         string
		}{
			{"POST", `{}`, func(*http.Request) {}, 401, "failsafe token"},
			{"POST", `{}`, bearer("other"), 401, "failsafe token"},
			{"POST", `{}`, bearer(""), 401, "failsafe token"},
			{"POST", `{}`, admin, 401, "failsafe token"},
			{"POST", `x`, bearer("secret"), 400, "no question"},
			{"POST", `{"name":"` + strings.Repeat("b", 1<<20) + `"}`, bearer("secret"), 400, "no question"},
			{"POST", `{}`, bearer("secret"), 200, `"accepted":false`},
			{"POST", `{"scope":"pg","member":"a","name":"b","instance":"i","token":7,"ttl_ns":1000000000}`, bearer("secret"), 200, "in the state Leading"},
			{"DELETE", `{}`, bearer("secret"), 401, "no authorisation"},
			{"DELETE", `{}`, admin, 200, "the list is empty"},
		} {
			code, text := m.do(test.method, "/failsafe", test.body, test.auth)
			if code != test.want || !strings.Contains(text, test.text) {
				t.Errorf("%s %.60s: %d %s, want %d %s", test.method, test.body, code, text, test.want, test.text)
			}
		}
		open := member{h: electorhttp.New(m.e, electorhttp.Options{})} // without a token nobody is accepted
		if code, _ := open.do("POST", "/failsafe", `{}`, bearer("")); code != 401 {
			t.Errorf("%d", code)
		}
	})
}

// A loop that does not answer in time is no acceptance.
func TestFailsafeLoopHangs(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		store, err := dcs.New(memstore.NewServer(memstore.Options{}).Open(memstore.ClientOptions{}), dcs.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = store.Close() }()
		e, err := elector.New(elector.Config{Store: store, Scope: "pg", Name: "a", Service: &service{}}) // not started
		if err != nil {
			t.Fatal(err)
		}
		m := member{h: electorhttp.New(e, electorhttp.Options{FailsafeToken: "secret"})}
		begin := time.Now()
		code, _ := m.do("POST", "/failsafe", `{}`, func(r *http.Request) { r.Header.Set("Authorization", "Bearer secret") })
		if d := time.Since(begin); code != 503 || d != 2*time.Second {
			t.Errorf("%d after %v", code, d)
		}
	})
}

// The client keeps to TLS, follows no redirect, and shows no secret.
func TestFailsafeClient(t *testing.T) {
	var got string
	mux := http.NewServeMux()
	mux.HandleFunc("/failsafe", func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("Authorization")
		_, _ = w.Write([]byte(`{"accepted":true}`))
	})
	server := httptest.NewTLSServer(mux)
	defer server.Close()
	url := strings.Replace(server.URL, "https://", "https://u:hidden@", 1)
	a, err := electorhttp.NewFailsafeClient(server.Client().Transport, "secret").AskFailsafe(t.Context(), url+"/x?y", elector.FailsafeRequest{})
	if err != nil || !a.Accepted || got != "Bearer secret" {
		t.Errorf("%+v, %v, %q", a, err, got)
	}
	moved := httptest.NewTLSServer(http.RedirectHandler(server.URL+"/failsafe", http.StatusTemporaryRedirect))
	defer moved.Close()
	got = ""
	for name, c := range map[string]*electorhttp.FailsafeClient{
		"unknown authority": electorhttp.NewFailsafeClient(nil, "secret"),
		"no token":          electorhttp.NewFailsafeClient(server.Client().Transport, ""),
	} {
		if _, err := c.AskFailsafe(t.Context(), url, elector.FailsafeRequest{}); err == nil || strings.Contains(err.Error(), "hidden") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := electorhttp.NewFailsafeClient(server.Client().Transport, "secret").AskFailsafe(t.Context(), moved.URL, elector.FailsafeRequest{}); err == nil || got != "" {
		t.Errorf("a redirect was followed: %v", err)
	}
}
