package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
	"github.com/holdfast-dcs/holdfast/raftstore"
)

// write stores one numbered record. Every write is a Txn that the store itself
// refuses once the lock is not this leadership's any more. That keeps a leader of the
// past from writing.
func (m *member) write(w http.ResponseWriter, r *http.Request) {
	t := m.db.primary.Load()
	if t == nil {
		http.Error(w, "not the leader", http.StatusMisdirectedRequest)
		return
	}
	n := r.PathValue("n")
	_, err := t.Commit(r.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put(dataKey+"/"+n, []byte(n))}})
	m.answer(w, err)
}

// staleWrite is the write of a leader that was paused between its check and its
// write: it writes under the guard of its last leadership without another check.
func (m *member) staleWrite(w http.ResponseWriter, r *http.Request) {
	l := m.db.last.Load()
	if l == nil {
		http.Error(w, "never led", http.StatusMisdirectedRequest)
		return
	}
	_, err := l.Commit(r.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put(dataKey+"/stale", []byte(m.api))}})
	m.answer(w, err)
}

func (m *member) answer(w http.ResponseWriter, err error) {
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, dcs.ErrConflict):
		http.Error(w, err.Error(), http.StatusConflict)
	default:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	}
}

// switchover asks the leader to hand over to the member named, and answers when that
// one leads. A request that is refused may be repeated.
func (m *member) switchover(w http.ResponseWriter, r *http.Request) {
	err := m.elector.Switchover(r.Context(), elector.Request{Candidate: r.PathValue("to")})
	if errors.Is(err, elector.ErrRefused) {
		http.Error(w, err.Error(), http.StatusPreconditionFailed)
		return
	}
	m.answer(w, err)
}

// failsafeMode sets failsafe_mode in the configuration of the cluster.
func (m *member) failsafeMode(w http.ResponseWriter, r *http.Request) {
	_, err := m.elector.PatchConfig(r.Context(), []byte(`{"failsafe_mode": `+r.PathValue("on")+`}`))
	m.answer(w, err)
}

// hang makes the next demotion of this member hang.
func (m *member) hang(w http.ResponseWriter, _ *http.Request) {
	m.db.hang()
	w.WriteHeader(http.StatusNoContent)
}

// data lists the numbers of all records, read linearizably.
func (m *member) data(w http.ResponseWriter, r *http.Request) {
	s, err := m.store.Snapshot(r.Context(), dataKey)
	if err != nil {
		m.answer(w, err)
		return
	}
	keys := make([]string, 0, len(s.Entries))
	for _, e := range s.Entries {
		keys = append(keys, strings.TrimPrefix(e.Key, dataKey+"/"))
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(keys)
}

// embedded returns this member's node of the store, or nil if it has none.
func (m *member) embedded(w http.ResponseWriter) *raftstore.Backend {
	b, ok := m.store.Unwrap().(*raftstore.Backend)
	if !ok {
		http.Error(w, "the store is not embedded", http.StatusNotFound)
		return nil
	}
	return b
}

// addMember makes another node a voter of the store.
func (m *member) addMember(w http.ResponseWriter, r *http.Request) {
	if b := m.embedded(w); b != nil {
		m.answer(w, b.Membership().AddVoter(r.Context(), r.PathValue("id"), r.PathValue("addr")))
	}
}

// removeMember removes a node from the store.
func (m *member) removeMember(w http.ResponseWriter, r *http.Request) {
	if b := m.embedded(w); b != nil {
		m.answer(w, b.Membership().Remove(r.Context(), r.PathValue("id")))
	}
}

// node says which member this node's Raft takes for the Raft leader.
func (m *member) node(w http.ResponseWriter, _ *http.Request) {
	b := m.embedded(w)
	if b == nil {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(b.Status())
}
