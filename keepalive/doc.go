// Package keepalive makes the kernel detect a silent peer in time.
//
// A TCP connection whose peer has vanished (a cut cable, a dead host, a firewall that lost its state) looks like an idle
// one. The kernel can distinguish the two with keepalive probes and with a limit on how long data may stay
// unacknowledged. By default the probes begin after two hours, and the limit is about fifteen minutes. Every system names
// the options differently and accepts different values, and Go's net package drops the error of a refused option. This
// package derives the values from the time that silence may last, moves them into the system's limits, sets them so that
// no other package overwrites them, and reads them back.
//
// The package closes connections that are of no use any more. It is no safety mechanism. A holder must decide by its own
// deadline whether a lease is still held, because the deadline needs no kernel and no network. The kernel of a frozen
// process, or of a server that hangs, keeps acknowledging. Only a deadline on each call detects those.
//
// # Use
//
//	values, report := keepalive.Derive(ttl, loopWait)
//	for _, line := range report.Adjustments {
//		log.Warn("keepalive", "adjusted", line)
//	}
//	d := &keepalive.Dialer{Config: values, Timeout: time.Second, Logger: log}
//	conn, err := d.DialContext(ctx, "tcp", address)      // for http.Transport.DialContext, a Raft stream layer, ...
//	ln, err := keepalive.Listen(ctx, "tcp", address, values) // accepted connections get them too
//
// Dialer and Listener never fail because of an option. They report a refused option (Logger, OnError) and return the
// connection. Apply sets the options of any other connection and returns the error. Effective reads the values of a
// socket. Both find the socket through crypto/tls and any other wrapper that has SyscallConn or NetConn, and they do not
// change connections that are not TCP.
//
// A library that recognises *net.TCPConn may set options of its own on it. gRPC sets TCP_USER_TIMEOUT to its keepalive
// timeout, on both sides. With Wrapped set, a *Conn is returned, which is not recognised:
//
//	d := &keepalive.Dialer{Config: values, Wrapped: true}
//	grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
//		return d.DialContext(ctx, "tcp", address)
//	})
//
// If a library takes only a net.Dialer or net.ListenConfig, Config.Control sets the values before the connection is made.
// KeepAlive must then be -1, or net's own default overwrites them afterwards.
//
// # The formula
//
// Derive takes the TTL that a dead connection must not use up and the loop wait, the longest time between two writes of the
// caller. The silence budget B is the TTL, at most 300 s. The gap W is the loop wait, at most B/3. Then
//
//	Idle        = B/2
//	Count       = 3
//	Interval    = (7/8 B - Idle) / Count
//	UserTimeout = 7/8 (B - W) - 500 ms
//
// each rounded down to a value that the system can hold and at least the smallest value that it takes (a second on Linux). For a
// TTL of 30 s and a loop wait of 10 s: idle 15 s, interval 3 s, count 3, user timeout 17 s.
//
// The worst case is not an idle connection but data that is written during the silence. While data is unacknowledged, the
// kernel sends no keepalive probes, and only the user timeout counts, from that data on. A silence that began W before the
// write lasts W + UserTimeout. With the TTL itself as user timeout, as is common, a TTL of 30 s let 48.9 s of silence pass.
//
// A caller that exceeds its own loop wait, and writes later than W after the silence began, moves the bound by as much.
// SilenceFor computes the bound for any gap.
//
// When the budget is too small for the system's smallest values, or the system has no user timeout, Met is false in the
// Report. Achievable has the time that is achievable instead, and Adjustments describes it. That is no error, because the
// values are the best that the system has.
//
// # Late timers
//
// Kernels fire TCP timers late, by design. On Linux they are late by up to 8/63 of the time (the timer wheel) and a jiffy,
// and the clock of the user timeout starts only at the first retransmission. The 7/8 and the 500 ms above allow for that,
// and every bound in Report and SilenceFor includes it. A round trip above about 100 ms delays the first
// retransmission further, by the connection's retransmission timeout, and moves the bound by as much.
//
// # Limits of each system
//
// The limits are in seconds unless another unit is named. limits.go has the source of each figure.
//
//	system                idle        interval    count   limit on unacknowledged data
//	Linux                 1-32767     1-32767     1-127   TCP_USER_TIMEOUT, 1-2147483647 ms; ends probing too
//	Darwin                1-4294967   1-4294967   2^31-1  TCP_RXT_CONNDROPTIME, 1-2147483
//	FreeBSD               1-4294967   1-4294967   2^31-1  TCP_MAXUNACKTIME, 1-2147483, from 14 on
//	NetBSD                1-4194303   1-4194303   2^31-1  none
//	OpenBSD               none        none        none    none: sysctl for the whole system only
//	DragonFly             1-2147483   1-2147483   2^31-1  none
//	Windows               1-4294967   1-4294967   1-255   TCP_MAXRT, 1-2147483
//	Windows before 1709   1-2^32 ms   1-2^32 ms   10      TCP_MAXRT, 1-2147483
//	illumos               10-864000   1-60        2^31-1  TCP_ABORT_THRESHOLD, 1-2147483647 ms
//	Solaris               10-864000   10-864000   2^31-1  TCP_ABORT_THRESHOLD, 500-2147483647 ms
//	Solaris before 11.4   10-864000   1-480 in all        TCP_ABORT_THRESHOLD, 500-2147483647 ms
//	AIX                   1-32767     1-32767     1-127   none
//
// On Darwin, FreeBSD, NetBSD, DragonFly, illumos and Solaris the count is cut further where Interval x Count would not fit
// the kernel's variable. Linux is tested on sockets, all others by their rows of the table and by compiling.
//
// Config.Clamp moves all values into the limits and reports each change, as in "interval 33326s is above Linux's 32767s:
// using 32767s". Every function that takes a Config clamps it, so that no value makes an option fail or wrap.
package keepalive
