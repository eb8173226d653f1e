package testcluster

import (
	"context"
	"crypto/sha1" //nolint:gosec // G505: as ZooKeeper's digest scheme has it
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/internal/testcerts"
)

const (
	// zookeeperTick is the tickTime of the servers. The shortest session has 2 ticks.
	zookeeperTick = 100 * time.Millisecond
	// zookeeperSync is syncLimit, the number of ticks for which a leader may be silent.
	zookeeperSync = 8
	// zookeeperInit is initLimit, the number of ticks for which the winner of an
	// election waits for a majority. A follower that finds the winner's port closed
	// tries five times at intervals of 100 ms and then starts another election, in
	// which the winner takes no part before its wait has ended.
	zookeeperInit = 20
	// longestSession is maxSessionTimeout. The default of 20 ticks is shorter than the
	// TTL of any test.
	longestSession = time.Minute
)

// promptVotes bounds the time of an election. By default a lost vote is sent again after
// pauses that grow to a minute, and a connection attempt to a server that does not answer
// takes five seconds, in which no votes are requested.
var promptVotes = []string{"-Dzookeeper.fastleader.maxNotificationInterval=200", "-Dzookeeper.cnxTimeout=500"}

// The superuser of every ZooKeeper cluster, with all rights.
const (
	superUser     = "super"
	superPassword = "holdfast"
)

// ZooKeeperTick is the tickTime of every ZooKeeper cluster without Defaults.
const ZooKeeperTick = zookeeperTick

type zookeeper struct{}

func (*zookeeper) ports() map[string]int {
	return map[string]int{"client": 2181, "peer": 2888, "vote": 3888}
}

// election: a frozen leader is detected after syncLimit ticks, and a new one serves after
// some more rounds.
func (*zookeeper) election(Options) time.Duration { return 2500 * time.Millisecond }

func (z *zookeeper) command(ctx context.Context, c *Cluster, s *Server, _ bool) (*exec.Cmd, error) {
	conf := filepath.Join(s.dir, "zoo.cfg")
	if _, err := os.Stat(conf); errors.Is(err, os.ErrNotExist) { // later ZooKeeper itself updates the file
		if err := z.configure(c, s, conf); err != nil {
			return nil, err
		}
	}
	args := []string{
		"-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-cp", zookeeperJar + ":" + nettyJars,
		"-Dzookeeper.DigestAuthenticationProvider.superDigest=" + superUser + ":" + digest(superUser, superPassword),
	}
	if !c.o.Defaults {
		args = append(args, promptVotes...)
	}
	args = append(args, "org.apache.zookeeper.server.quorum.QuorumPeerMain", conf)
	cmd := s.host.Command(ctx, "java", args...)
	if lib := clockLibrary(); lib != "" {
		if err := s.stepClock(0); err != nil {
			return nil, err
		}
		if cmd.Env == nil {
			cmd.Env = os.Environ()
		}
		cmd.Env = append(cmd.Env, "LD_PRELOAD="+lib, "HOLDFAST_CLOCK="+s.clock())
	}
	return cmd, nil
}

// nettyJars are the jars that ZooKeeper needs for TLS and that its own jar does not list.
const nettyJars = "/usr/share/java/netty-codec.jar:/usr/share/java/netty-resolver.jar"

// configure writes the first configuration of a server.
func (z *zookeeper) configure(c *Cluster, s *Server, conf string) error {
	lines := []string{
		"dataDir=" + s.dir, "admin.enableServer=false", "4lw.commands.whitelist=*", "maxClientCnxns=0",
		"reconfigEnabled=true", "standaloneEnabled=false",
	}
	if c.o.Defaults { // as in ZooKeeper's sample configuration
		lines = append(lines, "tickTime=2000", "initLimit=10", "syncLimit=5")
	} else {
		lines = append(lines, "tickTime="+strconv.FormatInt(zookeeperTick.Milliseconds(), 10), "initLimit="+strconv.Itoa(zookeeperInit),
			"syncLimit="+strconv.Itoa(zookeeperSync), "maxSessionTimeout="+strconv.FormatInt(longestSession.Milliseconds(), 10))
	}
	members := c.Servers()
	if !slices.Contains(members, s) {
		members = append(members, s)
	}
	for _, m := range members {
		lines = append(lines, z.member(m))
	}
	if c.o.Security {
		tls, err := z.tls(c, s)
		if err != nil {
			return err
		}
		lines = append(lines, tls...)
	}
	lines = append(lines, c.o.Flags...)
	if err := os.WriteFile(conf, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir, "myid"), []byte(strconv.Itoa(z.id(s))), 0o600)
}

