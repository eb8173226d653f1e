package raftstore

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
)

// wireVersion is the version of everything on the wire: the hello, the frames
// of calls and what Raft sends. Nodes of different versions refuse each other.
const wireVersion = 1

// clusterID tells clusters apart: nodes that do not agree on root and members
// never exchange a message.
type clusterID [16]byte

func (id clusterID) String() string { return hex.EncodeToString(id[:]) }

// newClusterID derives the ID from what is the same on every node: the root
// and the names of all nodes. Addresses may change.
func newClusterID(root string, ids []string) clusterID {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	h := sha256.New()
	fmt.Fprintf(h, "holdfast raft cluster\x00%s\x00", root)
	for _, id := range ids {
		fmt.Fprintf(h, "%s\x00", id)
	}
	var id clusterID
	copy(id[:], h.Sum(nil))
	return id
}

// memberIDs lists the names of all nodes, sorted.
func (c Config) memberIDs() []string {
	if len(c.Peers) == 0 {
		return []string{c.ID}
	}
	ids := make([]string, 0, len(c.Peers))
	for _, p := range c.Peers {
		ids = append(ids, p.ID)
	}
	slices.Sort(ids)
	return ids
}

// errPeerRefused marks a failure that trying again will not mend: wrong
// certificate, other version, other cluster, wrong node at the address. An
// operator is needed; nothing was sent.
var errPeerRefused = errors.New("not a peer of this node")

// Hello is the first thing on every connection. The dialling side sends
//
//	marker|kind, version, cluster (16), length of ID, ID
//
// and the other one answers, before anything else may be sent,
//
//	marker|kind, version, verdict, cluster (16), length of ID, ID
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
	verdictWelcome verdict = 0
	verdictVersion verdict = 1 // another version
	verdictCluster verdict = 2 // another cluster
	verdictTwin    verdict = 3 // both nodes have the same ID
	verdictRefused verdict = 4 // any other reason
)

// hello is who this node is.
type hello struct {
	version byte
	cluster clusterID
	id      string
}

func (h hello) tail(b []byte) []byte {
	b = append(b, h.cluster[:]...)
	b = append(b, byte(len(h.id))) //nolint:gosec // maxNodeID fits a byte
	return append(b, h.id...)
}

func readTail(r io.Reader) (h hello, err error) {
	var fixed [17]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return h, err
	}
	copy(h.cluster[:], fixed[:16])
	id := make([]byte, fixed[16])
	if _, err := io.ReadFull(r, id); err != nil {
		return h, err
	}
	h.id = string(id)
	if !validID(h.id) {
		return h, errors.New("the other side's name is malformed")
	}
	return h, nil
}

// greet is the dialling side's half. want is the node that must answer, ""
// when any may.
func (h hello) greet(rw io.ReadWriter, k kind, want string) (peer string, err error) {
	if _, err := rw.Write(h.tail([]byte{helloMarker | byte(k), h.version})); err != nil {
		return "", err
	}
	var head [3]byte
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		if head[0] == tlsAlert {
			return "", fmt.Errorf("%w: it wants TLS and this node has none: set TLS on all nodes or on none", errPeerRefused)
		}
		return "", fmt.Errorf("no answer to the hello: %w", err)
	}
	switch {
	case head[0] == tlsAlert:
		return "", fmt.Errorf("%w: it wants TLS and this node has none: set TLS on all nodes or on none", errPeerRefused)
	case head[0]&helloMarkerMask != helloMarker:
		return "", fmt.Errorf("%w: what answers there is no node of this store", errPeerRefused)
	case verdict(head[2]) == verdictVersion || head[1] != h.version:
		return "", versionError(head[1], h.version)
	}
	other, err := readTail(rw)
	if err != nil {
		return "", fmt.Errorf("no answer to the hello: %w", err)
	}
	return other.id, h.judge(other, verdict(head[2]), want)
}

// judge turns the other side's answer into words.
func (h hello) judge(other hello, v verdict, want string) error {
	switch {
	case v == verdictCluster || other.cluster != h.cluster:
		return fmt.Errorf("%w: node %q there belongs to another cluster (%v, this node's is %v): Root and the IDs in Peers must be the same on every node", errPeerRefused, other.id, other.cluster, h.cluster)
	case v == verdictTwin:
		return fmt.Errorf("%w: the node there is named %q too: every node needs an ID of its own", errPeerRefused, other.id)
	case want != "" && other.id != want:
		return fmt.Errorf("%w: node %q answers there, Peers says %q: correct the addresses", errPeerRefused, other.id, want)
	case v != verdictWelcome:
		return fmt.Errorf("node %q refused the connection", other.id)
	}
	return nil
}

func versionError(theirs, ours byte) error {
	return fmt.Errorf("%w: a store of another version: the other node speaks version %d of the protocol, this one version %d: run the same release on all nodes", errPeerRefused, theirs, ours)
}

// welcome is the accepting side's half: it reads a hello, answers it and
// returns what the connection is for and whose it is.
func (h hello) welcome(rw io.ReadWriter) (k kind, peer string, err error) {
	var head [2]byte
	if _, err := io.ReadFull(rw, head[:1]); err != nil {
		return 0, "", fmt.Errorf("no hello: %w", err)
	}
	answer := func(v verdict) error {
		_, err := rw.Write(h.tail([]byte{head[0]&^helloMarkerMask | helloMarker, h.version, byte(v)}))
		return err
	}
	if head[0] == tlsHandshake {
		// Anything that is not TLS makes the other side say so.
		_ = answer(verdictRefused)
		return 0, "", fmt.Errorf("%w: it wants TLS and this node has none: set TLS on all nodes or on none", errPeerRefused)
	}
	k = kind(head[0] &^ helloMarkerMask)
	if head[0]&helloMarkerMask != helloMarker || (k != kindRaft && k != kindCall) {
		return 0, "", fmt.Errorf("%w: no hello of this store (first byte 0x%02x)", errPeerRefused, head[0])
	}
	if _, err := io.ReadFull(rw, head[1:]); err != nil {
		return 0, "", fmt.Errorf("no hello: %w", err)
	}
	if head[1] != h.version {
		_ = answer(verdictVersion)
		return 0, "", versionError(head[1], h.version)
	}
	other, err := readTail(rw)
	if err != nil {
		return 0, "", fmt.Errorf("no hello: %w", err)
	}
	v := verdictWelcome
	switch {
	case other.cluster != h.cluster:
		v = verdictCluster
	case other.id == h.id:
		v = verdictTwin
	}
	if err := answer(v); err != nil {
		return 0, "", err
	}
	return k, other.id, h.judge(other, v, "")
}
