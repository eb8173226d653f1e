//go:build solaris && !illumos

package keepalive

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Solaris 11.4 numbers these options differently from illumos, whose numbers golang.org/x/sys has (Go's
// net/tcpsockopt_solaris.go has both).
const (
	tcpKeepIdle  = 0x1d
	tcpKeepIntvl = 0x1e
	tcpKeepCnt   = 0x1f
)

// systemLimits distinguishes 11.4 from its predecessors by the version that uname reports: "11.4.42.111.0".
var systemLimits = sync.OnceValue(func() Limits {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return solaris113Limits
	}
	parts := strings.SplitN(unix.ByteSliceToString(name.Version[:]), ".", 3)
	if len(parts) < 2 {
		return solaris113Limits
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	if err1 != nil || err2 != nil || major < 11 || (major == 11 && minor < 4) {
		return solaris113Limits
	}
	return solarisLimits
})

func systemOptions() optionSet {
	set := optionSet{userTimeout: option{"TCP_ABORT_THRESHOLD", unix.TCP_ABORT_THRESHOLD, time.Millisecond}}
	if System().FixedCount != 0 {
		set.idle = option{"TCP_KEEPALIVE_THRESHOLD", unix.TCP_KEEPALIVE_THRESHOLD, time.Millisecond}
		set.interval = option{"TCP_KEEPALIVE_ABORT_THRESHOLD", unix.TCP_KEEPALIVE_ABORT_THRESHOLD, time.Millisecond}
		return set
	}
	set.idle = option{"TCP_KEEPIDLE", tcpKeepIdle, time.Second}
	set.interval = option{"TCP_KEEPINTVL", tcpKeepIntvl, time.Second}
	set.count = option{"TCP_KEEPCNT", tcpKeepCnt, 0}
	return set
}
