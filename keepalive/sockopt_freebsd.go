package keepalive

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// tcpMaxUnackTime is TCP_MAXUNACKTIME of netinet/tcp.h; golang.org/x/sys has it for some architectures only.
const tcpMaxUnackTime = 68

// firstWithMaxUnackTime is kern.osreldate of FreeBSD 14.0.
const firstWithMaxUnackTime = 1400097

var systemLimits = sync.OnceValue(func() Limits {
	if release, err := unix.SysctlUint32("kern.osreldate"); err != nil || release < firstWithMaxUnackTime {
		return freebsd13Limits
	}
	return freebsdLimits
})

func systemOptions() optionSet {
	return optionSet{
		idle:        option{"TCP_KEEPIDLE", unix.TCP_KEEPIDLE, time.Second},
		interval:    option{"TCP_KEEPINTVL", unix.TCP_KEEPINTVL, time.Second},
		count:       option{"TCP_KEEPCNT", unix.TCP_KEEPCNT, 0},
		userTimeout: option{"TCP_MAXUNACKTIME", tcpMaxUnackTime, time.Second},
		zeroIsOff:   true,
	}
}
