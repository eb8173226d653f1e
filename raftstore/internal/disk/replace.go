package disk

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/raft"
)

// stagePrefix begins the name of the directory in which Replace prepares data.
// The life of these data and the one that they replace follow.
const stagePrefix = "next-"

// stageDir returns the path of the directory in which the data of next are
// prepared. old is zero if they replace nothing.
func stageDir(dir string, next, old Life) string {
	return filepath.Join(dir, stagePrefix+next.String()+"-"+old.String())
}

// A Beginning is the content of a data directory when an incarnation of its cluster
// begins with a state: one snapshot, which ends at the entry of Index and Term.
type Beginning struct {
	Index, Term   uint64
	Configuration raft.Configuration
	// Persist writes the state to the sink and closes it.
	Persist func(raft.SnapshotSink) error
	// SegmentBytes is LogOptions.SegmentBytes for the first segment.
	SegmentBytes int64
}

// Replace gives the data directory dir the data of next, which begin with b, in
// the place of those of the life old. The latter are moved to LostDir; old is
// zero if there are none. After an error or a crash the directory has either
// the old data or, as soon as EndReplace has returned, the new ones: they are
// prepared in a directory of their own, and the identity decides which count.
func Replace(files FS, dir string, old Life, next Identity, b Beginning) error {
	if _, err := EndReplace(files, dir); err != nil {
		return err
	}
	stage := stageDir(dir, next.Life, old)
	if err := files.MakeDir(stage); err != nil {
		return err
	}
	if err := b.store(files, stage, next); err != nil {
		return err
	}
	if !old.IsZero() {
		if err := keepIdentity(files, dir, old); err != nil {
			return err
		}
	}
	// From here on the new data count.
	if err := WriteIdentity(files, dir, next); err != nil {
		return err
	}
	_, err := EndReplace(files, dir)
	return err
}

// keepIdentity writes the identity to LostDir as well, before it is replaced.
func keepIdentity(files FS, dir string, old Life) error {
	i, err := readIdentity(files, dir)
	if err != nil {
		return err
	}
	lost := LostDir(dir, old)
	if err := files.MakeDir(lost); err != nil {
		return err
	}
	return WriteIdentity(files, lost, i)
}

// store writes the files of next to a directory, except its identity.
func (b *Beginning) store(files FS, dir string, next Identity) error {
	if err := CreateMirror(files, filepath.Join(dir, voteFile), Vote{Life: next.Life, Term: b.Term}.Encode()); err != nil {
		return err
	}
	if err := CreateMirror(files, filepath.Join(dir, markFile), Mark{Life: next.Life}.Encode()); err != nil {
		return err
	}
	snaps, err := OpenSnapshots(files, SnapshotDir(dir), next.Incarnation)
	if err != nil {
		return err
	}
	sink, err := snaps.Create(raft.SnapshotVersionMax, b.Index, b.Term, b.Configuration, b.Index, nil)
	if err != nil {
		return err
	}
	if err := b.Persist(sink); err != nil {
		return err
	}
	return b.storeLog(files, dir, next.Life)
}

// storeLog makes a log that continues the snapshot, and its mark: a log that is
// lost later is missed.
func (b *Beginning) storeLog(files FS, dir string, life Life) error {
	marks, mark, err := OpenMark(files, dir)
	if err != nil {
		return err
	}
	log, _, err := OpenLog(LogOptions{
		Files: files, Dir: LogDir(dir), Life: life, SegmentBytes: b.SegmentBytes,
		SaveMark: func(end LogEnd) error {
			mark.Log = end
			return marks.Store(mark.Encode())
		},
	})
	if err != nil {
		return errors.Join(err, marks.Close())
	}
	err = log.CutAll(b.Index, b.Term)
	return errors.Join(err, log.Close(), marks.Close())
}

// EndReplace ends a Replace that was interrupted: its data take the place of the
// old ones if the identity is theirs, and are removed if not. It reports whether
// there were such data. It may be repeated after an error or a crash.
func EndReplace(files FS, dir string) (ended bool, err error) {
	// The identity may have got its name just before the process was killed.
	if err := files.SyncDir(dir); err != nil {
		return false, err
	}
	names, err := files.List(dir)
	if err != nil {
		return false, err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, stagePrefix) })
	if len(names) == 0 {
		return false, nil
	}
	own, err := readIdentity(files, dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		var damage *DamageError
		if errors.As(err, &damage) {
			return false, nil // which Inspect reports; nothing is removed
		}
		return false, err
	}
	for _, name := range names {
		stage := filepath.Join(dir, name)
		lives, _ := strings.CutPrefix(name, stagePrefix)
		next, old, _ := strings.Cut(lives, "-")
		if own.Life.IsZero() || next != own.Life.String() {
			if err := removeAll(files, stage); err != nil {
				return false, err
			}
			continue
		}
		if err := takeStage(files, dir, stage, old); err != nil {
			return false, err
		}
		ended = true
	}
	return ended, files.SyncDir(dir)
}

// takeStage moves everything from the stage to dir. A file there with
// the same name is of the life old, because no other file of the new life gets
// to dir while the stage has it.
func takeStage(files FS, dir, stage, old string) error {
	staged, err := files.List(stage)
	if err != nil {
		return err
	}
	life, err := ParseLife(old)
	hasOld := err == nil // the zero life is no life
	if hasOld {
		if err := files.MakeDir(LostDir(dir, life)); err != nil {
			return err
		}
	}
	for _, name := range staged {
		if hasOld {
			if err := move(files, dir, LostDir(dir, life), name); err != nil {
				return err
			}
		}
		if err := files.Rename(filepath.Join(stage, name), filepath.Join(dir, name)); err != nil {
			return err
		}
		if err := files.SyncDir(dir); err != nil {
			return err
		}
		if err := files.SyncDir(stage); err != nil {
			return err
		}
	}
	return files.Remove(stage)
}

// Contents returns the names in a data directory except those that do not belong
// to a node's data: those of the system, and an identity that was being written
// when the process ended.
func Contents(files FS, dir string) ([]string, error) {
	names, err := files.List(dir)
	other := []string{lockName, "lost+found", identityFile + tempName}
	return slices.DeleteFunc(names, func(name string) bool { return slices.Contains(other, name) }), err
}
