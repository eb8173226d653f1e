package guardian

import (
	"io"
	"os"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// The bytes that a device gets: one for each keepalive, and the letter that stops it.
func TestDeviceFile(t *testing.T) {
	r, w, err := os.Pipe()
	noError(t, err)
	f := file{w}
	_, err = f.setTimeout(10)
	errorContains(t, err, "10 s cannot be set")
	noError(t, f.keepalive())
	noError(t, f.disarm())
	got, err := io.ReadAll(r)
	noError(t, err)
	must(t, string(got) == "\x00V", "wrong bytes", got)
}

func TestNoWatchdog(t *testing.T) {
	w, err := OpenWatchdog(WatchdogOptions{Path: os.DevNull})
	noError(t, err)
	errorContains(t, w.Arm(dcs.Now().Add(time.Hour)), "/dev/null is no watchdog")
}
