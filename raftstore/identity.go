package raftstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// dirFormat is the version of everything in the data directory: the layout,
// the log's commands and the snapshots. A directory of a newer version is
// refused.
const dirFormat = 1

// What is in a data directory.
const (
	identityFile = "identity.json"
	lockFileName = "lock"
	logDirName   = "log"
	snapsDirName = "snapshots"
)

// errDirInUse says that another process has the data directory.
var errDirInUse = errors.New("in use by another process")

// identity says whose a data directory is. It is written once, before
// anything else, and compared at every start: a node on another one's log
// would vote twice in one term.
type identity struct {
	Format  int      `json:"format"`
	Node    string   `json:"node"`
	Cluster string   `json:"cluster"`
	Root    string   `json:"root"`
	Members []string `json:"members"`
	// Sum is the CRC-32 of this document without it.
	Sum uint32 `json:"sum,omitempty"`
}

func (c Config) identity() identity {
	ids := c.memberIDs()
	return identity{
		Format: dirFormat, Node: c.ID, Cluster: newClusterID(c.Root, ids).String(), Root: c.Root, Members: ids,
	}
}

func (i identity) sum() (uint32, error) {
	i.Sum = 0
	data, err := json.Marshal(i)
	return crc32.ChecksumIEEE(data), err
}

func (i identity) encode() ([]byte, error) {
	var err error
	if i.Sum, err = i.sum(); err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(i, "", "  ")
	return append(data, '\n'), err
}

func decodeIdentity(data []byte) (identity, error) {
	// The format first: a newer one may have other fields.
	var version struct {
		Format int `json:"format"`
	}
	var i identity
	if err := json.Unmarshal(data, &version); err != nil {
		return i, err
	}
	if version.Format > dirFormat {
		return identity{Format: version.Format}, nil
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&i); err != nil {
		return i, err
	}
	sum, err := i.sum()
	if err == nil && (sum != i.Sum || i.Format < 1) {
		err = errors.New("its checksum does not match its content")
	}
	return i, err
}

// dataDir is the locked data directory of this node.
type dataDir struct {
	path   string
	fresh  bool // nothing was in it: this is the node's first start
	files  fileSystem
	unlock func() error
}

func (d *dataDir) logDir() string   { return filepath.Join(d.path, logDirName) }
func (d *dataDir) snapsDir() string { return filepath.Join(d.path, snapsDirName) }

// close gives the directory free for another process.
func (d *dataDir) close() error { return d.unlock() }

// openDir locks the data directory and makes sure that it is this node's, or
// makes it so if it is new. It fails at once and changes nothing that is not
// its own.
func openDir(c Config, files fileSystem) (*dataDir, error) {
	if err := files.MakeDir(c.Dir); err != nil {
		return nil, openError(dcs.ErrUnavailable, "Dir %s can not be made: name a directory that this user may write: %w", c.Dir, err)
	}
	unlock, err := files.Lock(filepath.Join(c.Dir, lockFileName))
	if err != nil {
		if errors.Is(err, errDirInUse) {
			return nil, openError(dcs.ErrUnavailable, "Dir %s is in use by another process: end that process, or give this node a directory of its own: %w", c.Dir, err)
		}
		return nil, openError(dcs.ErrUnavailable, "Dir %s can not be locked: it must be writable by this user: %w", c.Dir, err)
	}
	d := &dataDir{path: c.Dir, files: files, unlock: unlock}
	if err := d.own(c); err != nil {
		return nil, errors.Join(err, unlock())
	}
	return d, nil
}

func (d *dataDir) own(c Config) error {
	path := filepath.Join(d.path, identityFile)
	data, err := d.files.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := d.found(c, path); err != nil {
			return err
		}
	case err != nil:
		return openError(dcs.ErrUnavailable, "%s can not be read: make it readable by this user: %w", path, err)
	default:
		found, err := decodeIdentity(data)
		if err != nil {
			return invalid("%s is corrupt (%w): restore it from a copy, or, if the other nodes are in good health, empty %s and let this node join again as new", path, err, d.path)
		}
		if err := found.mustBe(c.identity(), path); err != nil {
			return err
		}
	}
	for _, dir := range []string{d.logDir(), d.snapsDir()} {
		if err := d.files.MakeDir(dir); err != nil {
			return openError(dcs.ErrUnavailable, "%s can not be made: Dir must be writable by this user: %w", dir, err)
		}
	}
	return nil
}

// found makes a new directory this node's.
func (d *dataDir) found(c Config, path string) error {
	names, err := d.files.List(d.path)
	if err != nil {
		return openError(dcs.ErrUnavailable, "Dir %s can not be listed: make it readable by this user: %w", d.path, err)
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		return name == lockFileName || name == identityFile+".new" || name == "lost+found"
	})
	if len(names) > 0 {
		return invalid("Dir %s has no %s but is not empty (%s): name an empty directory, or this node's own", d.path, identityFile, strings.Join(names[:min(len(names), 3)], ", "))
	}
	data, err := c.identity().encode()
	if err == nil {
		err = d.files.WriteFile(path, data)
	}
	if err != nil {
		return openError(dcs.ErrUnavailable, "%s can not be written: Dir must be writable by this user and have room: %w", path, err)
	}
	d.fresh = true
	return nil
}

// mustBe compares what a directory says with what the settings say.
func (i identity) mustBe(want identity, path string) error {
	switch {
	case i.Format > dirFormat:
		return invalid("%s: a store of another version: the directory has format %d, this release reads up to %d: run the release that wrote it, or a newer one", path, i.Format, dirFormat)
	case i.Node != want.Node:
		return invalid("%s: the directory is node %q's and this node is %q: give every node a directory of its own, or correct ID", path, i.Node, want.Node)
	case i.Cluster != want.Cluster:
		return invalid("%s: the directory is of another cluster: there %s, in the settings %s: Root and the IDs in Peers must stay what they were at the first start", path, i.describe(), want.describe())
	}
	return nil
}

func (i identity) describe() string {
	return fmt.Sprintf("Root %q with nodes %s", i.Root, strings.Join(i.Members, ", "))
}
