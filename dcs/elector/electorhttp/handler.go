package electorhttp

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/dcs/cluster/clusterhttp"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
)

// maxBody bounds the body of a request, and maxReading the time for its arrival.
const (
	maxBody    = 1 << 20
	maxReading = 2 * time.Second
)

// Options configure a handler.
type Options struct {
	// Authorize reports whether a request may change the cluster. Nil refuses every
	// such request.
	Authorize func(*http.Request) bool
	// FailsafeToken is the secret that the members share for failsafe mode. Without
	// it no leader is accepted.
	FailsafeToken string
	// Metrics serves /metrics; nil means that there is none.
	Metrics http.Handler
}

// BasicAuth returns an Authorize function that requires a user and a password. It
// compares them in constant time. The password must not be empty.
func BasicAuth(user, password string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		u, p, _ := r.BasicAuth()
		ok := equalSecrets(u, user) & equalSecrets(p, password)
		return ok == 1 && password != ""
	}
}

// New returns the handler of e.
func New(e *elector.Elector, o Options) http.Handler {
	h := &handler{e, o}
	mux := http.NewServeMux()
	for path, check := range map[string]func(*http.Request, elector.Status) bool{
		"/{$}": h.leads, "/primary": h.leads, "/master": h.leads, "/leader": h.leads, "/read-write": h.leads,
		"/replica":   h.follows,
		"/read-only": func(r *http.Request, s elector.Status) bool { return h.leads(r, s) || h.follows(r, s) },
		"/health":    func(_ *http.Request, s elector.Status) bool { return s.Member.State == cluster.StateRunning },
		"/liveness":  func(*http.Request, elector.Status) bool { return e.Alive() == nil },
		"/readiness": func(r *http.Request, s elector.Status) bool {
			return h.leads(r, s) || s.State == elector.Following && s.Leader != "" && s.Member.State == cluster.StateRunning
		},
		"/patroni": func(*http.Request, elector.Status) bool { return true },
	} {
		mux.HandleFunc(path, h.check(check))
	}
	mux.HandleFunc("/cluster", h.read(h.members))
	mux.HandleFunc("/history", h.read(func(v *cluster.View) any { return v.History }))
	mux.HandleFunc("/config", h.config)
	mux.HandleFunc("/switchover", h.switchover)
	mux.HandleFunc("/keeper", h.keeper)
	mux.HandleFunc(failsafePath, h.failsafe)
	mux.Handle(clusterhttp.Path, clusterhttp.Handler(e.Identity))
	if o.Metrics != nil {
		mux.Handle("/metrics", o.Metrics)
	}
	return mux
}

type handler struct {
	e *elector.Elector
	o Options
}

// leads reports whether the leadership is valid now.
func (h *handler) leads(*http.Request, elector.Status) bool { return h.e.Leading() != nil }

// follows reports whether the service runs as a replica that may be read.
func (h *handler) follows(r *http.Request, s elector.Status) bool {
	m := s.Member
	if h.e.Leading() != nil || s.State != elector.Following || m.State != cluster.StateRunning || m.Primary() || flag(m, "noloadbalance") {
		return false
	}
	text := r.URL.Query().Get("lag")
	if text == "" {
		return true
	}
	limit, err := strconv.ParseInt(text, 10, 64)
	v := h.e.View()
	return err == nil && v != nil && v.Status.Position-m.Position <= limit
}

// flag reports whether a tag of m is true.
func flag(m cluster.Member, name string) bool {
	var on bool
	return json.Unmarshal(m.Tags[name], &on) == nil && on
}

// state is the body of a check.
type state struct {
	State    string `json:"state"`
	Role     string `json:"role"`
	Position int64  `json:"xlog_location,omitempty"`
	Timeline int64  `json:"timeline,omitempty"`
	Elector  string `json:"elector"`
	Leader   string `json:"leader,omitempty"`
	Paused   bool   `json:"pause,omitempty"`
	// Refusal is why this member does not take a lock that is free.
	Refusal string `json:"refusal,omitempty"`
	failsafeState
}

