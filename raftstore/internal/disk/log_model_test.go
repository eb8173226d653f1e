package disk_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
)

// logModel is the required content of a log.
type logModel struct {
	entries map[uint64]string
	last    uint64
	front   uint64 // entries up to here may be gone
}

func (m logModel) clone() logModel {
	m.entries = maps.Clone(m.entries)
	return m
}

// mismatch returns how the log differs, or "".
func (m logModel) mismatch(l *disk.Log) string {
	first, last := l.First(), l.Last()
	if m.last == m.front && last == 0 {
		if end := l.End().Index; end != m.last {
			return fmt.Sprintf("empty up to entry %d, want %d", end, m.last)
		}
		return ""
	}
	if first == 0 || first > m.front+1 || last != m.last {
		return fmt.Sprintf("entries from %d to %d, want from at most %d to %d", first, last, m.front+1, m.last)
	}
	for i := first; i <= last; i++ {
		var e raft.Log
		if err := l.Get(i, &e); err != nil {
			return fmt.Sprintf("entry %d: %v", i, err)
		}
		if text(&e) != m.entries[i] || e.Index != i {
			return fmt.Sprintf("entry %d is %q, want %q", i, text(&e), m.entries[i])
		}
	}
	return ""
}

// logStep is one change of a log and of its model.
type logStep struct {
	name string
	do   func(l *disk.Log) error
	want func(m *logModel)
}

// logSteps makes steps. The data of each entry occur once.
type logSteps struct{ term uint64 }

func (s *logSteps) append(m logModel, n, size int) logStep {
	s.term++
	list := logEntries(m.last+1, m.last+uint64(n), s.term, size)
	return logStep{
		fmt.Sprintf("append %d to %d", m.last+1, m.last+uint64(n)),
		func(l *disk.Log) error { return l.Append(list) },
		func(m *logModel) {
			for _, e := range list {
				m.entries[e.Index] = text(e)
			}
			m.last += uint64(n)
		},
	}
}

func (s *logSteps) cutBack(from uint64) logStep {
	return logStep{
		fmt.Sprintf("cut back from %d", from),
		func(l *disk.Log) error { return l.CutBack(from) },
		func(m *logModel) { m.last = min(m.last, from-1); m.front = min(m.front, m.last) },
	}
}

func (s *logSteps) cutFront(upTo uint64) logStep {
	return logStep{
		fmt.Sprintf("cut up to %d", upTo),
		func(l *disk.Log) error { return l.CutFront(upTo) },
		func(m *logModel) { m.front = max(m.front, upTo) },
	}
}

func (s *logSteps) cutAll(index uint64) logStep {
	s.term++
	term := s.term
	return logStep{
		fmt.Sprintf("cut all to %d", index),
		func(l *disk.Log) error { return l.CutAll(index, term) },
		func(m *logModel) { m.front, m.last = index, index },
	}
}

// logWorld is a log on a disk, with its required content.
type logWorld struct {
	t     *testing.T
	files *disktest.FS
	log   *disk.Log
	model logModel
	mark  disk.LogEnd
	name  string
}

func newLogWorld(t *testing.T, name string) *logWorld {
	w := &logWorld{t: t, files: disktest.New(), name: name, model: logModel{entries: map[uint64]string{}}}
	require.NoError(t, w.open())
	return w
}

func (w *logWorld) options() disk.LogOptions {
	o := logOptions(w.files)
	o.Mark, o.KeepEntries, o.KeepBytes = w.mark, 6, 1500
	return o
}

func (w *logWorld) open() (err error) {
	w.log, _, err = disk.OpenLog(w.options())
	return err
}

// do does a step, which must succeed.
func (w *logWorld) do(s logStep) {
	w.t.Helper()
	require.NoError(w.t, s.do(w.log), "%s: %s", w.name, s.name)
	s.want(&w.model)
	w.check()
}

func (w *logWorld) check() {
	w.t.Helper()
	require.Empty(w.t, w.model.mismatch(w.log), w.name)
}

// restart opens the log in the rest of the files. It holds the content of the
// model, or that after pending.
func (w *logWorld) restart(files *disktest.FS, pending *logStep) {
	w.t.Helper()
	w.files.Halt()
	if w.log != nil {
		_ = w.log.Close()
	}
	w.files = files
	require.NoError(w.t, w.open(), w.name)
	if pending != nil && w.model.mismatch(w.log) != "" {
		pending.want(&w.model)
	}
	w.check()
}

// script returns steps that meet every operation of a log.
func script() []func(m logModel) logStep {
	s := &logSteps{}
	add := func(n, size int) func(logModel) logStep {
		return func(m logModel) logStep { return s.append(m, n, size) }
	}
	back := func(n uint64) func(logModel) logStep {
		return func(m logModel) logStep { return s.cutBack(m.last - n + 1) }
	}
	front := func(keep uint64) func(logModel) logStep {
		return func(m logModel) logStep { return s.cutFront(m.last - keep) }
	}
	return []func(logModel) logStep{
		add(3, 150), add(1, 0), add(2, 300), back(1), add(2, 200), add(1, 400), back(4), add(3, 100),
		front(2), add(3, 700), front(1), add(1, 300), front(0), add(2, 10), back(2), add(4, 200),
		func(m logModel) logStep { return s.cutAll(m.last + 10) }, add(2, 500), front(1), add(1, 900),
	}
}

