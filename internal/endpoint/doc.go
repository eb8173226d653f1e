// Package endpoint chooses among the servers of one store, for the backends
// that reach theirs over several addresses.
//
// The fault it exists for is a server that accepts connections and cannot
// serve: frozen, cut off from its peers, behind a path that drops packets. TCP
// does not see it (the kernel of a frozen process acknowledges), and neither
// does a connectivity check. So a Pool judges outcomes only: what was asked,
// whether it was answered, and how fast.
//
//   - [Pool.Pick] gives the endpoint for a copy of a call, [Attempt.End] takes
//     what became of it. An endpoint that owes an answer for longer than is
//     usual there is silent, and passed over at once, before any time-out.
//   - [Do] makes a call that is safe to send twice (P13): one copy, a second one
//     elsewhere when the first is late, fresh rounds with longer time-outs, full
//     jitter between them, never past the context's end.
//   - After two faults in a row, or one that leaves no doubt, an endpoint is left
//     out. It is probed in the background with a question to the quorum, and is
//     used again after two answers in a row. If all are out, all are tried.
//   - A server that lives and says that it cannot serve is in doubt ([Verdict]): in
//     an election all do. It is at fault once another one serves.
//   - The server that leads the store is preferred, unless it is so far away that
//     another one is at least twice as fast.
//   - The members' addresses are refreshed in the background; seeds are kept.
//   - Each address of a name is an endpoint. Names are looked up in the background;
//     a lookup that fails or is slow loses no address that is known.
//   - A server that is reached at several addresses is one endpoint, once it has
//     been identified ([Pool.Identify]).
//   - An endpoint that is ejected and silent, or removed, loses its connections
//     ([Conns]).
//
// Each decision is one log line with its reason and one [dcs.EndpointEvent].
package endpoint