func (h *handler) check(ok func(*http.Request, elector.Status) bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !reads(w, r) {
			return
		}
		s := h.e.Status()
		code := http.StatusServiceUnavailable
		if ok(r, s) {
			code = http.StatusOK
		}
		m := s.Member
		body := state{State: m.State, Role: m.Role, Position: m.Position, Timeline: m.Timeline, Elector: s.State.String(), Leader: s.Leader, Paused: s.Paused, failsafeState: failsafeOf(s.Failsafe)}
		if s.Refusal != nil {
			body.Refusal = s.Refusal.Error()
		}
		answer(w, code, body)
	}
}

// reads reports whether r only reads, and answers it otherwise. other are the further
// methods of the path.
func reads(w http.ResponseWriter, r *http.Request, other ...string) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return true
	}
	notAllowed(w, append([]string{http.MethodGet, http.MethodHead, http.MethodOptions}, other...))
	return false
}

func notAllowed(w http.ResponseWriter, methods []string) {
	w.Header().Set("Allow", strings.Join(methods, ", "))
	http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
}

// read serves a part of the View. other are the further methods of the path.
func (h *handler) read(part func(*cluster.View) any, other ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !reads(w, r, other...) {
			return
		}
		v := h.e.View()
		if v == nil {
			http.Error(w, "the cluster was not read yet", http.StatusServiceUnavailable)
			return
		}
		answer(w, http.StatusOK, part(v))
	}
}

// memberBody is a member in the answer to /cluster.
type memberBody struct {
	Name     string                     `json:"name"`
	Role     string                     `json:"role"`
	State    string                     `json:"state"`
	APIURL   string                     `json:"api_url,omitempty"`
	Timeline int64                      `json:"timeline,omitempty"`
	Lag      *int64                     `json:"lag,omitempty"`
	Tags     map[string]json.RawMessage `json:"tags,omitempty"`
}

func (h *handler) members(v *cluster.View) any {
	out := struct {
		Members  []memberBody `json:"members"`
		Scope    string       `json:"scope"`
		Pause    bool         `json:"pause,omitempty"`
		Failover any          `json:"scheduled_switchover,omitempty"`
	}{Members: []memberBody{}, Scope: v.Scope, Pause: v.Config.Pause}
	for _, m := range v.Members {
		b := memberBody{Name: m.Name, Role: m.Role, State: m.State, APIURL: withoutPassword(m.APIURL), Timeline: m.Timeline, Tags: m.Tags}
		if v.Leader != nil && v.Leader.Name == m.Name {
			b.Role = "leader"
		} else {
			lag := max(0, v.Status.Position-m.Position)
			b.Lag = &lag
		}
		out.Members = append(out.Members, b)
	}
	if f := v.Failover; f != nil && !f.At.IsZero() {
		out.Failover = map[string]string{"at": f.At.Format(time.RFC3339Nano), "from": f.Leader, "to": f.Candidate}
	}
	return out
}

// withoutPassword returns an address for answers. A program of another kind may have
// written one with a password.
func withoutPassword(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Redacted()
}

// permits reports whether r has one of the methods and may change the cluster, and answers
// it otherwise.
func (h *handler) permits(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	switch {
	case !slices.Contains(methods, r.Method):
		notAllowed(w, methods)
	case h.o.Authorize == nil || !h.o.Authorize(r):
		w.Header().Set("WWW-Authenticate", `Basic realm="cluster"`)
		http.Error(w, "no authorisation", http.StatusUnauthorized)
	default:
		return true
	}
	return false
}

// writes reads the body of a request that changes the cluster. It reports false if it
// has answered the request.
func (h *handler) writes(w http.ResponseWriter, r *http.Request, methods ...string) (body []byte, ok bool) {
	if !h.permits(w, r, methods...) {
		return nil, false
	}
	var raw json.RawMessage
	if err := readBody(w, r, maxBody, &raw); err != nil {
		http.Error(w, "the body is not JSON of at most 1 MiB", http.StatusBadRequest)
		return nil, false
	}
	return raw, true
}

// readBody decodes the body of a request, of at most limit bytes, into v. The connection
// of a client that does not send it in time is closed.
func readBody(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	conn := http.NewResponseController(w)
	by := time.Now().Add(maxReading)           //nolint:forbidigo // the deadline of a connection
	bounded := conn.SetReadDeadline(by) == nil // a server that supports none has its own bound
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit)).Decode(v)
	if err == nil && bounded {
		_ = conn.SetReadDeadline(time.Time{}) // the next request has its own time
	}
	return err
}

