package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/holdfast-dcs/holdfast/conformance"
)

// A faultInjector injects faults into the requests of a client.
type faultInjector struct {
	conformance.FaultInjector
	root     string
	refusing *sync.Map // of the suite
}

type faultyTripper struct {
	t  *faultInjector
	to http.RoundTripper
}

func (t *faultInjector) wrap(to roundTripper) roundTripper { return &faultyTripper{t, to} }

func (p *faultyTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
		r.Body.Close()
	}
	if refusal, ok := p.t.refusing.Load(r.URL.Host); ok {
		return refusal.(refusalAnswer).to(r), nil
	}
	f := p.t.Judge(p.t.describe(r, body))
	ctx := r.Context()
	if trace := httptrace.ContextClientTrace(ctx); trace != nil && (f.LoseRequest || f.HoldsRequest()) {
		trace.GotConn(httptrace.GotConnInfo{}) // marks the request as sent
	}
	if f.LoseRequest {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err := f.AwaitRequest(ctx); err != nil {
		// The sender has given up the request, and it still arrives.
		go func() {
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			if f.AwaitRequest(late) == nil {
				p.discard(r.Clone(late), body)
			}
		}()
		return nil, err
	}
	if f.Repeat {
		p.discard(r.Clone(ctx), body)
	}
	if f.LoseAnswer {
		p.discard(r.Clone(ctx), body)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	resp, err := p.to.RoundTrip(fill(r, body))
	if late := f.AwaitAnswer(ctx); late != nil {
		if err == nil {
			resp.Body.Close()
		}
		return nil, late
	}
	return resp, err
}

// A refusalAnswer is a response of an agent that refuses a request.
type refusalAnswer struct {
	code int
	body string
}

func (a refusalAnswer) to(r *http.Request) *http.Response {
	if trace := httptrace.ContextClientTrace(r.Context()); trace != nil {
		trace.GotConn(httptrace.GotConnInfo{}) // marks the request as sent
	}
	return &http.Response{
		StatusCode: a.code, Status: fmt.Sprint(a.code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{}, Body: io.NopCloser(strings.NewReader(a.body)), ContentLength: int64(len(a.body)),
	}
}

// fill returns r with its body from the beginning.
func fill(r *http.Request, body []byte) *http.Request {
	if body != nil {
		r.Body = io.NopCloser(bytes.NewReader(body))
		r.GetBody = nil
	}
	return r
}

func (p *faultyTripper) discard(r *http.Request, body []byte) {
	resp, err := p.to.RoundTrip(fill(r, body))
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

type operationKey struct{}

func named(ctx context.Context, op string) context.Context {
	return context.WithValue(ctx, operationKey{}, op)
}

// operation returns the operation that a call belongs to.
func operation(ctx context.Context, otherwise string) string {
	if op, ok := ctx.Value(operationKey{}).(string); ok {
		return op
	}
	return otherwise
}

// describe returns the suite's name of a request.
func (t *faultInjector) describe(r *http.Request, body []byte) conformance.Request {
	path := r.URL.Path
	switch {
	case path == "/v1/txn":
		return t.describeTxn(r.Context(), body)
	case strings.HasPrefix(path, "/v1/kv/"):
		q := r.URL.Query()
		switch {
		case q.Has("index"):
			return conformance.Request{Op: "Wait"}
		case q.Has("keys"):
			return conformance.Request{Op: operation(r.Context(), "Probe")}
		}
		op := "Get"
		if q.Has("recurse") {
			op = "Snapshot"
		}
		return conformance.Request{Op: operation(r.Context(), op), Keys: t.logical(strings.TrimPrefix(path, "/v1/kv/"))}
	case strings.HasPrefix(path, "/v1/catalog/node/"), path == "/v1/agent/self":
		return conformance.Request{Op: operation(r.Context(), "Probe")}
	case strings.HasPrefix(path, "/v1/session/create"):
		return conformance.Request{Op: operation(r.Context(), "Grant")}
	case strings.HasPrefix(path, "/v1/session/renew/"), strings.HasPrefix(path, "/v1/session/info/"):
		return conformance.Request{Op: "Renew"}
	case strings.HasPrefix(path, "/v1/session/destroy/"):
		return conformance.Request{Op: "Revoke"}
	}
	return conformance.Request{Op: path}
}

func (t *faultInjector) logical(keys ...string) []string {
	var out []string
	for _, k := range keys {
		if rest, ok := strings.CutPrefix(k, t.root); ok {
			out = append(out, rest)
		}
	}
	return out
}

// describeTxn distinguishes transactions that only read, make a marker, settle an
// attempt, or belong to a user.
func (t *faultInjector) describeTxn(ctx context.Context, body []byte) conformance.Request {
	var ops []struct {
		KV   *api.KVTxnOp
		Node *api.NodeTxnOp
	}
	if err := json.Unmarshal(body, &ops); err != nil || len(ops) == 0 {
		return conformance.Request{Op: "unreadable"}
	}
	if ops[0].Node != nil {
		return conformance.Request{Op: operation(ctx, "Register")}
	}
	var keys []string
	for _, op := range ops {
		keys = append(keys, t.logical(op.KV.Key)...)
	}
	op := "Commit"
	switch {
	case ops[0].KV.Verb == api.KVGetOrEmpty:
		op = operation(ctx, "Read")
	case len(ops) == 2 && ops[0].KV.Verb == api.KVCheckNotExists && strings.HasPrefix(keys[0], ".op/"):
		op = "Mark"
	case len(ops) == 2 && ops[1].KV.Verb == api.KVSet:
		op = "Settle"
	}
	return conformance.Request{Op: op, Keys: keys}
}
