package keepalive

import (
	"errors"
	"fmt"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// soType is SO_TYPE of winsock2.h, which golang.org/x/sys/windows lacks.
const soType = 0x1008

// build1709 is the first build with TCP_KEEPIDLE and TCP_KEEPINTVL (Go's internal/syscall/windows/version_windows.go).
const build1709 = 16299

var systemLimits = sync.OnceValue(func() Limits {
	if v := windows.RtlGetVersion(); v.MajorVersion < 10 || v.BuildNumber < build1709 {
		return windows1703Limits
	}
	return windowsLimits
})

// isTCP reports whether the handle is a stream socket of the internet families.
func isTCP(fd uintptr) (bool, error) {
	kind, err := windows.GetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, soType)
	if err != nil {
		return false, fmt.Errorf("keepalive: reading SO_TYPE: %w", err)
	}
	if kind != windows.SOCK_STREAM {
		return false, nil
	}
	sa, err := windows.Getsockname(windows.Handle(fd))
	if errors.Is(err, windows.WSAEINVAL) {
		// Windows knows no name for a socket before it is bound. Only Control sees one, and it is called for TCP and
		// UDP, the latter sorted out above, and for Unix sockets, which refuse the options.
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("keepalive: getsockname: %w", err)
	}
	switch sa.(type) {
	case *windows.SockaddrInet4, *windows.SockaddrInet6:
		return true, nil
	}
	return false, nil
}

// setOptions turns keepalive on and sets clamped values. It tries every option, whichever of them fail.
func setOptions(fd uintptr, c Config) error {
	var errs []error
	if System().FixedCount != 0 {
		errs = append(errs, setTogether(fd, c))
	} else {
		errs = append(errs,
			setInt(fd, windows.SOL_SOCKET, "SO_KEEPALIVE", windows.SO_KEEPALIVE, 1),
			setInt(fd, windows.IPPROTO_TCP, "TCP_KEEPIDLE", windows.TCP_KEEPIDLE, int(c.Idle/time.Second)),
			setInt(fd, windows.IPPROTO_TCP, "TCP_KEEPINTVL", windows.TCP_KEEPINTVL, int(c.Interval/time.Second)),
			setInt(fd, windows.IPPROTO_TCP, "TCP_KEEPCNT", windows.TCP_KEEPCNT, c.Count))
	}
	if c.UserTimeout > 0 {
		errs = append(errs,
			setInt(fd, windows.IPPROTO_TCP, "TCP_MAXRT", windows.TCP_MAXRT, int(c.UserTimeout/time.Second)))
	}
	return errors.Join(errs...)
}

// setTogether is the way before 1709: both times in one call, which also turns keepalive on.
func setTogether(fd uintptr, c Config) error {
	in := windows.TCPKeepalive{
		OnOff:    1,
		Time:     uint32(c.Idle / time.Millisecond), // windows1703Limits keeps both inside 32 bits
		Interval: uint32(c.Interval / time.Millisecond),
	}
	var returned uint32
	err := windows.WSAIoctl(windows.Handle(fd), windows.SIO_KEEPALIVE_VALS,
		(*byte)(unsafe.Pointer(&in)), //nolint:gosec // G103: the call takes a pointer to bytes
		uint32(unsafe.Sizeof(in)), nil, 0, &returned, nil, 0)
	if err != nil {
		return fmt.Errorf("keepalive: SIO_KEEPALIVE_VALS with %v: %w", c, err)
	}
	return nil
}

// getOptions reads the options of the socket.
func getOptions(fd uintptr) (Config, error) {
	if l := System(); l.FixedCount != 0 {
		return Config{}, fmt.Errorf("keepalive: %s cannot read the values back: %w", l.OS, errors.ErrUnsupported)
	}
	on, err := getInt(fd, windows.SOL_SOCKET, "SO_KEEPALIVE", windows.SO_KEEPALIVE)
	if err != nil {
		return Config{}, err
	}
	maxRT, err := getInt(fd, windows.IPPROTO_TCP, "TCP_MAXRT", windows.TCP_MAXRT)
	if err != nil {
		return Config{}, err
	}
	c := Config{UserTimeout: time.Duration(max(maxRT, 0)) * time.Second} // -1 = retransmit for ever
	if on == 0 {
		return c, nil
	}
	idle, err := getInt(fd, windows.IPPROTO_TCP, "TCP_KEEPIDLE", windows.TCP_KEEPIDLE)
	if err != nil {
		return Config{}, err
	}
	interval, err := getInt(fd, windows.IPPROTO_TCP, "TCP_KEEPINTVL", windows.TCP_KEEPINTVL)
	if err != nil {
		return Config{}, err
	}
	c.Idle, c.Interval = time.Duration(idle)*time.Second, time.Duration(interval)*time.Second
	c.Count, err = getInt(fd, windows.IPPROTO_TCP, "TCP_KEEPCNT", windows.TCP_KEEPCNT)
	return c, err
}

func setInt(fd uintptr, level int, name string, number, value int) error {
	if err := windows.SetsockoptInt(windows.Handle(fd), level, number, value); err != nil {
		return fmt.Errorf("keepalive: setting %s to %d: %w", name, value, err)
	}
	return nil
}

func getInt(fd uintptr, level int, name string, number int) (int, error) {
	n, err := windows.GetsockoptInt(windows.Handle(fd), level, number)
	if err != nil {
		return 0, fmt.Errorf("keepalive: reading %s: %w", name, err)
	}
	return int(int32(n)), nil // the call fills 32 bits, and TCP_MAXRT is signed
}
