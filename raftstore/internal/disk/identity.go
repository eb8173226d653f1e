package disk

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
)

// Format is the version of everything in a data directory: the layout, the
// log's commands and the snapshots.
const Format = 2

// maxIdentity is the longest identity file. A cluster has few nodes.
const maxIdentity = 1 << 20

// An Owner is a node as its settings described it when its data began. Members are
// the nodes in its list of peers then; a cluster's nodes change.
type Owner struct {
	Node    string   `json:"node"`
	Cluster string   `json:"cluster"`
	Root    string   `json:"root"`
	Members []string `json:"members"`
}

// An Identity says whose a data directory is. A node that used another one's
// log would vote twice in a term.
type Identity struct {
	Owner
	// Incarnation is zero until the cluster was founded.
	Incarnation Incarnation
	Life        Life
	// Founders are the lives that the cluster began with. A node that joined
	// later does not know them.
	Founders map[string]Life
	// Addrs are the addresses of the Founders, for the first log entry.
	Addrs map[string]string
	// Former are the incarnations that this one was recovered or restored from,
	// the oldest first.
	Former []Incarnation
}

// IsFounder reports whether the cluster began with this life of the node.
func (i Identity) IsFounder() bool {
	return !i.Incarnation.IsZero() && i.Founders[i.Node] == i.Life
}

// identityDocument is the content of the identity file.
type identityDocument struct {
	Format int `json:"format"`
	Owner
	Incarnation Incarnation       `json:"incarnation"`
	Life        Life              `json:"life"`
	Founders    map[string]Life   `json:"founders,omitempty"`
	Addrs       map[string]string `json:"addrs,omitempty"`
	Former      []Incarnation     `json:"former,omitempty"`
	// Sum is the CRC-32 of this document without it.
	Sum uint32 `json:"sum,omitempty"`
}

func (d identityDocument) sum() (uint32, error) {
	d.Sum = 0
	data, err := json.Marshal(d)
	return crc32.ChecksumIEEE(data), err
}

// Encode returns the content of the identity file.
func (i Identity) Encode() ([]byte, error) {
	d := identityDocument{Format: Format, Owner: i.Owner, Incarnation: i.Incarnation, Life: i.Life, Founders: i.Founders, Addrs: i.Addrs, Former: i.Former}
	var err error
	if d.Sum, err = d.sum(); err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(d, "", "  ")
	return append(data, '\n'), err
}

// DecodeIdentity returns the identity that Encode wrote. It accepts nothing
// else. The error is a *FormatError for a document of another version.
func DecodeIdentity(data []byte) (Identity, error) {
	// The format first: another one may have other fields.
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return Identity{}, err
	}
	if version.Format != Format && version.Format > 0 {
		return Identity{}, &FormatError{Format: version.Format}
	}
	var d identityDocument
	if err := json.Unmarshal(data, &d); err != nil {
		return Identity{}, err
	}
	if d.Life.IsZero() {
		return Identity{}, errors.New("it has no life")
	}
	i := Identity{Owner: d.Owner, Incarnation: d.Incarnation, Life: d.Life, Founders: d.Founders, Addrs: d.Addrs, Former: d.Former}
	written, err := i.Encode()
	if err == nil && !bytes.Equal(written, data) {
		err = errors.New("the content differs from the one that the node wrote")
	}
	if err != nil {
		return Identity{}, err
	}
	return i, nil
}

// A FormatError says that a data directory was written by another version.
type FormatError struct {
	File   string
	Format int
}

// Error implements error.
func (e *FormatError) Error() string {
	if e.Format < Format {
		return fmt.Sprintf("%s: format %d was written by a development version and cannot be read by this release: run the build that wrote it", e.File, e.Format)
	}
	return fmt.Sprintf("%s: format %d is of another version, this release reads format %d: run the release that wrote it, or a newer one", e.File, e.Format, Format)
}

// An OwnerError says that a data directory belongs to another node than the one
// of the settings.
type OwnerError struct {
	File        string
	Found, Want Owner
}

// Error implements error.
func (e *OwnerError) Error() string {
	if e.Found.Node != e.Want.Node {
		return fmt.Sprintf("%s: the directory is node %q's and this node is %q: give every node a directory of its own, or correct ID", e.File, e.Found.Node, e.Want.Node)
	}
	return fmt.Sprintf("%s: the directory is of another cluster: its Root is %q, and that of the settings is %q: Root must not change after the first start", e.File, e.Found.Root, e.Want.Root)
}

// readIdentity reads the identity file. Its error is a *FormatError or a
// *DamageError, or that of an operation that failed.
func readIdentity(files FS, dir string) (Identity, error) {
	path := filepath.Join(dir, identityFile)
	data, err := ReadFile(files, path, maxIdentity)
	if err != nil {
		return Identity{}, err
	}
	i, err := DecodeIdentity(data)
	var format *FormatError
	var syntax *json.SyntaxError
	switch {
	case err == nil:
		return i, nil
	case errors.As(err, &format):
		format.File = path
		return i, format
	case errors.As(err, &syntax):
		return i, &DamageError{File: path, Offset: syntax.Offset, What: err.Error()}
	}
	return i, &DamageError{File: path, What: err.Error()}
}

// mustBe compares the owner of a directory with that of the settings.
func (o Owner) mustBe(want Owner, dir string) error {
	if o.Node == want.Node && o.Root == want.Root {
		return nil
	}
	return &OwnerError{File: filepath.Join(dir, identityFile), Found: o, Want: want}
}

// WriteIdentity replaces the identity of a data directory durably.
func WriteIdentity(files FS, dir string, i Identity) error {
	if i.Life.IsZero() {
		return errors.New("an identity without a life")
	}
	data, err := i.Encode()
	if err != nil {
		return err
	}
	return WriteFile(files, filepath.Join(dir, identityFile), data)
}
