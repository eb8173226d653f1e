package keepalive

import (
	"math"
	"time"
)

// A Range is the values that one socket option takes: the whole multiples of Unit from Min to Max, both included. A Range whose Max
// is zero stands for an option that the system does not have.
type Range struct {
	Min, Max, Unit time.Duration
}

func (r Range) missing() bool { return r.Max == 0 }

// Limits are the values that one operating system accepts for a socket. System returns the row in force for this process and
// Systems the whole table; Config.ClampFor and DeriveFor take any row, so the values for another system can be computed
// (and is tested) anywhere.
type Limits struct {
	// OS is the system's name as it appears in messages.
	OS string

	// Idle, Interval and UserTimeout are the ranges of the three times. Where Idle is missing the system has no
	// keepalive values per socket at all.
	Idle, Interval, UserTimeout Range

	// MinCount and MaxCount bound the number of probes. FixedCount, when not zero, says that the system always counts
	// to this number; an interval is then chosen that leaves Interval x Count as it was asked for.
	MinCount, MaxCount, FixedCount int

	// MaxProbing bounds Interval x Count where the kernel keeps the product in one variable; zero means no bound.
	MaxProbing time.Duration

	// UserTimeoutEndsProbing says that a user timeout replaces Count: an idle connection is given up at the first
	// probe that falls due when the user timeout has passed.
	UserTimeoutEndsProbing bool

	// Tick is how late one timer may fire where the kernel's TCP timers are slow ones, over and above the share that any
	// timer may be late (doc.go, "Late timers"). Zero where that share covers the clock's resolution.
	Tick time.Duration
}

// perSocket reports whether the system has keepalive values per socket.
func (l Limits) perSocket() bool { return !l.Idle.missing() }

const (
	maxInt32  = math.MaxInt32
	maxUint32 = math.MaxUint32
)

func seconds(least, most int64) Range {
	return Range{Min: time.Duration(least) * time.Second, Max: time.Duration(most) * time.Second, Unit: time.Second}
}

func milliseconds(least, most int64) Range {
	return Range{
		Min: time.Duration(least) * time.Millisecond, Max: time.Duration(most) * time.Millisecond,
		Unit: time.Millisecond,
	}
}

