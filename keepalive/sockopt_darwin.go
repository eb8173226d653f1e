package keepalive

import (
	"time"

	"golang.org/x/sys/unix"
)

func systemLimits() Limits { return darwinLimits }

func systemOptions() optionSet {
	return optionSet{
		idle:        option{"TCP_KEEPALIVE", unix.TCP_KEEPALIVE, time.Second}, // 0x10, Darwin's name for TCP_KEEPIDLE
		interval:    option{"TCP_KEEPINTVL", unix.TCP_KEEPINTVL, time.Second}, // 0x101
		count:       option{"TCP_KEEPCNT", unix.TCP_KEEPCNT, 0},               // 0x102
		userTimeout: option{"TCP_RXT_CONNDROPTIME", unix.TCP_RXT_CONNDROPTIME, time.Second},
		zeroIsOff:   true,
	}
}
