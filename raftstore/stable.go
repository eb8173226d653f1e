package raftstore

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

// The keys of what Raft keeps in its stable store.
const (
	keyTerm      = "CurrentTerm"
	keyVoteTerm  = "LastVoteTerm"
	keyCandidate = "LastVoteCand"
)

// voteStore keeps Raft's term and vote in a mirror. It is a raft.StableStore.
type voteStore struct {
	mirror *disk.Mirror
	write  func(func() error) error // measures

	mu   sync.Mutex
	vote disk.Vote
}

var _ raft.StableStore = (*voteStore)(nil)

func openVotes(d *dataDir, write func(func() error) error) (*voteStore, error) {
	mirror, vote, err := disk.OpenVote(d.files, d.path)
	if err != nil {
		return nil, err
	}
	return &voteStore{mirror: mirror, write: write, vote: vote}, nil
}

// change stores the vote that f makes of the present one.
func (s *voteStore) change(f func(*disk.Vote) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.vote
	if err := f(&next); err != nil {
		return err
	}
	if err := s.write(func() error { return s.mirror.Store(next.Encode()) }); err != nil {
		return err
	}
	s.vote = next
	return nil
}

func errKey(key []byte) error { return fmt.Errorf("Raft stores nothing as %q", key) }

// Set implements raft.StableStore.
func (s *voteStore) Set(key, value []byte) error {
	return s.change(func(v *disk.Vote) error {
		if string(key) != keyCandidate {
			return errKey(key)
		}
		v.Candidate = append([]byte{}, value...)
		return nil
	})
}

// Get implements raft.StableStore. Without a vote there is no candidate.
func (s *voteStore) Get(key []byte) ([]byte, error) {
	if string(key) != keyCandidate {
		return nil, errKey(key)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.vote.Candidate, nil
}

// SetUint64 implements raft.StableStore.
func (s *voteStore) SetUint64(key []byte, value uint64) error {
	return s.change(func(v *disk.Vote) error {
		switch string(key) {
		case keyTerm:
			v.Term = value
		case keyVoteTerm:
			v.VoteTerm = value
		default:
			return errKey(key)
		}
		return nil
	})
}

// GetUint64 implements raft.StableStore.
func (s *voteStore) GetUint64(key []byte) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch string(key) {
	case keyTerm:
		return s.vote.Term, nil
	case keyVoteTerm:
		return s.vote.VoteTerm, nil
	}
	return 0, errKey(key)
}

// seq returns the number of the newest vote that was stored.
func (s *voteStore) seq() uint64 {
	seq, _ := s.mirror.Load()
	return seq
}

// markDelay is how long the mark lags behind what it covers.
const markDelay = 100 * time.Millisecond

// highWater keeps the mark: how much the log and the vote held. It is written
// after them, and again before the log is cut back, so that a log that ends
// before the mark has lost something.
type highWater struct {
	mirror *disk.Mirror
	votes  *voteStore
	report func(error)

	mu     sync.Mutex
	mark   disk.Mark // as it should be
	timer  *time.Timer
	closed bool
}

// openMark opens the mark, and counts one more start of this life.
func openMark(d *dataDir, votes *voteStore, end disk.LogEnd, report func(error)) (*highWater, error) {
	mirror, mark, err := disk.OpenMark(d.files, d.path)
	if err != nil {
		return nil, err
	}
	mark.Starts++
	mark.Log = end
	h := &highWater{mirror: mirror, votes: votes, report: report, mark: mark}
	if err := h.store(); err != nil {
		return nil, errors.Join(err, mirror.Close())
	}
	return h, nil
}

// store writes the mark. The caller holds the lock, or is alone.
func (h *highWater) store() error {
	h.mark.VoteSeq = h.votes.seq()
	return h.mirror.Store(h.mark.Encode())
}

// stored notes that the log is durable up to an entry.
func (h *highWater) stored(index, term uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mark.Log = disk.LogEnd{Index: index, Term: term}
	if h.timer == nil && !h.closed {
		h.timer = time.AfterFunc(markDelay, h.due)
	}
}

func (h *highWater) due() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timer = nil
	if h.closed {
		return
	}
	if err := h.store(); err != nil {
		h.report(err)
	}
}

// starts returns how often the node was started with this life.
func (h *highWater) starts() uint32 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mark.Starts
}

// lower writes an earlier end, before the log is cut back to it.
func (h *highWater) lower(index, term uint64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mark.Log = disk.LogEnd{Index: index, Term: term}
	return h.store()
}

func (h *highWater) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	if h.timer != nil {
		h.timer.Stop()
	}
	return errors.Join(h.store(), h.mirror.Close())
}