// id returns the number of a server, which no other server gets.
func (*zookeeper) id(s *Server) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(s.name, "n")) // newServer made the name
	return n + 1
}

// member returns the line of a server in the configuration.
func (z *zookeeper) member(s *Server) string {
	line := fmt.Sprintf("server.%d=%s:%d:%d:participant", z.id(s), s.host.Addr(), s.ports["peer"], s.ports["vote"])
	if s.c.o.Security {
		return line // its only port for clients is the secure one
	}
	return line + fmt.Sprintf(";%s:%d", s.host.Addr(), s.ports["client"])
}

// tls returns the lines that switch mutual TLS on.
func (*zookeeper) tls(c *Cluster, s *Server) ([]string, error) {
	file := zookeeperKeyStore(s)
	if err := writeKeyStore(file, c.ca.Server()); err != nil {
		return nil, err
	}
	return []string{
		"serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",
		"secureClientPort=" + strconv.Itoa(s.ports["client"]), "secureClientPortAddress=" + s.host.Addr(),
		"ssl.keyStore.location=" + file, "ssl.trustStore.location=" + c.ca.File(), "ssl.clientAuth=need",
	}, nil
}

// zookeeperKeyStore returns the file of a server's certificate and key.
func zookeeperKeyStore(s *Server) string { return filepath.Join(s.dir, "server.pem") }

// writeKeyStore writes the certificate and the key of pair into one file, and the key in
// PKCS 8, as ZooKeeper requires.
func writeKeyStore(file string, pair testcerts.Pair) error {
	cert, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return err
	}
	both := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	for _, der := range cert.Certificate {
		both = append(both, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return os.WriteFile(file, both, 0o600)
}

func digest(user, password string) string {
	sum := sha1.Sum([]byte(user + ":" + password)) //nolint:gosec // G401: as ZooKeeper's digest scheme has it
	return base64.StdEncoding.EncodeToString(sum[:])
}

func (*zookeeper) ready(ctx context.Context, c *Cluster, s *Server) (bool, error) {
	answer, err := ask4(ctx, c, s, "srvr")
	if err != nil {
		return false, err
	}
	switch {
	case strings.Contains(answer, "Mode: leader"):
		answer, err := ask4(ctx, c, s, "mntr")
		if want := fmt.Sprintf("zk_synced_followers\t%d", len(c.Servers())-1); err == nil && !strings.Contains(answer, want) && len(c.Servers()) > 1 {
			err = errors.New("not all servers follow the leader")
		}
		return true, err
	case strings.Contains(answer, "Mode: follower"):
		return false, nil
	default:
		return false, errors.New(strings.TrimSpace(answer))
	}
}

// ask4 sends a four-letter command of ZooKeeper and returns the answer.
func ask4(ctx context.Context, c *Cluster, s *Server, question string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, moment)
	defer cancel()
	conf, err := c.zookeeperTLS()
	if err != nil {
		return "", err
	}
	return askWith(ctx, s, conf, question)
}

