package zookeeper

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

func TestAuthFileIsParsed(t *testing.T) {
	got, err := parseAuth("# both, while the password changes\ndigest:me:old\r\n\ndigest:me:new:er\nother:token\n")
	require.NoError(t, err)
	require.Equal(t, []authInfo{{"digest", "me:old"}, {"digest", "me:new:er"}, {"other", "token"}}, got)
	for _, text := range []string{"", "# nothing", "digest", "digest:", ":me:secret", "digest:me", " digest:me:secret", "digest:me:x\nsecret", "digest :me:secret"} {
		_, err := parseAuth(text)
		require.Error(t, err, text)
		require.NotContains(t, err.Error(), "secret")
	}
	file := filepath.Join(t.TempDir(), "auth")
	require.NoError(t, os.WriteFile(file, []byte("digest:me:secret\n"), 0o600))
	c, err := Config{Endpoints: []string{"h"}, Root: "r", AuthFile: file}.check()
	require.NoError(t, err)
	require.Equal(t, zk.AuthACL(zk.PermAll), c.acl)
	require.Equal(t, "as me", c.auth.names())
}

// The credentials of a user and those of a file are given together, and an error
// names the users without their passwords.
func TestSeveralCredentials(t *testing.T) {
	dir := t.TempDir()
	auth, password := filepath.Join(dir, "auth"), filepath.Join(dir, "password")
	require.NoError(t, os.WriteFile(auth, []byte("digest:you:secret\nother:secret\n"), 0o600))
	require.NoError(t, os.WriteFile(password, []byte("secret\n"), 0o600))
	for _, row := range []struct {
		c     Config
		want  []authInfo
		names string
	}{
		{Config{}, nil, "without a user"},
		{Config{User: "me", Password: "secret"}, []authInfo{{"digest", "me:secret"}}, "as me"},
		{Config{User: "me", PasswordFile: password}, []authInfo{{"digest", "me:secret"}}, "as me"},
		{Config{AuthFile: auth}, []authInfo{{"digest", "you:secret"}, {"other", "secret"}}, "as you, other"},
		{Config{User: "me", Password: "secret", AuthFile: auth}, []authInfo{{"digest", "me:secret"}, {"digest", "you:secret"}, {"other", "secret"}}, "as me, you, other"},
	} {
		row.c.Endpoints, row.c.Root = []string{"h"}, "r"
		c, err := row.c.check()
		require.NoError(t, err)
		require.Equal(t, row.want, c.auth.current())
		require.Equal(t, row.names, c.auth.names())
		require.Equal(t, len(row.want) > 0, c.auth.any())
	}
	_, err := Config{Endpoints: []string{"h"}, Root: "r", User: "me", Password: "secret", PasswordFile: password}.check()
	require.ErrorContains(t, err, "exclude each other")
	require.NotContains(t, err.Error(), "secret")
}

// A password is read again when a permission is denied, also in sessions that
// exist already. With the old and the new entry in one file, no call fails
// during a change.
func TestPasswordsAreReadAgain(t *testing.T) {
	s := newSuite(t)
	dir := t.TempDir()
	password, auth := filepath.Join(dir, "password"), filepath.Join(dir, "auth")
	write := func(file, text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
	write(password, "old\n")
	write(auth, "digest:me:old\n")
	one := ours(t, s, func(c *Config) { c.User, c.PasswordFile = "me", password })
	several := ours(t, s, func(c *Config) { c.AuthFile = auth })
	_, err := ours(t, s.fresh(t), nil).Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err, "the parents of all roots are accessible without credentials")
	_, err = one.Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err)
	works := func(b dcs.Backend, step string) {
		t.Helper()
		_, err := b.Get(budget(t), "k")
		require.NoError(t, err, step)
	}
	works(several, "before")

	admin, err := s.Cluster.ZooKeeperAdmin(0)
	require.NoError(t, err)
	defer admin.Close()
	require.NoError(t, admin.AddAuth("digest", []byte("me:old")))
	require.NoError(t, admin.AddAuth("digest", []byte("me:new")))
	give := func(acl []zk.ACL) {
		t.Helper()
		for _, path := range []string{"/" + s.Root, "/" + s.Root + "/k"} {
			_, err := admin.SetACL(path, acl, -1)
			require.NoError(t, err, path)
		}
	}
	write(auth, "digest:me:old\ndigest:me:new\n")
	works(several, "both passwords are in the file")
	give(zk.DigestACL(zk.PermAll, "me", "new"))
	works(several, "the nodes belong to the new password")
	_, err = one.Get(budget(t), "k")
	require.ErrorIs(t, err, dcs.ErrUnauthorized)
	require.NotContains(t, err.Error(), "me:")
	write(password, "new\n")
	works(one, "the file has the new password")
}

