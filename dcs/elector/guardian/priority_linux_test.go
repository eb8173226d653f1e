package guardian

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// The child has real-time priority if the process may set it, and its command has not.
func TestChildHasPriority(t *testing.T) {
	permitted := make(chan bool)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		permitted <- setPriority(0, unix.SCHED_RR, 1) == nil
	}()
	want := uint32(unix.SCHED_NORMAL)
	if <-permitted {
		want = unix.SCHED_RR
	}
	file := filepath.Join(t.TempDir(), "stat")
	g := open(t, Options{Command: []string{"sh", "-c", `cat /proc/self/stat >"$0.new"; mv "$0.new" "$0"`, file}})
	pid, _ := childOf(t, g)
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	noError(t, err)
	must(t, len(tasks) > 1, "one thread only")
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		noError(t, err)
		got, err := unix.SchedGetAttr(tid, 0)
		noError(t, err)
		must(t, got.Policy == want, "wrong policy of a thread", got.Policy, want)
	}
	noError(t, g.Arm(dcs.Now()))
	eventually(t, func() bool { _, err := os.Stat(file); return err == nil })
	stat, err := os.ReadFile(file)
	noError(t, err)
	const policy = 41 - 3 // see proc_pid_stat(5); the name of the program and the fields before it are cut
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	must(t, len(fields) > policy && fields[policy] == fmt.Sprint(unix.SCHED_NORMAL), "wrong policy of the command", fields)
}
