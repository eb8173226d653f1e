// Package guardian stops a service when its manager cannot: because the manager is
// stopped, swapped out or killed, or hangs.
//
// An elector demotes and fences its service in time, but only while its own process
// runs. A process that is stopped (SIGSTOP, a debugger, memory that is swapped out)
// does nothing, and its service goes on as primary when another member leads already. A
// process that is killed leaves its service behind. A guardian ends the service from
// outside the process:
//
//	g, err := guardian.New(guardian.Options{Logger: log})
//	if err != nil {
//		return err
//	}
//	err = elector.Run(ctx, elector.Config{
//		Store: store, Scope: "pg", Name: "a", Service: &database{guardian: g}, Guardian: g,
//	})
//
// The service gives it the process group that is to be killed, each time that it starts
// one, and before that becomes primary:
//
//	cmd := exec.Command("postgres", "-D", data)
//	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
//	if err := cmd.Start(); err != nil {
//		return err
//	}
//	if err := g.SetGroup(cmd.Process.Pid); err != nil {
//		return err
//	}
//	// promote it now
//
// # When it fires
//
// The elector arms the guardian before Promote and disarms it after Demote or Fence has
// returned nil. In between the guardian gets each new deadline. It fires
//
//   - half of FenceTimeout before the deadline (elector.Table.Guardian), if no later
//     deadline has arrived by then: the manager is stopped or hangs, and so do Demote,
//     Fence and Exit (TestFiresAtTheDeadline, TestGuardianProcess in package elector);
//   - at once when the manager's process ends, for any reason (TestParentDies). A manager
//     that is to be upgraded without a stop of its service must first hand over or stop.
//
// A manager that runs on finds that in [Guardian.Fired], and its next Extend returns
// [ErrFired] (TestExtendAfterFiring). An elector demotes then, and may lead again
// (TestGuardianFiredUnnoticed in package elector).
//
// The child kills the process group with SIGKILL and then runs [Options.Command], if there is
// one. Use a command for a service that is no process group, such as an address that
// must be removed from an interface. A process that has left its group, as daemons do, is
// not killed.
//
// # The child process
//
// A [Guardian] is a small process of the same program, which needs no other file. It
// runs before the program's main function and never reaches it. It shares a pipe with
// its parent, over which it also gets the command, so that its command line in ps is only
// holdfast-guardian (TestCommandIsNotShown). The arguments of the command are visible to every
// user of the machine WHILE THE COMMAND RUNS: a secret must not be one of them. The child
// needs no network, allocates a fixed amount of memory (TestChildIsSmall), and has a process
// group of its own in the session of the manager (TestChildHasAGroup), so that signals to the
// manager's group do not reach it. On Linux it locks its memory, asks not to be ended when
// memory is short, and has real-time priority (SCHED_RR 1), so that a busy machine does not
// delay it, as far as the process has the right to (TestChildHasPriority).
//
// Its deadlines are instants of CLOCK_BOOTTIME, which goes on while the machine is
// suspended. If the child was stopped itself, it reads all messages that have arrived
// before it looks at its clock (TestLateMessagesCount). A child that dies or hangs is
// replaced (TestReplaced). A member whose guardian cannot be armed is not promoted; if a
// child cannot be replaced later, the member goes on to lead, unguarded, and logs that at
// each renewal.
//
// The number of a process may be used again. On Linux the child holds a descriptor of the
// group's leader, so that it kills no other group (TestGroupIsTheOneThatWasGiven). With a
// kernel before 6.9 it compares the start time of the leader instead.
//
// # A watchdog device
//
// A [Watchdog] is a device of the machine, /dev/watchdog on Linux, that resets the machine
// when it gets no keepalive. It also helps when the kernel hangs, and where the child could
// not kill the service. It is armed, extended and disarmed like a Guardian:
//
//	w, err := guardian.OpenWatchdog(guardian.WatchdogOptions{Timeout: 10 * time.Second})
//
// Keepalives are sent until the device would reset the machine later than the deadline
// (TestWatchdogResetsAtTheInstant). A deadline that moves back by the loss of the lock
// cannot shorten a keepalive: the reset then comes up to Timeout after the last one. The
// device is open only while the member leads. A device that cannot be stopped, because of
// nowayout, is refused. Use the softdog driver where the machine has no device.
//
// # Systems
//
// The Guardian needs process groups: it works on Linux, the BSDs, macOS, illumos, Solaris
// and AIX, and New returns an error on the others. Outside Linux the child reads its clock 10
// times a second, a suspended machine is noticed after that, deadlines are early by the time
// that the child took to answer once, and a process group whose number was used again is not
// distinguished. It was tested on Linux. The Watchdog exists on Linux only.
//
// # Limits
//
// A service that was started and is primary before SetGroup is not guarded in between:
// start it as a replica. A manager in one control group with its service is stopped together
// with it by systemd; the child is part of that group, too. A process in an uninterruptible
// wait, such as a disk that hangs, ends only when that wait does: only a watchdog helps.
package guardian
