package cluster

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/holdfast-dcs/holdfast/dcs"
)

func TestPatchConfig(t *testing.T) {
	v := decodeOne(ConfigKey, `{"ttl":30,"postgresql":{"parameters":{"a":1,"b":2},"use_slots":true},"n":12345678901234567890}`)
	c, err := v.PatchConfig([]byte(`{"pause":true,"ttl":null,"postgresql":{"parameters":{"a":null,"c":3}},"x":[1]}`))
	require.NoError(t, err)
	got, err := json.Marshal(c)
	require.NoError(t, err)
	require.Equal(t, `{"n":12345678901234567890,"pause":true,"postgresql":{"parameters":{"b":2,"c":3},"use_slots":true},"x":[1]}`, string(got))
	require.True(t, v.Config.TTL > 0, "the View has changed")
	for patch, want := range map[string]string{
		``: "the patch is not a JSON object", `[]`: "the patch is not a JSON object", `null`: "the patch is not a JSON object",
		`{"pause":"perhaps"}`: `field "pause"`, `{"ttl":-1}`: `field "ttl"`,
	} {
		_, err := v.PatchConfig([]byte(patch))
		require.ErrorIs(t, err, dcs.ErrInvalid, patch)
		require.True(t, strings.Contains(err.Error(), want), err.Error())
	}
	_, err = decodeOne(ConfigKey, `[1]`).PatchConfig([]byte(`{}`))
	require.ErrorIs(t, err, dcs.ErrInvalid)
}

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig([]byte(`{"ttl":30,"pause":null,"x":{"y":null}}`))
	require.NoError(t, err)
	got, err := json.Marshal(c)
	require.NoError(t, err)
	require.Equal(t, `{"ttl":30,"x":{"y":null}}`, string(got))
	for _, value := range []string{``, `[]`, `null`, `{}`, `{"pause":"perhaps"}`, `{"ttl":-1}`, `{"ttl":30} {`} {
		_, err := ParseConfig([]byte(value))
		require.ErrorIs(t, err, dcs.ErrInvalid, value)
	}
}

func decodeOne(name, value string) *View {
	return Decode("pg", tree(map[string]string{name: value}), nil)
}
