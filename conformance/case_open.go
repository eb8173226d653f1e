package conformance

import (
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var openCases = []spec{
	{Case: Case{
		Name:       "Open/ByURL",
		Rule:       "dcs.Open with the store's URL returns a client of the same tree. An undeclared option is ErrInvalid, by name and before anything is sent. Neither errors nor the log nor the printed URL show a secret.",
		Motivation: "Tests use the constructor, and users write a URL into their configuration. A root that is read differently is another cluster, and a misspelt option is a setting that is not in force.",
	}, alone: true, run: openByURL},
}

func openByURL(e *env) {
	e.needs(e.s.URL != nil, "URL")
	raw := e.s.URL(e)
	observer := e.openLike()
	var c *client
	var err error
	e.promptly(e.budget()+patient, "Open by URL", func() { c, err = e.openURL(raw) })
	require.NoError(e, err, "Open by URL")
	e.oneTree(c, observer)
	e.refusesOptions(raw)
	e.printsNoSecret(raw)
	require.NoError(e, c.Close())
	e.readsSecretFiles(raw)
	e.noSecrets()
}

// openLike returns a client of the cluster of OpenWith's clients, which is the one that
// the harness's URL names.
func (e *env) openLike() *client {
	if e.s.OpenWith == nil {
		return e.open()
	}
	c, _ := e.opened(Opening{})
	return c
}

// openURL opens a client by URL. It is closed when the case ends.
func (e *env) openURL(raw string) (*client, error) {
	s, err := dcs.Open(e.ctx, raw, dcs.Options{
		Logger: slog.New(slog.NewTextHandler(e.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		return nil, err
	}
	c := &client{Store: s, raw: s.Unwrap(), e: e, serial: strconv.FormatInt(e.clients.Add(1), 10)}
	e.Cleanup(func() {
		if err := c.Close(); err != nil {
			e.Errorf("closing a client that was opened by URL: %v", err)
		}
	})
	return c, nil
}

// oneTree requires that each client reads the writes of the other one.
func (e *env) oneTree(c, observer *client) {
	c.put(e.key("by URL"), "c")
	require.Equal(e, "c", string(observer.get(e.key("by URL")).Value), "the write of the client by URL")
	observer.put(e.key("by Open"), "o")
	require.Equal(e, "o", string(c.get(e.key("by Open")).Value), "the write of another client")
	s := c.session()
	h := e.acquire(s, e.key("lock"), "c")
	e.stillHeld(observer, h, "a lock of the client by URL")
	require.NoError(e, s.Close(e.ctx))
	observer.absent(e.key("lock"), "its session was closed")
}

// refusesOptions requires that a URL with an unknown option is refused, with the option's
// name and without its value.
func (e *env) refusesOptions(raw string) {
	for _, option := range []string{"no_such_option", "password"} {
		var err error
		e.promptly(slack, "Open with a wrong URL", func() { _, err = e.openURL(withOption(raw, option, Secret)) })
		e.kind(err, dcs.ErrInvalid, "Open with the option "+option)
		require.ErrorContains(e, err, option, "the error does not name the option")
		e.noSecrets(err)
	}
	_, err := e.openURL(strings.Replace(raw, "://", "://user:"+Secret+"@", 1))
	e.kind(err, dcs.ErrInvalid, "Open with a password in the URL")
	e.noSecrets(err)
}

// withOption returns a URL with one more option.
func withOption(raw, name, value string) string {
	sep := "?"
	if strings.Contains(raw, "?") {
		sep = "&"
	}
	return raw + sep + name + "=" + value
}

// printsNoSecret requires that the printed form of a URL is equivalent to it, and omits a
// secret that a program put into it.
func (e *env) printsNoSecret(raw string) {
	u, err := dcs.ParseURL(raw)
	require.NoError(e, err)
	again, err := dcs.ParseURL(u.String())
	require.NoError(e, err, "a URL that was printed")
	require.Equal(e, u, again, "a URL that was printed")
	u.Params = maps.Clone(u.Params)
	if u.Params == nil {
		u.Params = map[string]string{}
	}
	u.Params["password"] = Secret
	u.Hosts = append(u.Hosts, "user:"+Secret+"@host")
	require.NotContains(e, u.String(), Secret, "a URL that was printed")
}

// readsSecretFiles opens the store with a secret file for every option that takes one. The
// store may refuse the secret, or need another option too.
func (e *env) readsSecretFiles(raw string) {
	scheme, _, _ := strings.Cut(raw, "://")
	for _, p := range dcs.Params(scheme) {
		if !strings.HasSuffix(p.Name, "_file") {
			continue
		}
		file := filepath.Join(e.TempDir(), p.Name)
		require.NoError(e, os.WriteFile(file, []byte(Secret+"\n"), 0o600))
		begin := time.Now()
		c, err := e.openURL(withOption(raw, p.Name, file))
		if took := time.Since(begin); took > e.budget()+patient {
			e.Errorf("Open with the option %s returned after %v", p.Name, took)
		}
		if err != nil {
			e.Logf("Open with the option %s: %v", p.Name, err)
			e.noSecrets(err)
			continue
		}
		require.NoError(e, c.Close())
	}
}
