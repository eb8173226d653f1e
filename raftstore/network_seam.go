package raftstore

// The seam between the two halves of the package. The network half (Config,
// stream layer, calls between nodes) knows nothing of the state half (log
// entries, FSM, leases, evidence) and the other way round:
//
//	func newNetwork(c Config) (*network, error)
//		listens at once; a port in use is a clear error. Accepts TLS (ALPN) or
//		first-byte muxed connections, applies keepalive to dialled and accepted
//		ones, registers every one so that all can be closed at a stroke.
//	func (n *network) raftLayer() raft.StreamLayer
//	func (n *network) serve(h callHandler)
//		starts answering calls; each in its own goroutine, the context carries
//		the caller's remaining budget and ends with the connection.
//	func (n *network) call(ctx context.Context, addr string, op byte, body []byte) ([]byte, error)
//		one request, one reply, multiplexed on one persistent connection per
//		address. An error that wraps errNotSent says that the request certainly
//		never left; any other error is unclear. It returns by ctx's deadline.
//	func (n *network) addr() string // the address others reach this node at
//	func (n *network) closeConns()  // drops every connection, dialled and accepted
//	func (n *network) close() error // idempotent, bounded, ends all goroutines
//	n.tap                           // test hook: sees every call and reply, may hold or drop it
//
//	type callHandler func(ctx context.Context, op byte, body []byte) []byte
