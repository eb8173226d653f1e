package consul

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/backend"
)

// Each text that classifies an error is recognised as Consul 1.22 sends it, and
// ignored if it is part of a key.
func TestTextsOfTransactions(t *testing.T) {
	const id = "1b2c"
	for _, row := range []struct {
		verb api.KVOp
		what string
		want refusal
	}{
		{api.KVLock, `invalid session "1b2c"`, leaseGone},
		{api.KVLock, `failed to lock key "r/k" due to lock delay`, delayed},
		{api.KVLock, `Permission denied: token with AccessorID 'a' lacks permission 'key:write' on "r/k"`, denied},
		{api.KVLock, `ACL not found`, denied},
		{api.KVLock, `failed to lock key "r/k", lock is already held`, condition},
		{api.KVCheckIndex, `failed index check for key "r/invalid session", current modify index 7 != 5`, condition},
		{api.KVCheckNotExists, `key "r/invalid session \"1b2c\"" exists`, condition},
		{api.KVCheckNotExists, `key "invalid session" exists`, condition},
		{api.KVCheckIndex, `invalid session "1b2c"`, condition}, // an operation without a session
		{api.KVLock, `failed to lock key "r/x due to lock delay", lock is already held`, condition},
		{api.KVCAS, `failed to set key "r/k due to lock delay", index is stale`, condition},
		{api.KVCheckNotExists, `key "r/Permission denied" exists`, condition},
		{api.KVCheckIndex, `failed to check index, key "ACL not found" doesn't exist`, condition},
	} {
		got := refusalOf(&api.KVTxnOp{Verb: row.verb, Session: id}, row.what)
		require.Equal(t, row.want, got, row.what)
	}
}

// The same holds for the texts of other answers. A refusal means that nothing was
// written, so that one recognised by mistake would report a write as not applied.
func TestTextsOfAnswers(t *testing.T) {
	a := newFake(t)
	b := fakeClient(t, nil, a)
	c, err := b.connected(a.addr())
	require.NoError(t, err)
	for _, row := range []struct {
		code    int
		text    string
		refused bool
		kind    error
	}{
		{500, "No cluster leader", true, nil},
		{500, "rpc error making call: No cluster leader", true, nil},
		{500, "rpc error making call: node is not the leader", true, nil},
		{500, "rpc error making call: rpc error making call: node is not the leader", true, nil},
		{429, "rate limit exceeded, try again later or against a different server", true, nil},
		{503, "rpc error making call: rate limit exceeded for operation that can only be performed by the leader, try again later", true, nil},
		{500, "RPC rate limit exceeded", true, nil},
		{403, "Permission denied: token with AccessorID 'a' lacks permission 'key:write' on \"r/No cluster leader\"", true, dcs.ErrUnauthorized},
		{413, "Request body too large", true, dcs.ErrInvalid},
		{500, "leadership lost while committing log", false, nil},
		{500, `key "r/No cluster leader" is bad`, false, nil},
		{500, `key "r/node is not the leader": failed`, false, nil},
		{500, `key "r/rate limit exceeded": failed`, false, nil},
		{500, `key "r/remote error: tls: ": failed`, false, nil},
		{500, "rpc error getting client: failed to get conn: remote error: tls: bad certificate", false, nil}, // the alert concerns the agent's certificate
	} {
		err := c.failed(t.Context(), &statusError{code: row.code, body: row.text}, true)
		var f *backend.Failure
		require.ErrorAs(t, err, &f)
		require.Equal(t, row.refused, errors.Is(err, attempt.ErrNotSent), row.text)
		require.Equal(t, row.kind, f.Kind, row.text)
	}
}

// A conflict on a key that is named like one of Consul's texts is reported as a
// conflict and not as a lost lease.
func TestConflictOnKeyNamedLikeAText(t *testing.T) {
	a := newFake(t)
	const key = `invalid session "s"`
	entry := func(k string, value []byte) map[string]any {
		return map[string]any{"KV": map[string]any{"Key": "t/" + k, "CreateIndex": 5, "ModifyIndex": 7, "Value": value}}
	}
	a.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Consul-Index", "9")
		if !strings.HasPrefix(r.URL.Path, "/v1/txn") {
			_ = json.NewEncoder(w).Encode([]any{map[string]any{"Key": "t/" + key, "CreateIndex": 5, "ModifyIndex": 7}})
			return
		}
		var ops []struct{ KV struct{ Verb, Key string } }
		_ = json.NewDecoder(r.Body).Decode(&ops)
		var results []any
		for i, op := range ops {
			if op.KV.Verb == string(api.KVCheckNotExists) && strings.HasSuffix(op.KV.Key, key) {
				w.WriteHeader(http.StatusConflict)
				_ = json.NewEncoder(w).Encode(map[string]any{"Errors": []any{map[string]any{"OpIndex": i, "What": `key "t/invalid session \"s\"" exists`}}})
				return
			}
			results = append(results, entry(strings.TrimPrefix(op.KV.Key, "t/"), nil))
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"Results": results})
	}
	b := fakeClient(t, nil, a)
	c, err := b.connected(a.addr())
	require.NoError(t, err)
	txn := dcs.Txn{If: []dcs.Cond{dcs.Absent(key)}, Then: []dcs.Write{dcs.PutLeased(key, nil, "s")}}
	r := attempt.Request{Marker: attempt.Marker{Key: ".op/m", Modified: 7, Nonce: []byte("n")}, Txn: txn}
	got, err := b.send(t.Context(), c.addr, r, "")
	require.NoError(t, err)
	require.Equal(t, attempt.Refused, got.Outcome)
	require.True(t, got.Seen)
}