// bounded returns the context of a request that changes the cluster.
func (h *handler) bounded(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), 2*h.e.Status().Table.Others)
}

func (h *handler) config(w http.ResponseWriter, r *http.Request) {
	change := h.e.PatchConfig
	switch r.Method {
	case http.MethodPatch:
	case http.MethodPut:
		change = h.e.ReplaceConfig
	default:
		h.read(func(v *cluster.View) any { return v.Config }, http.MethodPatch, http.MethodPut)(w, r)
		return
	}
	body, ok := h.writes(w, r, r.Method)
	if !ok {
		return
	}
	ctx, cancel := h.bounded(r)
	defer cancel()
	c, err := change(ctx, body)
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusOK, c)
}

func (h *handler) switchover(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodDelete {
		h.cancelSwitchover(w, r)
		return
	}
	body, ok := h.writes(w, r, http.MethodPost, http.MethodDelete)
	if !ok {
		return
	}
	var req struct {
		Leader    string    `json:"leader"`
		Candidate string    `json:"candidate"`
		Member    string    `json:"member"`
		At        time.Time `json:"scheduled_at"`
	}
	if err := json.Unmarshal(body, &req); err != nil {
		http.Error(w, "want leader, candidate and scheduled_at, a time with a zone", http.StatusBadRequest)
		return
	}
	if s := h.e.Status(); req.Leader != "" && req.Leader != s.Leader {
		http.Error(w, "member "+strconv.Quote(req.Leader)+" does not lead", http.StatusPreconditionFailed)
		return
	}
	if req.Candidate == "" {
		req.Candidate = req.Member
	}
	ctx, cancel := h.bounded(r)
	defer cancel()
	if err := h.e.Switchover(ctx, elector.Request{Candidate: req.Candidate, At: req.At}); err != nil {
		fail(w, err)
		return
	}
	code, text := http.StatusOK, "the candidate leads"
	if !req.At.IsZero() {
		code, text = http.StatusAccepted, "the switchover is scheduled"
	}
	answer(w, code, map[string]string{"result": text})
}

// cancelSwitchover clears a switchover that was not accepted. patronictl sends no body.
func (h *handler) cancelSwitchover(w http.ResponseWriter, r *http.Request) {
	if !h.permits(w, r, http.MethodDelete) {
		return
	}
	var fields map[string]json.RawMessage
	if err := readBody(w, r, maxBody, &fields); err != nil && !errors.Is(err, io.EOF) || len(fields) > 0 {
		http.Error(w, "the body must be empty, or an empty JSON object", http.StatusBadRequest)
		return
	}
	ctx, cancel := h.bounded(r)
	defer cancel()
	if err := h.e.CancelSwitchover(ctx); err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusOK, map[string]string{"result": "the switchover is cancelled"})
}

// keeper removes the record of a keeper, by force.
func (h *handler) keeper(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodDelete {
		h.read(func(v *cluster.View) any { return v.Keeper }, http.MethodDelete)(w, r)
		return
	}
	body, ok := h.writes(w, r, http.MethodDelete)
	if !ok {
		return
	}
	var req struct {
		Name *string `json:"name"`
	}
	if err := json.Unmarshal(body, &req); err != nil || req.Name == nil {
		http.Error(w, "want the name of the keeper, as in the record", http.StatusBadRequest)
		return
	}
	ctx, cancel := h.bounded(r)
	defer cancel()
	if err := h.e.RemoveKeeper(ctx, *req.Name); err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusOK, map[string]string{"result": "there is no keeper"})
}

// fail answers with an error of the elector.
func fail(w http.ResponseWriter, err error) {
	code := http.StatusServiceUnavailable
	switch {
	case errors.Is(err, elector.ErrNoSwitchover):
		code = http.StatusNotFound
	case errors.Is(err, elector.ErrRefused):
		code = http.StatusPreconditionFailed
	}
	http.Error(w, strings.ReplaceAll(err.Error(), "\n", "; "), code)
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the client sees a broken answer
}
