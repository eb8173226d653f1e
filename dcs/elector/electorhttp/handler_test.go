package electorhttp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
	"github.com/holdfast-dcs/holdfast/dcs/elector/electorhttp"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// service is a service with a position.
type service struct {
	primary  atomic.Bool
	position atomic.Int64
	demote   time.Duration
}

func (s *service) Promote(context.Context, *elector.Leadership) error {
	s.primary.Store(true)
	return nil
}

func (s *service) Demote(context.Context, elector.Reason) error {
	time.Sleep(s.demote)
	s.primary.Store(false)
	return nil
}

func (s *service) Fence(elector.Reason) error { s.primary.Store(false); return nil }

func (s *service) Report(context.Context) (cluster.Member, error) {
	m := cluster.Member{Role: cluster.RoleReplica, State: cluster.StateRunning, Position: s.position.Load()}
	if s.primary.Load() {
		m.Role = cluster.RolePrimary
	}
	return m, nil
}

// member is an elector with its handler.
type member struct {
	*service
	e *elector.Elector
	h http.Handler
}

// get sends a request and returns status and body.
func (m member) do(method, target, body string, change ...func(*http.Request)) (int, string) {
	r := httptest.NewRequestWithContext(context.Background(), method, target, strings.NewReader(body))
	for _, f := range change {
		f(r)
	}
	w := httptest.NewRecorder()
	m.h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func (m member) code(target string) int {
	code, _ := m.do(http.MethodGet, target, "")
	return code
}

func admin(r *http.Request) { r.SetBasicAuth("admin", "secret") }

// inCluster runs f with a leader a and a replica b, in a bubble.
func inCluster(t *testing.T, f func(t *testing.T, server *memstore.Server, a, b member)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		server := memstore.NewServer(memstore.Options{})
		start := func(name string) member {
			store, err := dcs.New(server.Open(memstore.ClientOptions{Name: name}), dcs.Options{})
			if err != nil {
				t.Fatal(err)
			}
			m := member{service: &service{}}
			m.e, err = elector.New(elector.Config{Store: store, Scope: "pg", Name: name, Service: m.service})
			if err != nil {
				t.Fatal(err)
			}
			m.h = electorhttp.New(m.e, electorhttp.Options{Authorize: electorhttp.BasicAuth("admin", "secret")})
			if code := m.code("/liveness"); code != http.StatusServiceUnavailable {
				t.Errorf("/liveness is %d before the start", code)
			}
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan struct{})
			go func() { defer close(ended); _ = m.e.Run(ctx) }() // ends with the test
			t.Cleanup(func() { cancel(); <-ended; _ = store.Close() })
			time.Sleep(time.Second)
			return m
		}
		f(t, server, start("a"), start("b"))
	})
}

// Each check has its status for a leader and for a replica, and the same one while the
// store hangs, in no time.
func TestChecks(t *testing.T) {
	want := map[string][2]int{
		"/": {200, 503}, "/primary": {200, 503}, "/master": {200, 503}, "/leader": {200, 503}, "/read-write": {200, 503},
		"/replica": {503, 200}, "/read-only": {200, 200}, "/health": {200, 200}, "/liveness": {200, 200}, "/readiness": {200, 200},
		"/patroni": {200, 200}, "/cluster": {200, 200}, "/history": {200, 200}, "/config": {200, 200}, "/identity": {200, 200},
		"/keeper": {200, 200}, "/failsafe": {200, 200}, "/metrics": {404, 404},
	}
	inCluster(t, func(t *testing.T, server *memstore.Server, a, b member) {
		check := func(when string) {
			t.Helper()
			begin := time.Now()
			for path, codes := range want {
				if got := [2]int{a.code(path), b.code(path)}; got != codes {
					t.Errorf("%s: %s is %v, want %v", when, path, got, codes)
				}
			}
			if d := time.Since(begin); d > 0 {
				t.Errorf("%s: the answers took %v", when, d)
			}
		}
		check("healthy")
		for _, method := range []string{http.MethodHead, http.MethodOptions} {
			if code, _ := b.do(method, "/primary", ""); code != 503 {
				t.Errorf("%s is %d", method, code)
			}
		}
		if code, _ := a.do(http.MethodPost, "/primary", ""); code != http.StatusMethodNotAllowed {
			t.Errorf("POST is %d", code)
		}
		hang := server.Inject(memstore.Match{}, memstore.Hang())
		time.Sleep(5 * time.Second)
		check("store hangs")
		hang.Lift()
		server.Down()
		time.Sleep(time.Minute)
		if code := a.code("/primary"); code != 503 {
			t.Errorf("/primary is %d after the deadline", code)
		}
	})
}

