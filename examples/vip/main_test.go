//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance/fault"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
)

const (
	playing  = "HOLDFAST_VIP_PLAY"
	ttl      = 3 * time.Second
	password = "secret"
)

// TestMain lets the test binary play the daemon.
func TestMain(m *testing.M) {
	if os.Getenv(playing) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// The commands of the tests. The address of a member is the file address-NAME. A
// promotion that finds another address writes a line into the file conflicts. A
// demotion hangs while the file hang exists.
const (
	promoteScript = `cd "$DIR"
for other in address-*; do
	if [ -e "$other" ]; then echo "$other" >> conflicts; fi
done
echo "$HOLDFAST_TOKEN" > "address-$HOLDFAST_NAME"`
	demoteScript = `cd "$DIR"
if [ -e hang ]; then sleep 100 & echo $! > hung; wait; fi
rm -f "address-$HOLDFAST_NAME"`
	checkScript = `test -e "$DIR/address-$HOLDFAST_NAME"`
	fenceScript = `cd "$DIR"
echo "$HOLDFAST_NAME $HOLDFAST_DEADLINE_SECONDS $HOLDFAST_REASON" > fenced
rm -f "address-$HOLDFAST_NAME"`
)

// scene is three daemons, each with a node of the embedded store.
type scene struct {
	*testing.T
	dir     string
	daemons []*daemon
}

// daemon is one member, which runs or not.
type daemon struct {
	*fault.Process
	name, api, url string
}

func newScene(t *testing.T) *scene {
	s := &scene{T: t, dir: t.TempDir()}
	addrs, err := fault.FreeAddrs(t.Context(), 6)
	require.NoError(t, err)
	peers := fmt.Sprintf("a=%s,b=%s,c=%s", addrs[0], addrs[1], addrs[2])
	for i, name := range []string{"a", "b", "c"} {
		url := fmt.Sprintf("raft://%s?id=%s&root=demo&listen=%s&peers=%s", filepath.Join(s.dir, "store-"+name), name, addrs[i], peers)
		s.daemons = append(s.daemons, &daemon{name: name, api: addrs[3+i], url: url})
	}
	t.Cleanup(func() {
		for _, d := range s.daemons {
			if out, err := os.ReadFile(s.path("stderr-" + d.name)); err == nil && t.Failed() {
				t.Logf("member %s:\n%s", d.name, out)
			}
		}
	})
	return s
}

func (s *scene) path(name string) string { return filepath.Join(s.dir, name) }

func (s *scene) exists(name string) bool {
	_, err := os.Stat(s.path(name))
	return err == nil
}

func (s *scene) read(name string) string {
	text, err := os.ReadFile(s.path(name))
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(s, err)
	}
	return strings.TrimSpace(string(text))
}

