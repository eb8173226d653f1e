package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// The names in a data directory. A mirror has two files.
const (
	identityFile = "identity.json"
	lockName     = "lock"
	voteFile     = "vote"
	markFile     = "mark"
	seenFile     = "seen"
	logName      = "log"
	snapshotName = "snap"
	lostPrefix   = "lost-"
)

// LockFile returns the path of the file that a node locks.
func LockFile(dir string) string { return filepath.Join(dir, lockName) }

// LogDir returns the path of the directory with the log.
func LogDir(dir string) string { return filepath.Join(dir, logName) }

// SnapshotDir returns the path of the directory with the snapshots.
func SnapshotDir(dir string) string { return filepath.Join(dir, snapshotName) }

// SeenFile returns the path of the mirror with the starts of other nodes that a node has seen.
func SeenFile(dir string) string { return filepath.Join(dir, seenFile) }

// LostDir returns the path of the directory to which SetAside moves the data of
// a life.
func LostDir(dir string, life Life) string { return filepath.Join(dir, lostPrefix+life.String()) }

// ownNames returns the names of a node's files, in the order in which
// SetAside moves them: without a mark or a vote a directory is short,
// however much else is in it. The mark of a log that was moved first could be 0 still.
func ownNames() []string {
	var names []string
	for _, mirror := range []string{markFile, voteFile, seenFile} {
		names = append(names, mirrorPath(mirror, 0), mirrorPath(mirror, 1))
	}
	return append(names, logName, snapshotName)
}

// isOwnName reports whether a node may have made this name in its directory, or
// the system.
func isOwnName(name string) bool {
	if strings.HasPrefix(name, lostPrefix) || strings.HasPrefix(name, stagePrefix) || name == "lost+found" || name == lockName {
		return true
	}
	name = strings.TrimSuffix(name, tempName)
	return name == identityFile || slices.Contains(ownNames(), name)
}

// Open inspects a data directory and makes it ready if it is fresh: the State
// has an identity then, perhaps with a new life. A Replace that was interrupted
// is ended. See Inspect for the rest. The names that it found are durable: the
// process that made them may have been killed before it synced them.
func Open(files FS, dir string, want Owner, scan Scan) (State, error) {
	if _, err := EndReplace(files, dir); err != nil {
		return State{}, err
	}
	s, err := Inspect(files, dir, want, scan)
	if err != nil || s.Condition != Fresh {
		return s, err
	}
	i := s.Identity
	if i.Life.IsZero() {
		i = Identity{Owner: want, Life: NewLife()}
	} else if s.Vote.Life == i.Life && s.Mark.Life == i.Life {
		return s, nil
	}
	if err := Make(files, dir, i); err != nil {
		return State{}, err
	}
	return Inspect(files, dir, want, scan)
}

// Make writes the first files of a life to a directory that is fresh or that
// SetAside has left. The identity comes last: one with an incarnation and
// without a vote and a mark is always that of a node that lost them.
func Make(files FS, dir string, i Identity) error {
	_, vote, noVote := readAs(files, dir, voteFile, DecodeVote)
	_, mark, noMark := readAs(files, dir, markFile, DecodeMark)
	for _, err := range []error{noVote, noMark} {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if !vote.IsEmpty() || !mark.IsEmpty() {
		return fmt.Errorf("%s still has a vote or a mark of life %v", dir, mark.Life)
	}
	if err := CreateMirror(files, filepath.Join(dir, voteFile), Vote{Life: i.Life}.Encode()); err != nil {
		return err
	}
	if err := CreateMirror(files, filepath.Join(dir, markFile), Mark{Life: i.Life}.Encode()); err != nil {
		return err
	}
	return WriteIdentity(files, dir, i)
}

// SetAside moves the files of a node with a life to LostDir, for Make to
// begin another one. It may be repeated after an error or a crash. Until Make
// has returned, the directory is short or fresh, or is damaged as it was before.
//
// Files that an earlier SetAside moved for another life are removed.
func SetAside(files FS, dir string, life Life) error {
	lost := LostDir(dir, life)
	if err := files.MakeDir(lost); err != nil {
		return err
	}
	if err := setIdentityAside(files, dir, lost); err != nil {
		return err
	}
	for _, name := range ownNames() {
		if err := move(files, dir, lost, name); err != nil {
			return err
		}
	}
	names, err := files.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if path := filepath.Join(dir, name); strings.HasPrefix(name, lostPrefix) && path != lost {
			if err := removeAll(files, path); err != nil {
				return err
			}
		}
	}
	return files.SyncDir(dir)
}

// setIdentityAside writes the identity to lost as well. One with an incarnation
// stays until Make replaces it, so that the directory is short meanwhile. Any
// other goes first: alone it would be that of a fresh node, and let the life
// that has forgotten everything begin once more.
func setIdentityAside(files FS, dir, lost string) error {
	i, err := readIdentity(files, dir)
	if err != nil || i.Incarnation.IsZero() {
		return move(files, dir, lost, identityFile)
	}
	data, err := i.Encode()
	if err != nil {
		return err
	}
	return WriteFile(files, filepath.Join(lost, identityFile), data)
}

// move moves the file or directory of this name from dir to lost durably, under another name if
// there is one already.
func move(files FS, dir, lost, name string) error {
	taken, err := files.List(lost)
	if err != nil {
		return err
	}
	free := name
	for i := 2; slices.Contains(taken, free); i++ {
		free = fmt.Sprintf("%s.%d", name, i)
	}
	err = files.Rename(filepath.Join(dir, name), filepath.Join(lost, free))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// An earlier move may have failed, or was killed, before it synced.
	if err := files.SyncDir(lost); err != nil {
		return err
	}
	return files.SyncDir(dir)
}

// removeAll removes a file, or a directory with all that is in it.
func removeAll(files FS, path string) error {
	if names, err := files.List(path); err == nil {
		for _, name := range names {
			if err := removeAll(files, filepath.Join(path, name)); err != nil {
				return err
			}
		}
	}
	return files.Remove(path)
}