// Calls that are denied at the same time are all repeated with the new password, although
// only one of them gives it to the session.
func TestPasswordIsReadAgainByManyCalls(t *testing.T) {
	s := newSuite(t)
	password := filepath.Join(t.TempDir(), "password")
	write := func(text string) { require.NoError(t, os.WriteFile(password, []byte(text), 0o600)) }
	write("0\n")
	_, err := ours(t, s.fresh(t), nil).Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err, "the parents of all roots are accessible without credentials")
	b := ours(t, s, func(c *Config) { c.User, c.PasswordFile = "me", password })
	_, err = b.Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err)
	admin, err := s.Cluster.ZooKeeperAdmin(0)
	require.NoError(t, err)
	defer admin.Close()
	for round := range 10 {
		next := fmt.Sprint(round + 1)
		write(next + "\n")
		for _, path := range []string{"/" + s.Root, "/" + s.Root + "/k"} {
			_, err := admin.SetACL(path, zk.DigestACL(zk.PermAll, "me", next), -1)
			require.NoError(t, err, path)
		}
		var calls sync.WaitGroup
		for range 20 {
			calls.Go(func() {
				if _, err := b.Get(budget(t), "k"); err != nil {
					t.Error(round, err)
				}
			})
		}
		calls.Wait()
	}
}

// A Wait sees changes after the nodes belong to a new password, which the file has had
// for longer.
func TestWaitWithANewPassword(t *testing.T) {
	s := newSuite(t)
	_, err := ours(t, s.fresh(t), nil).Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err, "the parents of all roots are accessible without credentials")
	auth := filepath.Join(t.TempDir(), "auth")
	write := func(text string) { require.NoError(t, os.WriteFile(auth, []byte(text), 0o600)) }
	write("digest:me:old\n")
	b := ours(t, s, func(c *Config) { c.AuthFile = auth })
	rev, err := b.Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte("0"))}})
	require.NoError(t, err)
	seen, err := b.Wait(budget(t), "", rev-1)
	require.NoError(t, err)
	idle := ours(t, s, func(c *Config) { // it only waits
		c.AuthFile, c.Timing.RetryTimeout = auth, 2*time.Second
	})
	last, err := idle.Wait(budget(t), "", rev-1)
	require.NoError(t, err)
	write("digest:me:old\ndigest:me:new\n")
	admin, err := s.Cluster.ZooKeeperAdmin(0)
	require.NoError(t, err)
	defer admin.Close()
	for _, path := range []string{"/" + s.Root, "/" + s.Root + "/k"} {
		_, err := admin.SetACL(path, zk.DigestACL(zk.PermAll, "me", "new"), -1)
		require.NoError(t, err, path)
	}
	valueOf := func(s dcs.Snapshot) string {
		require.Len(t, s.Entries, 1, "revision %d", s.Revision)
		return string(s.Entries[0].Value)
	}
	for i := range 3 {
		want := strconv.Itoa(i + 1)
		rev, err = b.Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte(want))}})
		require.NoError(t, err)
		for seen.Revision < rev {
			seen, err = b.Wait(budget(t), "", seen.Revision)
			require.NoError(t, err, "a Wait must see a change of a node with the new password")
			require.True(t, seen.Revision < rev || valueOf(seen) == want, "%q at revision %d", valueOf(seen), seen.Revision)
		}
	}
	for begin := time.Now(); last.Revision < seen.Revision; {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		last, err = idle.Wait(ctx, "", last.Revision)
		cancel()
		require.NoError(t, err, "a client without calls must find the new password")
		t.Log("found after", time.Since(begin))
	}
	require.Equal(t, "3", valueOf(last))
}
