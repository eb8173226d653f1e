package testcluster

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcerts"
)

// TestTLSFiles requires that the server name and InsecureSkipVerify of TLSFiles apply to
// connections, and that only the latter is warned of. open returns a client of a server on
// 127.0.0.1 without keys, which presents the certificate [testcerts.Authority.Other] of the
// authority in the file ca.
func TestTLSFiles(t *testing.T, ca string, open func(dcs.TLSFiles, *slog.Logger) dcs.Backend) {
	t.Helper()
	const warning = "tls_insecure_skip_verify"
	for name, row := range map[string]struct {
		files   dcs.TLSFiles
		refused string // in the error of a call
		warned  bool
	}{
		"name":         {files: dcs.TLSFiles{CA: ca, ServerName: testcerts.OtherName}},
		"another name": {files: dcs.TLSFiles{CA: ca, ServerName: "another.test"}, refused: "another.test"},
		"no name":      {files: dcs.TLSFiles{CA: ca}, refused: "IP SANs"},
		"unverified":   {files: dcs.TLSFiles{InsecureSkipVerify: true}, warned: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log Log
			b := open(row.files, slog.New(slog.NewTextHandler(&log, nil)))
			limit := 20 * time.Second
			if row.refused != "" {
				limit = 4 * time.Second // a refusal by a server that cannot be reached ends the call at its deadline
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, err := b.Get(ctx, "k")
			if row.refused == "" {
				require.ErrorIs(t, err, dcs.ErrNotFound)
			} else {
				require.ErrorIs(t, err, dcs.ErrUnauthorized)
				require.ErrorContains(t, err, row.refused)
			}
			if row.warned { // records are logged in the background
				require.Eventually(t, func() bool { return strings.Contains(log.String(), warning) }, 20*time.Second, time.Millisecond)
			}
			require.NoError(t, b.Close())
			require.Equal(t, row.warned, strings.Contains(log.String(), warning))
		})
	}
}