// askWith is ask4 until the deadline of ctx. A server without TLS has no conf.
func askWith(ctx context.Context, s *Server, conf *tls.Config, question string) (string, error) {
	conn, err := zookeeperDial(ctx, s, conf)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	if _, err := io.WriteString(conn, question); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// ZooKeeperMode returns the mode of a server that serves, "leader" or "follower". conf must
// trust the server. ctx must have a deadline.
func (s *Server) ZooKeeperMode(ctx context.Context, conf *tls.Config) (string, error) {
	answer, err := askWith(ctx, s, conf, "srvr")
	if err != nil {
		return "", err
	}
	_, mode, ok := strings.Cut(answer, "Mode: ")
	if !ok {
		return "", errors.New(strings.TrimSpace(answer))
	}
	mode, _, _ = strings.Cut(mode, "\n")
	return mode, nil
}

// zookeeperTLS returns the configuration of a client of the cluster's servers, and nil
// without TLS.
func (c *Cluster) zookeeperTLS() (*tls.Config, error) {
	if c.ca == nil {
		return nil, nil //nolint:nilnil // there is no TLS
	}
	return c.ca.Client().Config(c.ca)
}

func zookeeperDial(ctx context.Context, s *Server, conf *tls.Config) (net.Conn, error) {
	conn, err := s.host.Dial(ctx, "tcp", s.Direct())
	if err != nil || conf == nil {
		return conn, err
	}
	conf.ServerName = s.host.Addr()
	return tls.Client(conn, conf), nil
}

func (*zookeeper) started(context.Context, *Cluster) error { return nil }

// ZooKeeperAdmin returns a client of one server with all rights, which does not use the
// proxy. The caller must close it.
func (c *Cluster) ZooKeeperAdmin(i int) (*zk.Conn, error) { return c.zookeeperAdmin(c.Servers()[i]) }

func (c *Cluster) zookeeperAdmin(s *Server) (*zk.Conn, error) {
	conn, _, err := zk.Connect([]string{s.Direct()}, 10*time.Second, zk.WithLogInfo(false), zk.WithLogger(nobody{}),
		zk.WithDialer(func(string, string, time.Duration) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(context.Background(), moment)
			defer cancel()
			conf, err := c.zookeeperTLS()
			if err != nil {
				return nil, err
			}
			return zookeeperDial(ctx, s, conf)
		}))
	if err != nil {
		return nil, err
	}
	if err := conn.AddAuth("digest", []byte(superUser+":"+superPassword)); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

type nobody struct{}

func (nobody) Printf(string, ...any) {}

// ZooKeeperReadOnly removes the right to write at and below paths from all clients until
// heal is called.
func (c *Cluster) ZooKeeperReadOnly(paths []string) (heal func() error, err error) {
	set := func(perms int32) error { return c.ZooKeeperSetACL(zk.WorldACL(perms), paths...) }
	return func() error { return set(zk.PermAll) }, set(zk.PermRead)
}

// ZooKeeperSetACL sets the rights of all nodes at and below paths.
func (c *Cluster) ZooKeeperSetACL(acl []zk.ACL, paths ...string) error {
	admin, err := c.ZooKeeperAdmin(0)
	if err != nil {
		return err
	}
	defer admin.Close()
	for _, p := range paths {
		if err := setACL(admin, p, acl); err != nil {
			return err
		}
	}
	return nil
}

func setACL(c *zk.Conn, path string, acl []zk.ACL) error {
	_, err := c.SetACL(path, acl, -1)
	if errors.Is(err, zk.ErrNoNode) {
		return nil
	}
	if err != nil {
		return err
	}
	names, _, err := c.Children(path)
	if err != nil && !errors.Is(err, zk.ErrNoNode) {
		return err
	}
	for _, n := range names {
		if err := setACL(c, path+"/"+n, acl); err != nil {
			return err
		}
	}
	return nil
}

// reconfigure changes the membership through any server except not.
func (z *zookeeper) reconfigure(ctx context.Context, c *Cluster, not *Server, joining, leaving []string) error {
	return settled(ctx, func() error {
		var last error
		for _, s := range c.Servers() {
			if s == not {
				continue
			}
			admin, err := c.zookeeperAdmin(s)
			if err != nil {
				last = err
				continue
			}
			_, err = admin.IncrementalReconfig(joining, leaving, -1)
			admin.Close()
			if err == nil {
				return nil
			}
			last = err
		}
		return last
	})
}

func (z *zookeeper) leave(ctx context.Context, c *Cluster, s *Server) error {
	return z.reconfigure(ctx, c, s, nil, []string{strconv.Itoa(z.id(s))})
}

// join does nothing. A server that is started follows, and welcome makes it vote.
func (*zookeeper) join(context.Context, *Cluster, *Server) error { return nil }

func (z *zookeeper) welcome(ctx context.Context, c *Cluster, s *Server) error {
	if err := z.reconfigure(ctx, c, s, []string{z.member(s)}, nil); err != nil {
		return err
	}
	return settled(ctx, func() error {
		_, err := z.ready(ctx, c, s)
		return err
	})
}

// inheritsNames marks a store whose clients find a new server by the name of the old one.
func (*zookeeper) inheritsNames() {}
