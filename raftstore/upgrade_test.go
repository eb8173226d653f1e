package raftstore

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance/fault"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// orderedURL is the environment in which TestOrderedNode is a node.
const orderedURL = "HOLDFAST_RAFTSTORE_ORDERED_NODE"

// answerMark begins the lines with which a node answers orders.
const answerMark = "answer: "

// TestOrderedNode is a node in a process of its own. It executes the lines of its
// standard input until that ends. They are "put KEY", "revoke", which grants a lease and
// revokes it, and "add ID ADDR", which makes a node a voter.
func TestOrderedNode(t *testing.T) {
	url := os.Getenv(orderedURL)
	if url == "" {
		t.Skip("not a node of TestUpgrade")
	}
	ctx := context.Background()
	store, err := dcs.Open(ctx, url, dcs.Options{Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	require.NoError(t, err)
	defer store.Close()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		answer := "done"
		if err := obey(ctx, store, lines.Text()); err != nil {
			answer = strings.ReplaceAll(err.Error(), "\n", " ")
		}
		fmt.Println(answerMark + answer)
	}
}

func obey(ctx context.Context, store *dcs.Store, order string) error {
	if key, ok := strings.CutPrefix(order, "put "); ok {
		_, err := store.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put(key, nil)}})
		return err
	}
	if node, ok := strings.CutPrefix(order, "add "); ok {
		id, addr, _ := strings.Cut(node, " ")
		return store.Unwrap().(*Backend).Membership().AddVoter(ctx, id, addr)
	}
	lease, _, err := store.Grant(ctx, 10*time.Second)
	if err != nil {
		return fmt.Errorf("grant: %w", err)
	}
	return lease.Revoke(ctx)
}

// orderedNode is a process that runs TestOrderedNode.
type orderedNode struct {
	t       *testing.T
	url     string
	proc    *fault.Process
	orders  io.Writer
	answers *bufio.Scanner
	log     *testcluster.Log
}

// start starts it with that test binary; one that runs is ended first.
func (n *orderedNode) start(exe string) {
	if n.proc != nil {
		n.proc.Kill()
	}
	cmd := exec.CommandContext(context.Background(), exe, "-test.run=^TestOrderedNode$", "-test.count=1")
	cmd.Env = append(os.Environ(), orderedURL+"="+n.url)
	n.log = &testcluster.Log{}
	cmd.Stderr = n.log
	orders, err := cmd.StdinPipe() // open for as long as this process lives
	require.NoError(n.t, err)
	answers, into := io.Pipe() // Process waits for the command, which closes a StdoutPipe
	cmd.Stdout = into
	n.orders, n.answers = orders, bufio.NewScanner(answers)
	proc, err := fault.StartProcess(cmd)
	require.NoError(n.t, err)
	go func() { // until the process ends
		<-proc.Done()
		into.Close()
	}()
	n.proc = proc
	n.t.Cleanup(proc.Kill)
}

// do gives an order and returns the answer.
func (n *orderedNode) do(order string) string {
	n.t.Helper()
	_, err := fmt.Fprintln(n.orders, order)
	require.NoError(n.t, err)
	for n.answers.Scan() {
		if answer, ok := strings.CutPrefix(n.answers.Text(), answerMark); ok {
			return answer
		}
	}
	n.t.Fatalf("the node ended:\n%s", n.log)
	return ""
}

// eventually repeats an order until it is done.
func (n *orderedNode) eventually(order string) {
	n.t.Helper()
	var answer string
	for begun := time.Now(); time.Since(begun) < 30*time.Second; {
		if answer = n.do(order); answer == "done" {
			return
		}
	}
	n.t.Fatalf("%s: %s\n%s", order, answer, n.log)
}

// refused repeats an order until it is refused with one of these texts. While the
// leadership changes, there may be other reasons.
func (n *orderedNode) refused(order string, texts ...string) {
	n.t.Helper()
	var answer string
	for begun := time.Now(); time.Since(begun) < 30*time.Second; {
		answer = n.do(order)
		require.NotEqual(n.t, "done", answer)
		for _, text := range texts {
			if strings.Contains(answer, "command refused: ") && strings.Contains(answer, text) {
				return
			}
		}
	}
	n.t.Fatalf("%s: %s\n%s", order, answer, n.log)
}