// TestCrashAtEachOperation loses power before each operation of the script, and
// before each one of the start after that.
func TestCrashAtEachOperation(t *testing.T) {
	seeds := seedsOf(6, 12)
	for k := 1; ; k++ {
		w := newLogWorld(t, fmt.Sprintf("operation %d", k))
		w.files.HaltAt(disktest.Nth(k, disktest.Any(disktest.Changes()...)))
		var pending *logStep
		for i, next := range script() {
			step := next(w.model)
			if step.do(w.log) != nil {
				pending = &step
				break
			}
			step.want(&w.model)
			if i%3 == 0 {
				w.mark = w.log.End()
			}
		}
		if pending == nil && k > 1 && !halted(w.files) {
			require.NoError(t, w.log.Close())
			require.Greater(t, k, 60)
			return
		}
		for seed := range seeds {
			after := *w
			after.model = w.model.clone()
			after.name = fmt.Sprintf("operation %d, seed %d", k, seed)
			after.restart(w.files.Crash(seed), pending)
			after.do((&logSteps{term: 1000}).append(after.model, 3, 200))
			require.NoError(t, after.log.Close())
		}
		w.crashWhileOpening(pending)
	}
}

// crashWhileOpening loses power before each operation of a start.
func (w *logWorld) crashWhileOpening(pending *logStep) {
	base := w.files
	for j := 1; ; j++ {
		again := *w
		again.model = w.model.clone()
		again.name = fmt.Sprintf("%s, then operation %d", w.name, j)
		again.files = base.Crash(uint64(j)*7 + 3)
		again.files.HaltAt(disktest.Nth(j, disktest.Any(disktest.Changes()...)))
		if again.open() == nil {
			require.NoError(w.t, again.log.Close())
			return
		}
		again.restart(again.files.Crash(uint64(j)), pending)
		require.NoError(w.t, again.log.Close())
	}
}

func halted(f *disktest.FS) bool {
	_, err := f.List("/")
	return errors.Is(err, disktest.ErrHalted)
}

// TestLogAgainstModel does random steps with crashes, kills and faults.
func TestLogAgainstModel(t *testing.T) {
	for seed := range seedsOf(700, 3000) {
		runLogModel(t, seed)
	}
}

func runLogModel(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	w := newLogWorld(t, fmt.Sprintf("seed %d", seed))
	s := &logSteps{}
	for range 20 {
		step := randomStep(s, w.model, random)
		switch random.IntN(8) {
		case 0:
			w.fault(step, random)
		case 1:
			w.crash(step, random)
		case 2:
			files := w.files.Kill()
			w.restart(files, nil)
		case 3:
			require.NoError(t, w.log.Close())
			require.NoError(t, w.open(), w.name)
			w.check()
		default:
			w.do(step)
		}
		if random.IntN(3) == 0 {
			w.mark = w.log.End()
		}
	}
	require.NoError(t, w.log.Close())
	require.Empty(t, w.files.OpenFiles(), w.name)
}

func randomStep(s *logSteps, m logModel, random *rand.Rand) logStep {
	switch held := int(m.last - m.front); {
	case held > 0 && random.IntN(5) == 0:
		return s.cutBack(m.front + 1 + uint64(random.IntN(held)))
	case held > 0 && random.IntN(4) == 0:
		return s.cutFront(m.front + 1 + uint64(random.IntN(held)))
	case random.IntN(15) == 0:
		return s.cutAll(m.last + uint64(random.IntN(10)))
	default:
		return s.append(m, 1+random.IntN(4), random.IntN(500))
	}
}

var faults = []error{syscall.EIO, syscall.ENOSPC, syscall.EROFS, syscall.EMFILE}

// fault lets operations of a step and of its repairs fail.
func (w *logWorld) fault(step logStep, random *rand.Rand) {
	for range 1 + random.IntN(4) {
		stop := w.files.Fail(disktest.Nth(1+random.IntN(8), disktest.Any()), faults[random.IntN(len(faults))])
		err := step.do(w.log)
		stop()
		if err == nil {
			step.want(&w.model)
			w.check()
			return
		}
		w.check()
		if random.IntN(4) == 0 { // without a repair
			w.restart(w.files.Crash(random.Uint64N(50)), &step)
			return
		}
		if random.IntN(4) == 0 {
			w.restart(w.files.Kill(), &step)
			w.restart(w.files.Crash(random.Uint64N(50)), nil)
			return
		}
		stop = w.files.Fail(disktest.Nth(1+random.IntN(30), disktest.Any()), faults[random.IntN(len(faults))])
		for w.log.Repair() != nil {
		}
		stop()
		w.check()
	}
	w.do(step)
}

// crash loses power during a step.
func (w *logWorld) crash(step logStep, random *rand.Rand) {
	w.files.HaltAt(disktest.Nth(1+random.IntN(6), disktest.Any()))
	pending := &step
	if step.do(w.log) == nil {
		step.want(&w.model)
		pending = nil
	}
	w.restart(w.files.Crash(random.Uint64N(50)), pending)
}
