package clusterhttp_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/dcs/cluster/clusterhttp"
)

var _ cluster.Asker = (*clusterhttp.Client)(nil)

// serve serves h at the path of an identity.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(clusterhttp.Path, h)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

func TestAsk(t *testing.T) {
	self := cluster.Identity{Scope: "pg", Name: "a", Instance: "i", State: "running", Position: 7}
	url := serve(t, clusterhttp.Handler(func() cluster.Identity { return self }).ServeHTTP)
	got, err := clusterhttp.New(nil).Ask(t.Context(), url+"/patroni?x=y#ttl=3s")
	if err != nil || got != self {
		t.Fatalf("got %+v and %v, want %+v", got, err, self)
	}

	for method, want := range map[string]int{http.MethodHead: http.StatusOK, http.MethodPost: http.StatusMethodNotAllowed} {
		req, err := http.NewRequestWithContext(t.Context(), method, url+clusterhttp.Path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: status %d, want %d", method, resp.StatusCode, want)
		}
	}
}

// Each question has a connection of its own with every transport. A connection
// that is kept would reach the process that the address has led to before.
func TestAskUsesNewConnections(t *testing.T) {
	var mu sync.Mutex
	clients := map[string]bool{}
	h := func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		clients[r.RemoteAddr] = true
		mu.Unlock()
		clusterhttp.Handler(func() cluster.Identity { return cluster.Identity{Name: "a"} }).ServeHTTP(w, r)
	}
	for name, start := range map[string]func(*httptest.Server){
		"HTTP/1": (*httptest.Server).Start, "TLS": (*httptest.Server).StartTLS,
		"HTTP/2": func(s *httptest.Server) { s.EnableHTTP2 = true; s.StartTLS() },
	} {
		t.Run(name, func(t *testing.T) {
			clear(clients)
			s := httptest.NewUnstartedServer(http.HandlerFunc(h))
			start(s)
			defer s.Close()
			c := clusterhttp.New(s.Client().Transport)
			for range 3 {
				if _, err := c.Ask(t.Context(), s.URL); err != nil {
					t.Fatal(err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if len(clients) != 3 {
				t.Errorf("3 questions over %d connections", len(clients))
			}
		})
	}
}

// An answer that is no identity is an error, and none holds a password.
func TestAskRefuses(t *testing.T) {
	other := serve(t, clusterhttp.Handler(func() cluster.Identity { return cluster.Identity{Name: "other"} }).ServeHTTP)
	for name, h := range map[string]http.HandlerFunc{
		"no JSON":  func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"no name":  func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") },
		"an error": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other+clusterhttp.Path, http.StatusFound)
		},
		"a flood": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat(" ", 1<<20)) },
		"silence": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if name != "silence" {
				ctx = t.Context()
			}
			url := strings.Replace(serve(t, h), "http://", "http://u:secret@", 1)
			_, err := clusterhttp.New(nil).Ask(ctx, url)
			refused(t, url, err)
		})
	}
	for _, url := range []string{"", "http://", "x", "http://u:secret@h:x/", "ftp://u:secret@127.0.0.1:1/"} {
		_, err := clusterhttp.New(nil).Ask(t.Context(), url)
		refused(t, url, err)
	}
}

// refused requires that err is an error that shows no password.
func refused(t *testing.T, url string, err error) {
	t.Helper()
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("%q: %v", url, err)
	}
}
