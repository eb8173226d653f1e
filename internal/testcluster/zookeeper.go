package testcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// zookeeperTick is the servers' tickTime: sessions are granted 2 to 20 of it.
const zookeeperTick = 200 * time.Millisecond

type zookeeper struct{}

func (*zookeeper) ports() map[string]int {
	return map[string]int{"client": 2181, "peer": 2888, "vote": 3888}
}

// election: a frozen leader is noticed after syncLimit ticks, and a new one
// serves after another round; measured up to 2.8 s.
func (*zookeeper) election(Options) time.Duration { return 5 * time.Second }

func (*zookeeper) command(ctx context.Context, c *Cluster, s *Server, _ bool) (*exec.Cmd, error) {
	lines := []string{
		"tickTime=" + strconv.FormatInt(zookeeperTick.Milliseconds(), 10), "initLimit=25", "syncLimit=10",
		"dataDir=" + s.dir, "clientPort=" + strconv.Itoa(s.ports["client"]), "clientPortAddress=" + s.host.Addr(),
		"admin.enableServer=false", "4lw.commands.whitelist=*", "maxClientCnxns=0",
	}
	id := 0
	for i, m := range c.Servers() {
		lines = append(lines, fmt.Sprintf("server.%d=%s:%d:%d", i+1, m.host.Addr(), m.ports["peer"], m.ports["vote"]))
		if m == s {
			id = i + 1
		}
	}
	lines = append(lines, c.o.Flags...)
	conf := filepath.Join(s.dir, "zoo.cfg")
	if err := os.WriteFile(conf, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(s.dir, "myid"), []byte(strconv.Itoa(id)), 0o600); err != nil {
		return nil, err
	}
	return s.host.Command(ctx, "java", "-Xmx256m", "-XX:+UseSerialGC", "-cp", zookeeperJar,
		"org.apache.zookeeper.server.quorum.QuorumPeerMain", conf), nil
}

func (*zookeeper) ready(ctx context.Context, _ *Cluster, s *Server) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, moment)
	defer cancel()
	conn, err := s.host.Dial(ctx, "tcp", s.Direct())
	if err != nil {
		return false, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	if _, err := io.WriteString(conn, "srvr"); err != nil {
		return false, err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return false, err
	}
	switch text := string(answer); {
	case strings.Contains(text, "Mode: leader"):
		return true, nil
	case strings.Contains(text, "Mode: follower"):
		return false, nil
	default:
		return false, errors.New(strings.TrimSpace(text))
	}
}

func (*zookeeper) started(context.Context, *Cluster) error { return nil }
