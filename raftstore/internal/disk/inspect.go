package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// A Condition is the use that a node may make of its data directory.
type Condition int

const (
	// Fresh is a directory of a node that takes part in no cluster yet. State
	// has a Life if the directory was made already.
	Fresh Condition = iota + 1
	// Founder is the directory of a node that its cluster begins with and that
	// has stored nothing so far. It writes the first entry.
	Founder
	// Joiner is the directory of a node that joins a cluster and that has
	// stored nothing so far.
	Joiner
	// Complete is a directory that has all that was stored in it.
	Complete
	// Short is an undamaged directory that lacks some of the entries that were stored in
	// it. The node must not vote with it.
	Short
	// Damaged is a directory with content that was not stored there. The node
	// must not vote with it.
	Damaged
)

// String returns the name.
func (c Condition) String() string {
	names := [...]string{Fresh: "fresh", Founder: "founder", Joiner: "joiner", Complete: "complete", Short: "short", Damaged: "damaged"}
	if c < 1 || int(c) >= len(names) {
		return fmt.Sprintf("condition %d", int(c))
	}
	return names[c]
}

// State is the content of a data directory.
type State struct {
	Condition Condition
	Identity  Identity // zero if there is none that can be read
	Vote      Vote
	VoteSeq   uint64
	Mark      Mark
	Stored    Stored
	// Reason is the loss of a Short or a Damaged directory.
	Reason error
}

// Life returns the life of the directory, as far as it can be read.
func (s State) Life() Life {
	for _, l := range []Life{s.Identity.Life, s.Mark.Life, s.Vote.Life} {
		if !l.IsZero() {
			return l
		}
	}
	return Life{}
}

// Stored is the extent of the log and the snapshots.
type Stored struct {
	First    uint64 // the first entry of the log, 0 if it has none
	Log      LogEnd // an empty log's is that of the entries it held
	Snapshot uint64 // the last entry of the newest snapshot, 0 if there is none
}

func (s Stored) isEmpty() bool { return s.First == 0 && s.Log.Index == 0 && s.Snapshot == 0 }

// A Scan reads the log and the snapshots of the data directory with that
// identity, without a change to a node's data. Its error is a *ShortError if the log ends
// before mark, a *DamageError, or that of an operation that failed.
type Scan func(own Identity, mark Mark) (Stored, error)

// Inspect returns the state of the data directory of a node. It changes
// nothing.
//
// The error is a *RejoinError with the *DamageError if the directory is
// damaged; the State says so too, and has the part that could be read. It is an
// *OwnerError, a *FormatError or a *StrangerError if the directory is not the
// node's, else that of an operation that failed.
func Inspect(files FS, dir string, want Owner, scan Scan) (State, error) {
	s := State{}
	err := s.inspect(files, dir, want, scan)
	var damage *DamageError
	if errors.As(err, &damage) {
		s.Condition, s.Reason = Damaged, err
		return s, &RejoinError{Dir: dir, Err: err}
	}
	if err != nil {
		return State{}, err
	}
	return s, nil
}

