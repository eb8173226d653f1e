package transport

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

// wireVersion is the version of everything on the wire: the hello, the frames
// of calls and of Raft's messages. Nodes of different versions refuse each other.
const wireVersion = 2

// ClusterID distinguishes the trees that clusters keep. Nodes that do not agree on
// Root never exchange a message. Clusters with one Root are distinguished by their
// incarnations.
type ClusterID [16]byte

// String returns id in hexadecimal digits.
func (id ClusterID) String() string { return hex.EncodeToString(id[:]) }

// NewClusterID derives the ID from Root, which is the same on every node. The nodes
// of a cluster change.
func NewClusterID(root string) ClusterID {
	sum := sha256.Sum256([]byte("holdfast raft cluster\x00" + root))
	return ClusterID(sum[:16])
}

// ErrPeerRefused marks a failure that a retry cannot repair: a wrong certificate,
// another version, another cluster, or the wrong node at the address. An operator
// is needed. Nothing was sent.
var ErrPeerRefused = errors.New("not a peer of this node")

// errNotForClient is ErrPeerRefused to a program that is no node.
var errNotForClient error = clientRefusal{}

type clientRefusal struct{}

func (clientRefusal) Error() string { return "no node that this client can use" }
func (clientRefusal) Unwrap() error { return ErrPeerRefused }

// refused returns the name of the dialling side of a connection of kind k, and the
// ErrPeerRefused for it.
func (k Kind) refused() (own string, refused error) {
	if k == KindClient {
		return "this client", errNotForClient
	}
	return "this node", ErrPeerRefused
}

// Hello is the first thing on every connection. The dialling side sends
//
//	marker|kind, version, cluster (16), length of ID, ID
//
// and the other one answers, before anything else may be sent,
//
//	marker|kind, version, verdict, cluster (16), length of ID, ID
//
// On the connection of a client the feature level of each side follows its ID.
//
// The first two bytes (three of the answer) mean the same in every version to
// come. So a dial succeeds only with a live process of the right node, and a
// peer that is frozen, foreign or of another version is known before a
// request is sent.
const (
	helloMarker     = 0xA0
	helloMarkerMask = 0xF0
	tlsAlert        = 0x15 // first byte of a TLS alert
	tlsHandshake    = 0x16 // first byte of a TLS handshake
)

// verdict is the accepting side's word on a hello.
type verdict byte

const (
	verdictWelcome   verdict = 0
	verdictVersion   verdict = 1 // another version
	verdictCluster   verdict = 2 // another cluster
	verdictDuplicate verdict = 3 // both nodes have the same ID
	verdictRefused   verdict = 4 // any other reason
	// verdictIncarnation refuses Raft and calls between nodes that do not belong
	// to one founding of the cluster; verdictLife, a message for another
	// life of this node.
	verdictIncarnation verdict = 5
	verdictLife        verdict = 6
	// verdictOlder refuses a process of which a later start with the same data
	// was seen, or another one of the same start.
	verdictOlder verdict = 7
	verdictProof verdict = 8 // the certificate is not that of the node
)

// errOtherLife says that the node that was dialled lost its data and is another
// server of the cluster now.
var errOtherLife = errors.New("the node there has another life than the one that was wanted")

// errUnfounded says that one of two nodes has not taken part in the first start
// of the cluster yet.
var errUnfounded = errors.New("the cluster's first start is not over on both nodes")

// MaxNodeID is the greatest length of a node's name.
const MaxNodeID = 64

// ValidID reports whether id is a node's name. It keeps names fit for file names,
// URLs and log lines.
func ValidID(id string) bool {
	if id == "" || len(id) > MaxNodeID {
		return false
	}
	for _, r := range id {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		case r == '.', r == '_', r == '-':
		default:
			return false
		}
	}
	return true
}

// Hello says which node is at one end of a connection, and which life of its data.
// A node that lost its data has another life.
type Hello struct {
	version     byte
	cluster     ClusterID
	Incarnation disk.Incarnation
	Life        disk.Life
	Starts      uint32 // of this life
	Boot        uint64 // of this process, random
	ID          string

	// Level is the newest feature level that the side understands. It is sent on
	// the connections of clients only.
	Level byte

	// wanted is the life that the dialling side wants to reach. The answer does
	// not carry it.
	wanted disk.Life
}

// Start is one start of a node's data.
type Start struct {
	Starts uint32 `json:"starts,omitempty"` // of this life of the data, the first is 1
	Boot   uint64 `json:"boot,omitempty"`   // of the process, random
}