// A client that does not send its body is answered, and its connection is closed.
func TestSlowBody(t *testing.T) {
	for _, request := range []string{"POST /switchover", "DELETE /switchover", "PUT /config", "PATCH /config"} {
		t.Run(request, func(t *testing.T) { slowBody(t, request) })
	}
}

func slowBody(t *testing.T, request string) {
	inCluster(t, func(t *testing.T, _ *memstore.Server, a, _ member) {
		client, conn := net.Pipe()
		l := oneConn{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
		l.conns <- conn
		s := &http.Server{Handler: a.h} //nolint:gosec // G112: the handler has its own bound
		go func() { _ = s.Serve(l) }()  // ends with Close
		defer s.Close()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/switchover", nil)
		admin(r)
		begin := time.Now()
		if err := client.SetDeadline(begin.Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, err := fmt.Fprintf(client, "%s HTTP/1.1\r\nHost: a\r\nAuthorization: %s\r\nContent-Length: 100\r\n\r\n{", request, r.Header.Get("Authorization"))
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(client)
		answer, err := http.ReadResponse(in, r)
		if err != nil || answer.StatusCode != http.StatusBadRequest {
			t.Fatalf("%+v, %v", answer, err)
		}
		if _, err := io.Copy(io.Discard, in); err != nil {
			t.Errorf("the connection is not closed: %v", err)
		}
		if d := time.Since(begin); d > 3*time.Second {
			t.Errorf("answered after %v", d)
		}
	})
}

// oneConn is a listener for one connection.
type oneConn struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l oneConn) Close() error   { close(l.closed); return nil }
func (l oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// A program of another kind has written an address with a password.
func TestPasswordIsNotShown(t *testing.T) {
	inCluster(t, func(t *testing.T, server *memstore.Server, a, _ member) {
		store, err := dcs.New(server.Open(memstore.ClientOptions{}), dcs.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		value := `{"role":"replica","state":"running","api_url":"http://u:` + "hidden" + `@c/"}`
		if _, err := store.Commit(t.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put(cluster.Key("pg", "members/c"), []byte(value))}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if _, body := a.do(http.MethodGet, "/cluster", ""); !strings.Contains(body, "@c/") || strings.Contains(body, "hidden") {
			t.Error(body)
		}
	})
}

// /primary ends with the beginning of the demotion.
func TestPrimaryWhileDemoting(t *testing.T) {
	inCluster(t, func(t *testing.T, _ *memstore.Server, a, b member) {
		a.demote = 3 * time.Second
		go func() { _ = a.e.Switchover(t.Context(), elector.Request{Candidate: "b"}) }() // ends when b leads
		time.Sleep(time.Second)
		if !a.primary.Load() || a.code("/primary") != 503 || b.code("/primary") != 503 {
			t.Errorf("service %v, a %d, b %d", a.primary.Load(), a.code("/primary"), b.code("/primary"))
		}
		time.Sleep(5 * time.Second)
		if b.code("/primary") != 200 || a.code("/replica") != 200 {
			t.Errorf("a %d, b %d", a.code("/replica"), b.code("/primary"))
		}
	})
}

// A leader that goes on under a keeper without its lock is healthy and no primary for
// clients.
func TestPrimaryUnderAKeeper(t *testing.T) {
	inCluster(t, func(t *testing.T, server *memstore.Server, a, b member) {
		if err := a.e.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if !a.e.Status().Kept || a.code("/primary") != 200 {
			t.Errorf("kept %v, /primary %d", a.e.Status().Kept, a.code("/primary"))
		}
		server.Down()
		time.Sleep(time.Minute)
		if !a.primary.Load() || b.primary.Load() {
			t.Errorf("a %v, b %v", a.primary.Load(), b.primary.Load())
		}
		for path, want := range map[string]int{"/primary": 503, "/leader": 503, "/read-write": 503, "/replica": 503, "/health": 200, "/liveness": 200} {
			if got := a.code(path); got != want {
				t.Errorf("%s is %d, want %d", path, got, want)
			}
		}
	})
}

func TestReplicaLag(t *testing.T) {
	inCluster(t, func(t *testing.T, _ *memstore.Server, a, b member) {
		a.position.Store(100)
		b.position.Store(90)
		time.Sleep(30 * time.Second)
		for target, want := range map[string]int{"/replica?lag=10": 200, "/replica?lag=9": 503, "/replica?lag=x": 503} {
			if got := b.code(target); got != want {
				t.Errorf("%s is %d, want %d", target, got, want)
			}
		}
	})
}

func TestBodies(t *testing.T) {
	inCluster(t, func(t *testing.T, _ *memstore.Server, a, _ member) {
		for target, want := range map[string]string{
			"/patroni":  `{"state":"running","role":"primary","elector":"Leading","leader":"a"}`,
			"/cluster":  `{"members":[{"name":"a","role":"leader","state":"running"},{"name":"b","role":"replica","state":"running","lag":0}],"scope":"pg"}`,
			"/history":  `,0,"lock was free",`,
			"/config":   `{"loop_wait":10,"retry_timeout":10,"ttl":30}`,
			"/identity": `"name":"a"`,
		} {
			if _, got := a.do(http.MethodGet, target, ""); !strings.Contains(got, want) {
				t.Errorf("%s is %s, want %s", target, got, want)
			}
		}
	})
}

// Requests that change the cluster need authorisation and a body that is usable.
func TestWrites(t *testing.T) {
	inCluster(t, func(t *testing.T, _ *memstore.Server, a, b member) {
		later, err := json.Marshal(time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		wrong := func(r *http.Request) { r.SetBasicAuth("admin", "other") }
		nobody := func(*http.Request) {}
		for _, test := range []struct {
			m            member
			method, path string
			body         string
			auth         func(*http.Request)
			want         int
			text         string
		}{
			{a, "POST", "/switchover", `{"candidate":"b"}`, nobody, 401, "no authorisation"},
			{a, "POST", "/switchover", `{"candidate":"b"}`, wrong, 401, ""},
			{a, "PATCH", "/config", `{"pause":true}`, nobody, 401, ""},
			{a, "GET", "/switchover", ``, admin, 405, ""},
			{a, "DELETE", "/config", ``, admin, 405, ""},
			{a, "PUT", "/config", `{"ttl":30}`, nobody, 401, ""},
			{a, "PUT", "/switchover", `{}`, admin, 405, ""},
			{a, "DELETE", "/switchover", ``, nobody, 401, "no authorisation"},
			{a, "DELETE", "/switchover", ``, wrong, 401, ""},
			{a, "DELETE", "/switchover", `all`, admin, 400, "must be empty"},
			{a, "DELETE", "/switchover", `{"candidate":"b"}`, admin, 400, "must be empty"},
			{a, "DELETE", "/switchover", `"` + strings.Repeat("b", 2<<20) + `"`, admin, 400, ""},
			{a, "DELETE", "/switchover", ``, admin, 404, "no switchover is stored"},
			{a, "POST", "/switchover", `candidate`, admin, 400, ""},
			{a, "POST", "/switchover", `{"candidate":"` + strings.Repeat("b", 2<<20) + `"}`, admin, 400, ""},
			{a, "POST", "/switchover", `{"scheduled_at":"soon"}`, admin, 400, ""},
			{a, "POST", "/switchover", `{"candidate":"x"}`, admin, 412, `member "x" is unknown`},
			{a, "POST", "/switchover", `{"leader":"b","candidate":"a"}`, admin, 412, `member "b" does not lead`},
			{b, "POST", "/switchover", `{"candidate":"a"}`, admin, 412, `ask "a"`},
			{a, "POST", "/switchover", `{"candidate":"b","scheduled_at":"1999-12-31T00:00:00Z"}`, admin, 412, "in the past"},
			{a, "POST", "/switchover", `{"candidate":"b","scheduled_at":"2999-12-31T00:00:00"}`, admin, 400, "a time with a zone"},
			{b, "PATCH", "/config", `[]`, admin, 412, "not a JSON object"},
			{b, "PATCH", "/config", `{"ttl":"long"}`, admin, 412, `field "ttl"`},
			{b, "PATCH", "/config", `{"ttl":15}`, admin, 412, "TTL 15s is less than"},
			{b, "GET", "/config", ``, nobody, 200, `{"loop_wait":10,"retry_timeout":10,"ttl":30}`},
			{b, "PUT", "/config", `ttl`, admin, 400, "not JSON"},
			{b, "PUT", "/config", `"` + strings.Repeat("b", 2<<20) + `"`, admin, 400, "at most 1 MiB"},
			{b, "PUT", "/config", `[]`, admin, 412, "not a JSON object"},
			{b, "PUT", "/config", `{}`, admin, 412, "is empty"},
			{b, "PUT", "/config", `{"ttl":15,"loop_wait":10,"retry_timeout":10}`, admin, 412, "TTL 15s is less than"},
			{b, "PUT", "/config", `{"ttl":30,"loop_wait":10,"retry_timeout":10,"x":[1]}`, admin, 200, `{"loop_wait":10,"retry_timeout":10,"ttl":30,"x":[1]}`},
			{b, "PUT", "/config", `{"ttl":30,"loop_wait":10,"retry_timeout":10}`, admin, 200, `{"loop_wait":10,"retry_timeout":10,"ttl":30}`},
			{b, "DELETE", "/keeper", `{"name":"a"}`, nobody, 401, ""},
			{b, "DELETE", "/keeper", `{}`, admin, 400, "want the name"},
			{b, "DELETE", "/keeper", `{"name":"a"}`, admin, 200, "no keeper"},
			{b, "GET", "/keeper", ``, nobody, 200, "null"},
			{b, "PATCH", "/config", `{"pause":true}`, admin, 200, `{"loop_wait":10,"pause":true,"retry_timeout":10,"ttl":30}`},
			{a, "POST", "/switchover", `{"candidate":"b"}`, admin, 412, "paused"},
			{b, "PATCH", "/config", `{"pause":null}`, admin, 200, `{"loop_wait":10,"retry_timeout":10,"ttl":30}`},
			{a, "POST", "/switchover", `{"candidate":"b","scheduled_at":` + string(later) + `}`, admin, 202, "scheduled"},
			{b, "DELETE", "/switchover", ``, admin, 200, "cancelled"},
			{b, "DELETE", "/switchover", `{}`, admin, 404, ""},
			{a, "POST", "/switchover", `{"candidate":"b","scheduled_at":` + string(later) + `}`, admin, 202, "scheduled"},
			{b, "DELETE", "/switchover", `{}`, admin, 200, "cancelled"},
			{a, "POST", "/switchover", `{"leader":"a","candidate":"b"}`, admin, 200, "leads"},
		} {
			code, text := test.m.do(test.method, test.path, test.body, test.auth)
			if code != test.want || !strings.Contains(text, test.text) {
				t.Errorf("%s %s %.40s: %d %s, want %d %s", test.method, test.path, test.body, code, text, test.want, test.text)
			}
		}
		if b.code("/primary") != 200 {
			t.Error("b does not lead")
		}
	})
}

// An answer for a wrong method names the right ones.
func TestAllow(t *testing.T) {
	inCluster(t, func(t *testing.T, _ *memstore.Server, a, _ member) {
		for path, want := range map[string]string{
			"/primary": "GET, HEAD, OPTIONS", "/config": "GET, HEAD, OPTIONS, PATCH, PUT", "/switchover": "POST, DELETE",
			"/keeper": "GET, HEAD, OPTIONS, DELETE", "/failsafe": "GET, HEAD, OPTIONS, POST, DELETE",
		} {
			w := httptest.NewRecorder()
			a.h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "TRACE", path, nil))
			if got := w.Header().Get("Allow"); w.Code != http.StatusMethodNotAllowed || got != want {
				t.Errorf("%s: status %d, Allow %q, want %q", path, w.Code, got, want)
			}
		}
	})
}

// Without Authorize nothing can be changed, and an empty password is none.
func TestNoAuthorize(t *testing.T) {
	inCluster(t, func(t *testing.T, _ *memstore.Server, a, _ member) {
		for _, o := range []electorhttp.Options{{}, {Authorize: electorhttp.BasicAuth("admin", "")}} {
			m := member{h: electorhttp.New(a.e, o)}
			code, _ := m.do(http.MethodPatch, "/config", `{"pause":true}`, func(r *http.Request) { r.SetBasicAuth("admin", "") })
			if code != http.StatusUnauthorized {
				t.Errorf("status %d", code)
			}
		}
		served := electorhttp.New(a.e, electorhttp.Options{Metrics: http.NotFoundHandler()})
		if code := (member{h: served}).code("/metrics"); code != http.StatusNotFound {
			t.Errorf("status %d", code)
		}
	})
}
