package conformance

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance/fault"
)

// sharedLoop stands for a cluster that several cases share. It starts goroutines, which
// start others, while a case runs.
func sharedLoop(start <-chan struct{}, started chan<- struct{}, end <-chan struct{}) {
	started <- struct{}{}
	<-start
	go func() {
		go func() {
			started <- struct{}{}
			<-end
		}()
		<-end
	}()
	<-end
}

// TestLeakedDistinguishesSharedGoroutines checks that goroutines of a shared cluster that
// start during a case are ignored, and that those of the case are not.
func TestLeakedDistinguishesSharedGoroutines(t *testing.T) {
	start, started, end := make(chan struct{}), make(chan struct{}), make(chan struct{})
	defer close(end)
	go sharedLoop(start, started, end)
	<-started
	shared := []string{"conformance.sharedLoop"}
	before := goroutines()
	start <- struct{}{}
	<-started
	require.Empty(t, leaked(before, false, nil, shared))
	require.Len(t, leaked(before, false, nil, nil), 2)

	go func() { <-end }()
	left := leaked(before, false, nil, shared)
	require.Len(t, left, 1)
	require.Contains(t, left[0], "TestLeakedDistinguishesSharedGoroutines")
}

// TestStarterOfProcessesIsNoLeak checks that the thread that starts the suite's child
// processes, and that never ends, is attributed to no store.
func TestStarterOfProcessesIsNoLeak(t *testing.T) {
	before := goroutines()
	p, err := fault.StartProcess(exec.CommandContext(t.Context(), "sleep", "60"))
	require.NoError(t, err)
	p.Kill()
	require.Empty(t, leaked(before, false, nil, nil))
}
