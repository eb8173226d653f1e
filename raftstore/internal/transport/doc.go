// Package transport connects the nodes of a raftstore cluster. One address of each
// node serves Raft's messages, the calls between nodes, and the connections by
// which a cluster is founded and joined.
//
// A [Network] dials and accepts, with mutual TLS or without, and finds out which
// node, and which life of its data, is at the other end. It bounds everything that
// another node, or a stranger, can send, and checks each message of Raft before
// Raft decodes it. It knows nothing of the state that the nodes keep.
package transport
