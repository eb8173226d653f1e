package fault

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// The death signal of a child is sent when the thread that started it ends, not the
// process. So one thread, which never ends, starts all children.
var starter = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

func start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	result := make(chan error)
	starter() <- func() { result <- cmd.Start() }
	return <-result
}

func freeze(pid int) error {
	if err := syscall.Kill(-pid, syscall.SIGSTOP); err != nil {
		return fmt.Errorf("fault: cannot stop process %d: %w", pid, err)
	}
	for began := time.Now(); time.Since(began) < freezeLimit; time.Sleep(time.Millisecond) {
		if stopped(pid) {
			return nil
		}
	}
	_ = syscall.Kill(-pid, syscall.SIGCONT) // the stopped threads continue
	return fmt.Errorf("fault: process %d does not stop", pid)
}

// stopped reports whether every thread of pid is stopped.
func stopped(pid int) bool {
	files, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/stat")
	for _, f := range files {
		stat, err := os.ReadFile(f) //nolint:gosec // G304: a path of this package under /proc
		if err != nil {
			continue // that thread has ended
		}
		i := bytes.LastIndexByte(stat, ')')
		if i < 0 || i+2 >= len(stat) || (stat[i+2] != 'T' && stat[i+2] != 't') {
			return false
		}
	}
	return len(files) > 0
}
