package keepalive

import (
	"time"

	"golang.org/x/sys/unix"
)

func systemLimits() Limits { return dragonflyLimits }

func systemOptions() optionSet {
	return optionSet{
		idle:     option{"TCP_KEEPIDLE", unix.TCP_KEEPIDLE, time.Second},
		interval: option{"TCP_KEEPINTVL", unix.TCP_KEEPINTVL, time.Second},
		count:    option{"TCP_KEEPCNT", unix.TCP_KEEPCNT, 0},
	}
}