func (s *State) inspect(files FS, dir string, want Owner, scan Scan) error {
	names, err := files.List(dir)
	if err != nil {
		return err
	}
	var unknown error // why there is no identity
	s.Identity, unknown = readIdentity(files, dir)
	if unknown == nil {
		if err := s.Identity.mustBe(want, dir); err != nil {
			return err
		}
	}
	var noVote, noMark error
	s.VoteSeq, s.Vote, noVote = readAs(files, dir, voteFile, DecodeVote)
	_, s.Mark, noMark = readAs(files, dir, markFile, DecodeMark)
	for _, err := range []error{unknown, noVote, noMark} {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if unknown != nil || s.Identity.Incarnation.IsZero() {
		return s.withoutCluster(files, dir, names, unknown == nil)
	}
	for name, err := range map[string]error{voteFile: noVote, markFile: noMark} {
		if err != nil {
			return s.short("%s and %s are missing, which were written before the node took part in its cluster", mirrorPath(filepath.Join(dir, name), 0), mirrorPath(filepath.Join(dir, name), 1))
		}
	}
	return s.judge(dir, scan)
}

// withoutCluster judges a directory that takes part in no cluster: it must be
// empty but for the files that are written at first.
func (s *State) withoutCluster(files FS, dir string, names []string, hasIdentity bool) error {
	hasData := !s.Vote.IsEmpty() || !s.Mark.IsEmpty()
	for _, sub := range []string{logName, snapshotName} {
		if !slices.Contains(names, sub) {
			continue
		}
		content, err := files.List(filepath.Join(dir, sub))
		if err != nil {
			return err
		}
		hasData = hasData || len(content) > 0
	}
	strangers := slices.DeleteFunc(slices.Clone(names), isOwnName)
	path := filepath.Join(dir, identityFile)
	switch {
	case hasIdentity && hasData:
		return &DamageError{File: path, What: "it is of a node that has stored nothing, but the directory has votes or entries"}
	case hasIdentity:
	case len(strangers) > 0:
		return &StrangerError{Dir: dir, Names: strangers}
	case hasData:
		return &DamageError{File: path, What: "it is missing, but the directory has votes or entries"}
	}
	s.Condition = Fresh
	return nil
}

// judge judges the directory of a node of a founded cluster. Votes and mark
// were written before the incarnation, so that nothing that is missing was
// never there.
func (s *State) judge(dir string, scan Scan) error {
	life := s.Identity.Life
	switch {
	case s.Vote.Life != life || s.Mark.Life != life:
		return s.short("%s: the files are of several lives: identity %v, vote %v, mark %v", dir, life, s.Vote.Life, s.Mark.Life)
	case s.VoteSeq < s.Mark.VoteSeq:
		return s.short("%s: the vote is an old one: number %d, and %d was stored", mirrorPath(filepath.Join(dir, voteFile), 0), s.VoteSeq, s.Mark.VoteSeq)
	}
	stored, err := scan(s.Identity, s.Mark)
	if err == nil && stored.Log.Before(s.Mark.Log) {
		err = &ShortError{Dir: LogDir(dir), Have: stored.Log, Had: s.Mark.Log}
	}
	var short *ShortError
	if errors.As(err, &short) {
		s.Condition, s.Reason = Short, err
		return nil
	}
	if err != nil {
		return err
	}
	s.Stored = stored
	if err := stored.join(dir); err != nil {
		return err
	}
	switch {
	case !stored.isEmpty():
		s.Condition = Complete
	case !s.Identity.IsFounder():
		s.Condition = Joiner
	case s.Vote.Term <= 1:
		s.Condition = Founder
	default:
		return s.short("%s: the log is empty, but the node took part in term %d", LogDir(dir), s.Vote.Term)
	}
	return nil
}

// join checks that the newest snapshot has each entry that the log does not
// have any more.
func (s Stored) join(dir string) error {
	cut := s.Log.Index
	if s.First > 0 {
		cut = s.First - 1
	}
	if cut <= s.Snapshot {
		return nil
	}
	return &DamageError{File: SnapshotDir(dir), What: fmt.Sprintf("no snapshot has the entries from %d to %d, and the log begins behind them", s.Snapshot+1, cut)}
}

// Before reports whether the log ended at mark once and has less now. Without
// positions, index and term decide.
func (e LogEnd) Before(mark LogEnd) bool {
	if mark.Position != (Position{}) {
		return e.Compare(mark.Position) < 0
	}
	return e.Term < mark.Term || e.Term == mark.Term && e.Index < mark.Index
}

func (s *State) short(format string, args ...any) error {
	s.Condition, s.Reason = Short, fmt.Errorf(format, args...)
	return nil
}

// A RejoinError says that a node must not vote with its data, and
// names the remedy.
type RejoinError struct {
	Dir string
	Err error // the damage
}

// Error implements error.
func (e *RejoinError) Error() string {
	return fmt.Sprintf("%v: this node must not vote with this data. If a majority of the other nodes runs, start this node once with rejoin=true: it moves its data to %s, and gets everything from the others before it votes again. Copying files from another node or a backup loses acknowledged writes",
		e.Err, filepath.Join(e.Dir, lostPrefix+"…"))
}

// Unwrap returns the damage.
func (e *RejoinError) Unwrap() error { return e.Err }

// A StrangerError says that a directory has files, but none that a node wrote.
type StrangerError struct {
	Dir   string
	Names []string
}

// Error implements error.
func (e *StrangerError) Error() string {
	names := e.Names[:min(len(e.Names), 3)]
	return fmt.Sprintf("the data directory %s has no %s but has other files (%s): name another directory, or this node's own", e.Dir, identityFile, strings.Join(names, ", "))
}
