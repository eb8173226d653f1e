package cluster

import (
	"encoding/json"
	"errors"
)

// MarshalJSON returns the configuration as it is stored.
func (c Config) MarshalJSON() ([]byte, error) { return encodeObject(c, c.Extra) }

// MarshalJSON returns the history as it is stored.
func (h History) MarshalJSON() ([]byte, error) { return h.encode() }

// PatchConfig returns the stored configuration of v with a JSON merge patch (RFC 7396)
// applied: fields of objects are merged, and null removes a field. It returns an
// ErrInvalid if patch is not a JSON object, if the result has a field that is not
// usable, or if the stored configuration is not readable.
func (v *View) PatchConfig(patch []byte) (Config, error) {
	const op = "PatchConfig"
	var change map[string]json.RawMessage
	if err := json.Unmarshal(patch, &change); err != nil || change == nil {
		return Config{}, invalid(op, errors.New("the patch is not a JSON object"))
	}
	if err := v.Problem(ConfigKey); err != nil {
		return Config{}, invalid(op, err)
	}
	stored, err := encodeObject(v.Config, v.Config.Extra)
	if err != nil {
		return Config{}, invalid(op, err)
	}
	return decodeConfig(op, merge(stored, patch))
}

// ParseConfig returns the configuration that value sets. It returns an ErrInvalid if value
// is not a JSON object, is an empty one, or has a field that is not usable.
func ParseConfig(value []byte) (Config, error) {
	const op = "ParseConfig"
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(value, &fields); err != nil || fields == nil {
		return Config{}, invalid(op, errors.New("the configuration is not a JSON object"))
	}
	if len(fields) == 0 {
		return Config{}, invalid(op, errors.New("the configuration is empty: set at least one field, for example ttl"))
	}
	return decodeConfig(op, value)
}

// decodeConfig decodes a configuration without a field that is not usable.
func decodeConfig(op string, value []byte) (Config, error) {
	var c Config
	extra, faults, err := decodeObject(value, &c)
	if err = errors.Join(append(faults, err)...); err != nil {
		return Config{}, invalid(op, err)
	}
	c.Extra = extra
	return c, nil
}

// merge applies a merge patch to a JSON value. Both are valid.
func merge(value, patch json.RawMessage) json.RawMessage {
	var change, object map[string]json.RawMessage
	if json.Unmarshal(patch, &change) != nil || change == nil {
		return patch
	}
	if json.Unmarshal(value, &object) != nil || object == nil {
		object = map[string]json.RawMessage{}
	}
	for name, p := range change {
		if string(p) == "null" {
			delete(object, name)
			continue
		}
		object[name] = merge(object[name], p)
	}
	out, err := encode(object)
	if err != nil {
		return patch // a map of valid values cannot fail
	}
	return out
}