const helloFixed = 16 + 16 + 8 + 4 + 8 + 1

func (h Hello) tail(b []byte, k Kind) []byte {
	b = append(b, h.cluster[:]...)
	b = append(b, h.Incarnation[:]...)
	b = append(b, h.Life[:]...)
	b = binary.BigEndian.AppendUint32(b, h.Starts)
	b = binary.BigEndian.AppendUint64(b, h.Boot)
	b = append(b, byte(len(h.ID))) // MaxNodeID fits a byte
	b = append(b, h.ID...)
	if k == KindClient {
		b = append(b, h.Level)
	}
	return b
}

// opening returns the first bytes of the dialling side.
func (h Hello) opening(k Kind) []byte {
	b := append([]byte{helloMarker | byte(k), h.version, 0}, h.wanted[:]...)
	return h.tail(b, k)
}

func readTail(r io.Reader, k Kind) (h Hello, err error) {
	var fixed [helloFixed]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return h, err
	}
	copy(h.cluster[:], fixed[:16])
	copy(h.Incarnation[:], fixed[16:32])
	copy(h.Life[:], fixed[32:40])
	h.Starts = binary.BigEndian.Uint32(fixed[40:])
	h.Boot = binary.BigEndian.Uint64(fixed[44:])
	id := make([]byte, fixed[helloFixed-1])
	if _, err := io.ReadFull(r, id); err != nil {
		return h, err
	}
	h.ID = string(id)
	if k == KindClient {
		var level [1]byte
		if _, err := io.ReadFull(r, level[:]); err != nil {
			return h, err
		}
		h.Level = level[0]
	}
	if !ValidID(h.ID) {
		return h, errors.New("the other side's name is malformed")
	}
	return h, nil
}

// greet is the dialling side's half. want is the node that must answer, ""
// when any may.
func (h Hello) greet(rw io.ReadWriter, k Kind, want string) (peer Hello, err error) {
	if _, err := rw.Write(h.opening(k)); err != nil {
		return Hello{}, err
	}
	own, refused := k.refused()
	var head [3]byte
	if _, err := io.ReadFull(rw, head[:]); err != nil && head[0] != tlsAlert {
		return Hello{}, fmt.Errorf("no answer to the hello: %w", err)
	}
	switch {
	case head[0] == tlsAlert:
		return Hello{}, fmt.Errorf("%w: the other side requires TLS and %s has none: set TLS on all nodes or on none", refused, own)
	case head[0]&helloMarkerMask != helloMarker:
		return Hello{}, fmt.Errorf("%w: the process that answers is no node of this store", refused)
	case verdict(head[2]) == verdictVersion || head[1] != h.version:
		return Hello{}, versionError(head[1], h.version)
	}
	other, err := readTail(rw, k)
	if err != nil {
		return Hello{}, fmt.Errorf("no answer to the hello: %w", err)
	}
	return other, h.judge(other, k, verdict(head[2]), want)
}

// judge turns the other side's answer into words.
func (h Hello) judge(other Hello, k Kind, v verdict, want string) error {
	if k == KindClient {
		return h.judgeClient(other, v)
	}
	switch {
	case v == verdictCluster || other.cluster != h.cluster:
		return fmt.Errorf("%w: node %q there belongs to another cluster (%v, this node's is %v): Root must be the same on every node", ErrPeerRefused, other.ID, other.cluster, h.cluster)
	case v == verdictDuplicate:
		return fmt.Errorf("%w: the node there is named %q too: every node needs an ID of its own", ErrPeerRefused, other.ID)
	case v == verdictProof:
		return fmt.Errorf("%w: node %q there does not take this node's certificate for that of node %q: the certificate must be valid for the host of this node's address, or for its name in TLS.Names", ErrPeerRefused, other.ID, h.ID)
	case want != "" && other.ID != want:
		return fmt.Errorf("%w: node %q answers there and node %q was expected: correct the addresses", ErrPeerRefused, other.ID, want)
	case v == verdictIncarnation || k != KindSetup && h.apart(other):
		return h.apartError(other)
	case v == verdictLife || k != KindSetup && h.wanted != (disk.Life{}) && other.Life != h.wanted:
		return fmt.Errorf("node %q: %w", other.ID, errOtherLife)
	case v == verdictOlder:
		return olderError(other.ID)
	case v != verdictWelcome:
		return fmt.Errorf("node %q refused the connection", other.ID)
	}
	return nil
}

