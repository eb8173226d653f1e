package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore"
)

// write stores one numbered record. Every write is a Txn that the store itself
// refuses once this hold is no longer the lock's: that, not the check of Valid
// before it, keeps a leader of the past from writing.
func (m *member) write(w http.ResponseWriter, r *http.Request) {
	l := m.hold.Load()
	if l == nil || !l.Valid() {
		http.Error(w, "not the leader", http.StatusMisdirectedRequest)
		return
	}
	n := r.PathValue("n")
	_, err := m.store.Commit(r.Context(), dcs.Txn{
		If:   []dcs.Cond{l.Guard()},
		Then: []dcs.Write{dcs.Put(dataKey+"/"+n, []byte(n))},
	})
	m.answer(w, err)
}

// staleWrite is the write of a leader that was paused between its check and its
// write: it writes under the guard of its last hold without another check.
func (m *member) staleWrite(w http.ResponseWriter, r *http.Request) {
	l := m.last.Load()
	if l == nil {
		http.Error(w, "never led", http.StatusMisdirectedRequest)
		return
	}
	_, err := m.store.Commit(r.Context(), dcs.Txn{
		If:   []dcs.Cond{l.Guard()},
		Then: []dcs.Write{dcs.Put(dataKey+"/stale", []byte(m.name))},
	})
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

// switchover asks the leader to hand over to the member named.
func (m *member) switchover(w http.ResponseWriter, r *http.Request) {
	l := m.hold.Load()
	if l == nil {
		http.Error(w, "not the leader", http.StatusMisdirectedRequest)
		return
	}
	select {
	case l.release <- r.PathValue("to"):
		w.WriteHeader(http.StatusNoContent)
	case <-l.Done():
		http.Error(w, "no longer the leader", http.StatusMisdirectedRequest)
	case <-r.Context().Done():
	}
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
