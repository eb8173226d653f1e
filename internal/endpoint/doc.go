// Package endpoint chooses among the servers of one store, for the backends
// that reach theirs over several addresses.
//
// It handles servers that accept connections and cannot serve, because they are
// frozen, cut off from their peers or behind a path that drops packets. TCP does
// not detect this (the kernel of a frozen process acknowledges), and neither does
// a connectivity check. A Pool therefore judges only the outcomes of calls: whether
// an endpoint answered, how fast, and with which error.
//
//   - [Pool.Pick] returns the endpoint for a copy of a call, and [Attempt.End]
//     takes the outcome. An endpoint with a call that has been unanswered for longer
//     than usual is silent. It is passed over at once, before any timeout.
//   - [Do] makes a call that is safe to send twice (P13). It sends one copy, and a
//     second one to another endpoint when the first is late. Further rounds follow
//     with longer timeouts and full jitter between them, but never past the end of
//     the context.
//   - Two failures in a row, or a single one that is certain, eject an endpoint. It
//     is probed in the background with a request to the quorum and restored after
//     two answers in a row. If all endpoints are ejected, all are tried.
//   - A server that answers that it cannot serve is in doubt ([Verdict]), because
//     all servers answer so during an election. It is at fault once another one
//     serves.
//   - The leader of the store is preferred, unless another server is much faster:
//     its usual latency is less than half and at least 2 ms shorter. Reads of a tree
//     are a [Class] of their own, because the server that answers the large reads
//     would otherwise be the slowest one.
//   - The list of members is refreshed in the background. Seeds are kept.
//   - Each address of a name is an endpoint. Names are looked up in the background.
//     A lookup that fails or is slow removes no known address.
//   - A server with several addresses is one endpoint, once it has been identified
//     ([Pool.Identify]).
//   - The connections to an endpoint are closed if it was removed, or ejected and
//     silent ([Conns]).
//
// Each decision is logged as one line with its reason and reported as one
// [dcs.EndpointEvent].
package endpoint
