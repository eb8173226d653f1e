package raftstore

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/internal/backoff"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

const (
	// firstRepair and mostRepair bound the pause before a store that failed is
	// repaired.
	firstRepair = 100 * time.Millisecond
	mostRepair  = 2 * time.Second
)

// storeHealth receives the reports of a raftLog. Its methods must not block.
type storeHealth interface {
	// begin reports the beginning of an operation that must become durable.
	begin() (id uint64)
	// ended reports that the operation succeeded or was given up.
	ended(id uint64)
	// fault reports that the operation failed, and that it will be repeated until it
	// succeeds.
	fault(id uint64, err error)
	// permanent reports that the store is damaged. It will never work again.
	permanent(err error)
}

// raftLog is the log and the stable store of Raft. From start on it returns no error of
// the disk, because Raft panics after some of them and continues with wrong positions
// after others. It repairs the store and repeats the operation, while Raft's goroutine
// waits. After close and after damage there is nothing to wait for, and the goroutine
// ends.
//
// Only Raft may use a raftLog. Everything else uses the log itself.
type raftLog struct {
	log    *disk.Log
	votes  *disk.Mirror // keeps the encoded vote
	health storeHealth
	// snapshot returns index and term of the newest snapshot.
	snapshot func() (index, term uint64)
	// restart is called after the log was emptied although it was longer than the
	// installed snapshot. Raft still has the old end of the log in memory, refuses
	// entries because of it and would vote by it, until Raft is started again.
	restart func()

	started atomic.Bool
	closing chan struct{}
	close   func()

	storing  sync.Mutex // held while a vote is stored, and guards voteTerm
	voteTerm uint64     // of the vote that Raft is about to store

	mu     sync.Mutex
	vote   disk.Vote     // durable
	resume chan struct{} // closed by retry, which replaces it
}

var (
	_ raft.LogStore          = (*raftLog)(nil)
	_ raft.StableStore       = (*raftLog)(nil)
	_ raft.MonotonicLogStore = (*raftLog)(nil)
)

// newRaftLog returns a store that returns errors of the disk until start. vote is the
// content of votes.
func newRaftLog(log *disk.Log, votes *disk.Mirror, vote disk.Vote, snapshot func() (index, term uint64), restart func(), health storeHealth) *raftLog {
	s := &raftLog{
		log:      log,
		votes:    votes,
		health:   health,
		snapshot: snapshot,
		restart:  restart,
		closing:  make(chan struct{}),
		voteTerm: vote.VoteTerm,
		vote:     vote,
		resume:   make(chan struct{}),
	}
	s.close = sync.OnceFunc(func() { close(s.closing) })
	return s
}

// start makes the store repeat failed operations. It must be called after NewRaft has
// read the store and before NewRaft starts goroutines. NewRaft's last step between the
// two is to set the heartbeat handler of its transport.
func (s *raftLog) start() { s.started.Store(true) }

// Close ends the waiting operations, with their goroutines, and closes the files.
func (s *raftLog) Close() error {
	s.close()
	return errors.Join(s.log.Close(), s.votes.Close())
}

// FirstIndex implements raft.LogStore.
func (s *raftLog) FirstIndex() (uint64, error) { return s.log.First(), nil }

// LastIndex implements raft.LogStore.
func (s *raftLog) LastIndex() (uint64, error) { return s.log.Last(), nil }

// IsMonotonic implements raft.MonotonicLogStore.
func (s *raftLog) IsMonotonic() bool { return true }

// GetLog implements raft.LogStore. Raft compares raft.ErrLogNotFound itself.
func (s *raftLog) GetLog(index uint64, entry *raft.Log) error {
	err := s.log.Get(index, entry)
	if err == nil || errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	id := s.health.begin()
	defer s.health.ended(id)
	return s.repeat(id, err, s.log.Repair, func() error { return s.log.Get(index, entry) })
}

