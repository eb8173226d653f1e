package testcluster

import (
	_ "embed"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// clockSource is the source of a library that is preloaded into servers that are not
// written in Go. libfaketime is not used because it keeps the threads of a JVM spinning.
//
//go:embed clock/clock.c
var clockSource []byte

// clockLibrary builds the library once in a process and returns its path. It returns ""
// if there is no C compiler or no library can be preloaded.
var clockLibrary = sync.OnceValue(func() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	dir := filepath.Join(cache, "holdfast", "clock")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return ""
	}
	work, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return ""
	}
	defer os.RemoveAll(work)
	source, built, lib := filepath.Join(work, "clock.c"), filepath.Join(work, "clock.so"), filepath.Join(dir, "clock.so")
	if os.WriteFile(source, clockSource, 0o600) != nil {
		return ""
	}
	if exec.Command("cc", "-shared", "-fPIC", "-O2", "-o", built, source, "-ldl").Run() != nil { //nolint:gosec // G204: our own file
		return ""
	}
	if os.Rename(built, lib) != nil {
		return ""
	}
	return lib
})

// CanStepClocks reports whether StepClocks works for the servers of ZooKeeper.
func CanStepClocks() bool { return clockLibrary() != "" }

// StepClocks moves the wall clock of every server that is not written in Go.
func (c *Cluster) StepClocks(by time.Duration) error {
	for _, s := range c.Servers() {
		s.mu.Lock()
		s.off += by
		off := s.off
		s.mu.Unlock()
		if err := s.stepClock(off); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) clock() string { return filepath.Join(s.dir, "clock") }

// stepClock writes the offset into the file that the server's process has mapped.
func (s *Server) stepClock(off time.Duration) error {
	f, err := os.OpenFile(s.clock(), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(int64(off.Seconds()))), 0)
	return err
}