func (s *scene) start(d *daemon) {
	s.Helper()
	exe, err := os.Executable()
	require.NoError(s, err)
	cmd := exec.CommandContext(context.WithoutCancel(s.Context()), exe, "-store", d.url, "-scope", "web", "-name", d.name, "-listen", d.api, "-ttl", ttl.String(),
		"-promote", promoteScript, "-demote", demoteScript, "-check", checkScript, "-fence", fenceScript)
	cmd.Env = append(os.Environ(), playing+"=1", "DIR="+s.dir, passwordEnv+"="+password)
	cmd.Stderr, err = os.OpenFile(s.path("stderr-"+d.name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(s, err)
	d.Process, err = fault.StartProcess(cmd)
	require.NoError(s, err)
	s.Cleanup(d.Kill)
}

// until waits for a condition.
func (s *scene) until(what string, ok func() bool) {
	s.Helper()
	require.Eventually(s, ok, 20*time.Second, 20*time.Millisecond, what)
}

// get returns the status and the body of a check, 0 if the daemon does not answer.
func (s *scene) get(d *daemon, path string) (int, string) {
	req, err := http.NewRequestWithContext(s.Context(), http.MethodGet, "http://"+d.api+path, nil)
	require.NoError(s, err)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, ""
	}
	return resp.StatusCode, string(text)
}

func (s *scene) status(d *daemon, path string) int {
	code, _ := s.get(d, path)
	return code
}

// leader waits until one member leads, none of those in not, and all others follow it.
func (s *scene) leader(of []*daemon, not ...*daemon) (leader *daemon) {
	s.Helper()
	s.until("a leader, and the others follow", func() bool {
		leader = nil
		for _, d := range of {
			switch {
			case s.status(d, "/primary") == http.StatusOK:
				leader = d
			case s.status(d, "/replica") != http.StatusOK:
				return false
			}
		}
		return leader != nil && !slices.Contains(not, leader)
	})
	for _, d := range of {
		require.Equal(s, d == leader, s.exists("address-"+d.name), "the address of %s, while %s leads", d.name, leader.name)
		require.Equal(s, http.StatusOK, s.status(d, "/liveness"))
	}
	return leader
}

// without returns the daemons but d.
func (s *scene) without(d *daemon) []*daemon {
	return slices.DeleteFunc(slices.Clone(s.daemons), func(o *daemon) bool { return o == d })
}

func (s *scene) terminate(d *daemon) {
	s.Helper()
	require.NoError(s, syscall.Kill(d.Pid(), syscall.SIGTERM))
	select {
	case <-d.Done():
	case <-time.After(20 * time.Second):
		s.Fatalf("member %s has not ended after SIGTERM", d.name)
	}
	require.NoError(s, d.Err(), "the exit status")
	require.False(s, s.exists("address-"+d.name), "member %s has ended and has kept the address", d.name)
}

// TestVIP plays an election, a switchover, a SIGTERM, a kill -9, and a demotion that
// hangs.
func TestVIP(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for _, d := range s.daemons {
		s.start(d)
	}
	first := s.leader(s.daemons)
	token, err := strconv.ParseUint(s.read("address-"+first.name), 10, 64)
	require.NoError(t, err)
	require.Positive(t, token)

	second := s.without(first)[0]
	handover := fmt.Sprintf(`{"leader":%q,"candidate":%q}`, first.name, second.name)
	require.Equal(t, http.StatusUnauthorized, s.change(first, http.MethodPost, "/switchover", handover, "wrong"))
	require.Equal(t, http.StatusOK, s.change(first, http.MethodPost, "/switchover", handover, password))
	require.Same(t, second, s.leader(s.daemons))

	s.pause(second, "true")
	for _, note := range []string{"1", "2", "null"} { // time for a keeper record, if the leader wrote one
		require.Equal(t, http.StatusOK, s.change(second, http.MethodPatch, "/config", `{"note":`+note+`}`, password))
	}
	s.terminate(second) // in a pause, too, the address ends with the daemon
	began := time.Now()
	s.pause(first, "null")
	s.leader(s.without(second))
	t.Logf("led after the pause within %v", time.Since(began))
	s.start(second)
	third := s.leader(s.daemons)

	began = time.Now()
	third.Kill()
	s.leader(s.without(third))
	t.Logf("failed over after kill -9 within %v", time.Since(began))
	require.Equal(t, "address-"+third.name, s.read("conflicts"), "the one that was killed could not remove its address; nothing else may conflict")
	require.True(t, s.exists("address-"+third.name))
	s.start(third)
	fourth := s.leader(s.daemons)
	require.False(t, s.exists("address-"+third.name), "removed at the start")

	require.NoError(t, os.WriteFile(s.path("hang"), nil, 0o600))
	s.terminate(fourth)
	s.leader(s.without(fourth))
	fields := strings.SplitN(s.read("fenced"), " ", 3)
	require.Equal(t, fourth.name, fields[0])
	require.Equal(t, elector.CauseShutdown.String(), fields[2])
	limit, err := strconv.ParseFloat(fields[1], 64)
	require.NoError(t, err)
	require.Greater(t, limit, 0.0)
	require.LessOrEqual(t, limit, (ttl / 12).Seconds())
	requireEnded(t, s.path("hung"))
	require.Equal(t, "address-"+third.name, s.read("conflicts"))
}

// change requests a change of the cluster and returns the status of the answer.
func (s *scene) change(d *daemon, method, path, body, password string) int {
	s.Helper()
	req, err := http.NewRequestWithContext(s.Context(), method, "http://"+d.api+path, strings.NewReader(body))
	require.NoError(s, err)
	req.SetBasicAuth("admin", password)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(s, err)
	text, err := io.ReadAll(resp.Body)
	require.NoError(s, err)
	resp.Body.Close()
	s.Logf("%s: %d %s", path, resp.StatusCode, bytes.TrimSpace(text))
	return resp.StatusCode
}

// pause begins or ends a pause, and waits until the daemon that was asked knows.
func (s *scene) pause(d *daemon, value string) {
	s.Helper()
	require.Equal(s, http.StatusOK, s.change(d, http.MethodPatch, "/config", `{"pause":`+value+`}`, password))
	s.until("the pause is known", func() bool {
		code, text := s.get(d, "/patroni")
		return code != 0 && strings.Contains(text, `"pause":true`) == (value == "true")
	})
}

// ended reports whether a process has ended. One that nobody waits for is a zombie.
func ended(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && bytes.Contains(stat, []byte(") Z "))
}

func TestMistakesAreNamed(t *testing.T) {
	good := []string{"-store", "nosuch://x/y", "-name", "a", "-promote", "true", "-demote", "true", "-listen", "127.0.0.1:0"}
	for want, args := range map[string][]string{
		"-store is mandatory":   {"-name", "a"},
		"-demote is mandatory":  {"-store", "x", "-name", "a", "-promote", "true"},
		"-api is mandatory":     append(good[:len(good):len(good)], "-listen", ":8008"),
		"scheme":                good,
		"printable ASCII":       append(good[:len(good):len(good)], "-name", "a/b"),
		"cannot begin as a rep": append(good[:len(good):len(good)], "-demote", "exit 3"),
	} {
		require.ErrorContains(t, run(t.Context(), args), want)
	}
}