// StoreLog implements raft.LogStore.
func (s *raftLog) StoreLog(entry *raft.Log) error { return s.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore.
func (s *raftLog) StoreLogs(entries []*raft.Log) error {
	for _, e := range entries {
		if err := transport.CheckEntry(e); err != nil {
			return err
		}
	}
	return s.write(s.log.Repair, func() error { return s.log.Append(entries) })
}

// DeleteRange implements raft.LogStore. Raft deletes at one end. It deletes all
// entries after it has installed a snapshot, and where all conflict with those
// of a new leader; none of the latter is in a snapshot.
func (s *raftLog) DeleteRange(least, most uint64) error {
	first, last := s.log.First(), s.log.Last()
	var cut func() error
	longer := false
	switch index, term := s.snapshot(); {
	case last == 0 || least > most:
		return nil
	case least <= first && most >= last && index >= first:
		longer = last > index
		cut = func() error { return s.log.CutAll(index, term) }
	case most >= last:
		cut = func() error { return s.log.CutBack(max(least, first)) }
	case least <= first:
		cut = func() error { return s.log.CutFront(most) }
	default:
		return fmt.Errorf("entries %d to %d of %d to %d cannot be deleted: they are at neither end", least, most, first, last)
	}
	if err := s.write(s.log.Repair, cut); err != nil || !longer {
		return err
	}
	s.restart()
	<-s.closing
	runtime.Goexit()
	return nil
}

// The keys that Raft stores.
const (
	keyTerm          = "CurrentTerm"
	keyVoteTerm      = "LastVoteTerm"
	keyVoteCandidate = "LastVoteCand"
)

// SetUint64 implements raft.StableStore. Raft stores a vote in two steps, first its
// term. Both become durable with the second one. Otherwise, after a crash between them,
// the candidate of the earlier vote would have the vote of the new term, regardless of
// its log.
func (s *raftLog) SetUint64(key []byte, value uint64) error {
	s.storing.Lock()
	defer s.storing.Unlock()
	switch string(key) {
	case keyTerm:
		next := s.storedVote()
		next.Term = value
		return s.storeVote(next)
	case keyVoteTerm:
		s.voteTerm = value
		return nil
	default:
		return unknownKey(key)
	}
}

// Set implements raft.StableStore.
func (s *raftLog) Set(key, value []byte) error {
	if string(key) != keyVoteCandidate {
		return unknownKey(key)
	}
	s.storing.Lock()
	defer s.storing.Unlock()
	next := s.storedVote()
	next.Candidate, next.VoteTerm = bytes.Clone(value), s.voteTerm
	return s.storeVote(next)
}

// rewriteVote stores the vote unchanged. It returns when the vote is durable.
func (s *raftLog) rewriteVote() {
	s.storing.Lock()
	defer s.storing.Unlock()
	_ = s.storeVote(s.storedVote()) // it returns no error of the disk
}

func (s *raftLog) storedVote() disk.Vote {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.vote
}

// storeVote makes a vote durable. The caller holds storing.
func (s *raftLog) storeVote(next disk.Vote) error {
	if len(next.Candidate) > disk.MaxCandidate {
		return fmt.Errorf("the address of the candidate has %d bytes: at most %d are allowed", len(next.Candidate), disk.MaxCandidate)
	}
	payload := next.Encode()
	// A mirror repairs itself.
	err := s.write(func() error { return nil }, func() error { return s.votes.Store(payload) })
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.vote = next
	}
	return err
}

// Get implements raft.StableStore. A key without a value has none.
func (s *raftLog) Get(key []byte) ([]byte, error) {
	if string(key) != keyVoteCandidate {
		return nil, unknownKey(key)
	}
	return bytes.Clone(s.storedVote().Candidate), nil
}

// GetUint64 implements raft.StableStore.
func (s *raftLog) GetUint64(key []byte) (uint64, error) {
	vote := s.storedVote()
	switch string(key) {
	case keyTerm:
		return vote.Term, nil
	case keyVoteTerm:
		return vote.VoteTerm, nil
	default:
		return 0, unknownKey(key)
	}
}

func unknownKey(key []byte) error { return fmt.Errorf("the store has no key %q", key) }

// write executes an operation that must become durable.
func (s *raftLog) write(repair, do func() error) error {
	id := s.health.begin()
	defer s.health.ended(id)
	if err := do(); err != nil {
		return s.repeat(id, err, repair, do)
	}
	return nil
}

// repeat repairs the store and repeats an operation that failed with err, until it
// succeeds. It returns errors that are not faults of the disk, and before start all
// errors.
func (s *raftLog) repeat(id uint64, err error, repair, do func() error) error {
	for fails := 0; err != nil; fails++ {
		var damage *disk.DamageError
		switch {
		case errors.Is(err, disk.ErrInvalid), errors.Is(err, raft.ErrLogNotFound), !s.started.Load():
			return err
		case errors.As(err, &damage):
			s.health.permanent(err)
			runtime.Goexit()
		case errors.Is(err, disk.ErrClosed):
			runtime.Goexit()
		}
		resume := s.resumed()
		s.health.fault(id, err)
		s.pause(fails, resume)
		if err = repair(); err == nil {
			err = do()
		}
	}
	return nil
}

// retry ends the pauses before repairs.
func (s *raftLog) retry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.resume)
	s.resume = make(chan struct{})
}

// resumed returns a channel that the next retry closes.
func (s *raftLog) resumed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.resume
}

// pause waits before a repair, until resume is closed at the latest. It ends the
// goroutine at Close.
func (s *raftLog) pause(fails int, resume <-chan struct{}) {
	timer := time.NewTimer(backoff.Exponential{First: firstRepair, Most: mostRepair}.Delay(fails))
	defer timer.Stop()
	select {
	case <-s.closing:
	case <-resume:
	case <-timer.C:
	}
	select {
	case <-s.closing:
		runtime.Goexit()
	default:
	}
}