// olderError is the error of a process that must not take part at the same time as another
// one with the same data.
func olderError(id string) error {
	return fmt.Errorf("%w: a later start, or another process, with the same data was seen by node %q: two processes use copies of one directory, or this one has an older copy: end this process", ErrPeerRefused, id)
}

// apart reports whether this node and the other one do not belong to one
// founding of the cluster.
func (h Hello) apart(other Hello) bool {
	return h.Incarnation != other.Incarnation || h.Incarnation == disk.Incarnation{}
}

func (h Hello) apartError(other Hello) error {
	if h.Incarnation == (disk.Incarnation{}) || other.Incarnation == (disk.Incarnation{}) {
		return fmt.Errorf("node %q: %w", other.ID, errUnfounded)
	}
	return fmt.Errorf("%w: node %q there belongs to another incarnation of the cluster (%v, this node's is %v), which was founded separately: if the other nodes are right, start this node once with rejoin=true", ErrPeerRefused, other.ID, other.Incarnation, h.Incarnation)
}

func versionError(theirs, ours byte) error {
	return fmt.Errorf("%w: a store of another version: the other node speaks version %d of the protocol, this one version %d: run the same release on all nodes", ErrPeerRefused, theirs, ours)
}

// welcome is the accepting side's half: it reads a hello, answers it and
// returns the purpose and the maker of the connection. prove returns an error if
// the other side is not the node that it says it is. older reports whether a
// later start of the other side's data is known.
func (h Hello) welcome(rw io.ReadWriter, prove func(k Kind, id string) error, older func(Hello) bool) (k Kind, peer Hello, err error) {
	var head [2]byte
	if _, err := io.ReadFull(rw, head[:1]); err != nil {
		return 0, Hello{}, fmt.Errorf("no hello: %w", err)
	}
	answer := func(v verdict) error {
		_, err := rw.Write(h.tail([]byte{head[0]&^helloMarkerMask | helloMarker, h.version, byte(v)}, k))
		return err
	}
	if head[0] == tlsHandshake {
		// Anything that is not TLS makes the other side say so.
		_ = answer(verdictRefused)
		return 0, Hello{}, fmt.Errorf("%w: it wants TLS and this node has none: set TLS on all nodes or on none", ErrPeerRefused)
	}
	k = Kind(head[0] &^ helloMarkerMask)
	if head[0]&helloMarkerMask != helloMarker || k < KindRaft || k > KindClient {
		return 0, Hello{}, fmt.Errorf("%w: no hello of this store (first byte 0x%02x)", ErrPeerRefused, head[0])
	}
	if _, err := io.ReadFull(rw, head[1:]); err != nil {
		return 0, Hello{}, fmt.Errorf("no hello: %w", err)
	}
	if head[1] != h.version {
		_ = answer(verdictVersion)
		return 0, Hello{}, versionError(head[1], h.version)
	}
	var rest [9]byte
	if _, err := io.ReadFull(rw, rest[:]); err != nil {
		return 0, Hello{}, fmt.Errorf("no hello: %w", err)
	}
	other, err := readTail(rw, k)
	if err != nil {
		return 0, Hello{}, fmt.Errorf("no hello: %w", err)
	}
	copy(other.wanted[:], rest[1:])
	if k == KindClient {
		// It is no node: there is no name to prove and no life to be older.
		v := h.clientVerdict(other)
		if err := answer(v); err != nil {
			return 0, Hello{}, err
		}
		return k, other, h.judgeClient(other, v)
	}
	v := h.verdict(other, k)
	var unproven error
	if v != verdictCluster && v != verdictDuplicate {
		if unproven = prove(k, other.ID); unproven != nil {
			v = verdictProof
		}
	}
	if v == verdictWelcome && k != KindSetup && older(other) {
		v = verdictOlder
	}
	if err := answer(v); err != nil {
		return 0, Hello{}, err
	}
	return k, other, cmp.Or(unproven, h.judge(other, k, v, ""))
}

// verdict judges the hello of a node that dialled. Its wanted life must be the
// own one for Raft's traffic and for calls: both count as acts of that server.
func (h Hello) verdict(other Hello, k Kind) verdict {
	switch {
	case other.cluster != h.cluster:
		return verdictCluster
	case other.ID == h.ID:
		return verdictDuplicate
	case k == KindSetup:
	case h.apart(other):
		return verdictIncarnation
	case other.wanted != h.Life:
		return verdictLife
	}
	return verdictWelcome
}