// The rows. Zero is never offered as a least value, even where the kernel takes it: on every system that does, it means
// "the system's default" (two hours) and not "at once".
var (
	linuxLimits = Limits{
		OS: "Linux",
		// include/net/tcp.h: MAX_TCP_KEEPIDLE 32767, MAX_TCP_KEEPINTVL 32767, MAX_TCP_KEEPCNT 127; outside of 1..max
		// net/ipv4/tcp.c answers EINVAL. All edges measured on Linux 6.18.
		Idle: seconds(1, 32767), Interval: seconds(1, 32767), MinCount: 1, MaxCount: 127,
		// net/ipv4/tcp.c, TCP_USER_TIMEOUT: an int of milliseconds, not negative, 0 = off. Measured on 6.18.
		UserTimeout: milliseconds(1, maxInt32),
		// net/ipv4/tcp_timer.c, tcp_keepalive_timer: with a user timeout set, the probe count is not looked at.
		UserTimeoutEndsProbing: true,
	}

	darwinLimits = Limits{
		OS: "Darwin",
		// xnu bsd/netinet/tcp_usrreq.c: TCP_KEEPALIVE and TCP_KEEPINTVL, EINVAL below 0 or above
		// UINT32_MAX/TCP_RETRANSHZ = 4294967; TCP_KEEPCNT 0..INT32_MAX; 0 = the system's default.
		Idle: seconds(1, maxUint32/1000), Interval: seconds(1, maxUint32/1000), MinCount: 1, MaxCount: maxInt32,
		// The same file keeps interval and interval x count in 32 bits of milliseconds (TCP_CONN_MAXIDLE).
		MaxProbing: maxInt32 / 1000 * time.Second,
		// The same file, TCP_RXT_CONNDROPTIME: seconds, only checked not to be negative, then multiplied by 1000 in an
		// int: above 2147483 it would wrap.
		UserTimeout: seconds(1, maxInt32/1000),
		Tick:        500 * time.Millisecond, // timers are batched to save power
	}

	freebsdLimits = Limits{
		OS: "FreeBSD",
		// sys/netinet/tcp_usrreq.c: TCP_KEEPIDLE and TCP_KEEPINTVL, EINVAL above UINT_MAX/hz (4294967 at hz=1000, the
		// usual value and the largest); 0 = the system's default. TCP_KEEPCNT is a u_int without a check.
		Idle: seconds(1, maxUint32/1000), Interval: seconds(1, maxUint32/1000), MinCount: 1, MaxCount: maxInt32,
		// sys/netinet/tcp_timer.h: TP_MAXIDLE is count x interval in 32 bits of ticks.
		MaxProbing: maxInt32 / 1000 * time.Second,
		// tcp(4), TCP_MAXUNACKTIME: seconds in which at least one byte must be acknowledged, 0 = off; since 14.0.
		UserTimeout: seconds(1, maxInt32/1000),
	}

	freebsd13Limits = func() Limits {
		l := freebsdLimits
		l.OS = "FreeBSD before 14"
		l.UserTimeout = Range{} // tcp(4) of 13: no TCP_MAXUNACKTIME
		return l
	}()

	netbsdLimits = Limits{
		OS: "NetBSD",
		// sys/netinet/tcp_usrreq.c: TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT must be above 0 and have no upper limit.
		// The timers multiply by hz/PR_SLOWHZ in an int, so 4194303 is the largest that cannot wrap at hz=1024. tcp(4)
		// documents seconds; whether the timers count half seconds is not verified, and if they do, silence is
		// noticed in half the time, which keeps every bound.
		Idle: seconds(1, 4194303), Interval: seconds(1, 4194303), MinCount: 1, MaxCount: maxInt32,
		MaxProbing:  4194303 * time.Second,        // the same file: t_maxidle = t_keepcnt * t_keepintvl
		Tick:        500 * time.Millisecond,       // PR_SLOWHZ, 2 a second
		UserTimeout: Range{ /* there is none */ }, // tcp(4)
	}

	openbsdLimits = Limits{
		OS: "OpenBSD",
		// sys/netinet/tcp_usrreq.c, tcp(4): no TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT or user timeout (ENOPROTOOPT).
		// SO_KEEPALIVE only, with sysctl net.inet.tcp.keepidle and keepintvl for the whole system.
		Tick: 500 * time.Millisecond,
	}

	dragonflyLimits = Limits{
		OS: "DragonFly",
		// sys/netinet/tcp_usrreq.c: TCP_KEEPIDLE and the others must be above 0. Seconds since 5.8 (golang.org/issue/65809,
		// curl pull request 13848), milliseconds before, which is not supported. The value is multiplied by hz in an int:
		// 2147483 cannot wrap at hz=1000.
		Idle: seconds(1, maxInt32/1000), Interval: seconds(1, maxInt32/1000), MinCount: 1, MaxCount: maxInt32,
		MaxProbing: maxInt32 / 1000 * time.Second, // the same file: count x interval in an int of ticks
	}

	windowsLimits = Limits{
		OS: "Windows",
		// Microsoft Learn, "IPPROTO_TCP socket options": TCP_KEEPIDLE and TCP_KEEPINTVL in seconds since version 1709
		// (build 16299), no largest value is documented. The stack keeps milliseconds in 32 bits (SIO_KEEPALIVE_VALS
		// takes them so), hence 4294967.
		Idle: seconds(1, maxUint32/1000), Interval: seconds(1, maxUint32/1000),
		// The same page: TCP_KEEPCNT, since version 1703, "illegal to set to a value greater than 255".
		MinCount: 1, MaxCount: 255,
		// The same page, TCP_MAXRT: seconds, -1 = retransmit for ever.
		UserTimeout: seconds(1, maxInt32/1000),
	}

	windows1703Limits = Limits{
		OS: "Windows before 1709",
		// Microsoft Learn, "SIO_KEEPALIVE_VALS": both times together, in milliseconds of 32 bits; "the number of
		// keep-alive probes is set to 10 and cannot be changed".
		Idle: milliseconds(1, maxUint32), Interval: milliseconds(1, maxUint32), FixedCount: 10, MinCount: 10, MaxCount: 10,
		UserTimeout: seconds(1, maxInt32/1000), // TCP_MAXRT, as above
		Tick:        20 * time.Millisecond,     // one tick of the 15.6 ms clock; the times may be as short
	}

	illumosLimits = Limits{
		OS: "illumos",
		// usr/src/uts/common/inet/tcp/tcp_tunables.c, _keepalive_interval: 10 s to 10 days; tcp_opt_data.c answers
		// EINVAL outside.
		Idle: seconds(10, 864000),
		// tcp_opt_data.c: TCP_KEEPINTVL must lie between the connection's smallest and largest retransmission timeout,
		// 0.4 s and 60 s unless tuned.
		Interval: seconds(1, 60),
		MinCount: 1, MaxCount: maxInt32,
		// The same file: TCP_KEEPCNT 0 is EINVAL, and count x interval is computed in an int of milliseconds.
		MaxProbing: maxInt32 / 1000 * time.Second,
		// The same file: TCP_ABORT_THRESHOLD, milliseconds, unchecked.
		UserTimeout: milliseconds(1, maxInt32),
	}

	solarisLimits = Limits{
		OS: "Solaris",
		// Oracle Solaris 11.4 Tunable Parameters, _keepalive_interval: 10 s to 10 days. The least interval of 10 s is
		// the value that libuv's src/unix/tcp.c records from tcp(4P) for TCP_KEEPINTVL, likewise its largest.
		Idle: seconds(10, 864000), Interval: seconds(10, 864000), MinCount: 1, MaxCount: maxInt32,
		MaxProbing:  maxInt32 / 1000 * time.Second, // as illumos: a product in milliseconds
		UserTimeout: milliseconds(500, maxInt32),   // the same manual, _ip_abort_interval: from 500 ms
	}

	solaris113Limits = Limits{
		OS: "Solaris before 11.4",
		// Solaris Tunable Parameters Reference: TCP_KEEPALIVE_THRESHOLD, 10 s to 10 days in milliseconds.
		Idle: milliseconds(10_000, 864_000_000),
		// The same, TCP_KEEPALIVE_ABORT_THRESHOLD: one figure for all probes together, up to 8 minutes, in
		// milliseconds (0 = never, so not offered). Probes inside it follow an exponential back-off.
		Interval: milliseconds(1000, 480_000), FixedCount: 1, MinCount: 1, MaxCount: 1,
		UserTimeout: milliseconds(500, maxInt32), // as Solaris
	}

	aixLimits = Limits{
		OS: "AIX",
		// Go's net/tcpsockopt_unix.go sets TCP_KEEPIDLE, TCP_KEEPINTVL and TCP_KEEPCNT in seconds; no limit of AIX's own
		// is documented. So these are the narrowest of any other Unix: 32767 (Linux, and HP-UX's tcp(7P)) and 127.
		Idle: seconds(1, 32767), Interval: seconds(1, 32767), MinCount: 1, MaxCount: 127,
		Tick: 500 * time.Millisecond, // the slow timer, 2 a second
	}

	// unknownLimits is for systems outside of the table, on which nothing is set.
	unknownLimits = Limits{OS: "this system"}
)

// Systems returns the whole table, one row for each system or generation of a system that differs.
func Systems() []Limits {
	return []Limits{
		linuxLimits, darwinLimits, freebsdLimits, freebsd13Limits, netbsdLimits, openbsdLimits, dragonflyLimits,
		windowsLimits, windows1703Limits, illumosLimits, solarisLimits, solaris113Limits, aixLimits,
	}
}

// System returns the row of the table that is in force for this process. Where a system's limits changed with a release,
// the running kernel is asked once.
func System() Limits { return systemLimits() }