// buildRelease builds this package's test binary as the next release would be:
// it understands one level more, and revokes leases in a form of that level.
func buildRelease(t *testing.T) string {
	t.Helper()
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("the go tool is needed to build another release: ", err)
	}
	dir := t.TempDir()
	file, err := filepath.Abs("internal/state/level.go")
	require.NoError(t, err)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	source := string(b)
	for old, replacement := range map[string]string{
		fmt.Sprintf("const Level = %d\n", state.Level): fmt.Sprintf("const Level = %d\n", state.Level+1),
		"func (k Kind) level() byte { return 1 }":      fmt.Sprintf("func (k Kind) level() byte {\n\tif k == KindRevoke {\n\t\treturn %d\n\t}\n\treturn 1\n}", state.Level+1),
	} {
		require.Equal(t, 1, strings.Count(source, old), old)
		source = strings.Replace(source, old, replacement, 1)
	}
	changed := filepath.Join(dir, "level.go")
	require.NoError(t, os.WriteFile(changed, []byte(source), 0o600)) //nolint:gosec // G703: a file of this test
	b, err = json.Marshal(map[string]any{"Replace": map[string]string{file: changed}})
	require.NoError(t, err)
	overlay := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(overlay, b, 0o600))

	exe := filepath.Join(dir, "next.test.exe")
	args := []string{"test", "-c", "-vet=off", "-overlay=" + overlay, "-o", exe}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "-race" && s.Value == "true" {
				args = append(args, "-race") // its dependencies are compiled already
			}
		}
	}
	out, err := exec.CommandContext(t.Context(), goTool, append(args, ".")...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return exe
}

// TestUpgrade runs two releases together, node by node, and then takes one node
// back. A command of the new release is refused while a node of the old one is
// left, and all other commands succeed. The node that is taken back stops with an error.
func TestUpgrade(t *testing.T) {
	parallel(t)
	next := buildRelease(t)
	present, err := os.Executable()
	require.NoError(t, err)
	var nodes []*orderedNode
	configs := clusterConfigs(t, 3)
	for _, c := range configs {
		suiteConfig(&c, suiteTiming)
		c.HeartbeatTimeout = 200 * time.Millisecond
		nodes = append(nodes, &orderedNode{t: t, url: urlOf(c)})
	}
	for _, n := range nodes {
		n.start(present)
	}
	for _, n := range nodes {
		n.eventually("put first")
		n.eventually("revoke")
	}
	last := nodes[len(nodes)-1]
	for _, n := range nodes[:len(nodes)-1] {
		n.start(next)
		n.eventually("put upgraded")
		// A leader of the old release refuses it too, as unreadable.
		n.refused("revoke", "format version 2 and this release reads up to 1", "feature level 2: the cluster stays at level 1")
		for _, n := range nodes {
			n.eventually("put mixed")
		}
		last.eventually("revoke") // in the form of its release
	}
	// A leader of the new release knows that one of the old one is left. One of
	// the new release leads while that node is down, and as a rule goes on.
	answer := ""
	for begun := time.Now(); !strings.Contains(answer, "feature level 2: the cluster stays at level 1 until every node"); {
		require.Less(t, time.Since(begun), time.Minute, answer)
		last.proc.Kill()
		nodes[0].eventually("put without")
		last.start(present)
		last.eventually("put again")
		answer = nodes[0].do("revoke")
		require.NotEqual(t, "done", answer)
	}
	for _, n := range nodes {
		n.eventually("put mixed")
	}
	last.start(next)
	for _, n := range nodes {
		n.eventually("revoke")
	}

	back := nodes[0]
	back.start(present)
	require.Eventually(t, func() bool { return strings.Contains(back.log.String(), "state=failed") }, 20*time.Second, 10*time.Millisecond)
	require.Contains(t, back.log.String(), "the cluster is at feature level 2 and this release understands up to 1")
	back.eventually("put back") // its calls go to the others
	require.NotContains(t, back.log.String(), "panic")
	for _, n := range nodes[1:] {
		n.eventually("put after")
	}
	back.start(next)
	back.eventually("put again")

	// A node of the old release is not added to the cluster, one of the new one is.
	d := clusterConfigs(t, 4)[3]
	suiteConfig(&d, suiteTiming)
	d.Peers = append(configs[0].Peers[:1:1], d.Peers[3])
	added := &orderedNode{t: t, url: urlOf(d)}
	added.start(present)
	add := "add d " + d.Peers[1].Addr
	require.Eventually(t, func() bool {
		return strings.Contains(nodes[1].do(add), "node d understands feature level 1 and the cluster is at level 2")
	}, 20*time.Second, 10*time.Millisecond)
	added.start(next)
	nodes[1].eventually(add)
	added.eventually("revoke")
}
