package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Extra are the fields of a record that this package does not know, or whose
// values it cannot decode. They are written back unchanged.
type Extra map[string]json.RawMessage

var errNoObject = errors.New("the value is not a JSON object")

// decodeObject fills the fields of the struct that into points to, by their json
// tags, from the JSON object data. Fields that are missing or null stay as they
// are. Fields that are unknown or have another type are returned; faults says which of the
// known fields are concerned.
func decodeObject(data []byte, into any) (extra Extra, faults []error, err error) {
	if err := json.Unmarshal(data, &extra); err != nil || extra == nil {
		return nil, nil, errNoObject
	}
	v := reflect.ValueOf(into).Elem()
	for name, f := range fieldsOf(v.Type()) {
		raw, ok := extra[name]
		if !ok {
			continue
		}
		if string(raw) == "null" {
			delete(extra, name)
			continue
		}
		stored := reflect.New(f.stored)
		if err := json.Unmarshal(raw, stored.Interface()); err != nil {
			faults = append(faults, fmt.Errorf("field %q is not usable: %w", name, err))
			continue
		}
		v.Field(f.index).Set(stored.Elem().Convert(v.Field(f.index).Type()))
		delete(extra, name)
	}
	slices.SortFunc(faults, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	if len(extra) == 0 {
		extra = nil
	}
	return extra, faults, nil
}

// encodeObject returns the JSON object of a record's known fields that are not
// zero, and of extra. A known field wins.
func encodeObject(record any, extra Extra) ([]byte, error) {
	all := maps.Clone(extra)
	if all == nil {
		all = Extra{}
	}
	v := reflect.ValueOf(record)
	for name, f := range fieldsOf(v.Type()) {
		field := v.Field(f.index)
		if field.IsZero() {
			continue
		}
		raw, err := encode(field.Convert(f.stored).Interface())
		if err != nil {
			return nil, fmt.Errorf("field %q: %w", name, err)
		}
		all[name] = raw
	}
	return encode(all)
}

// field is a field of a record and the type as which it is stored.
type field struct {
	index  int
	stored reflect.Type
}

// fieldsOf returns the fields of t that have a json tag.
func fieldsOf(t reflect.Type) map[string]field {
	out := map[string]field{}
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		name := tag.Get("json")
		if name == "" {
			continue
		}
		f := field{i, t.Field(i).Type}
		if stored := storedAs[f.stored]; stored != nil {
			f.stored = stored
		}
		if tag.Get("stored") == "commas" {
			f.stored = reflect.TypeFor[names]()
		}
		out[name] = f
	}
	return out
}

// storedAs are the types of fields that are stored in a way of their own.
var storedAs = map[reflect.Type]reflect.Type{
	reflect.TypeFor[bool]():          reflect.TypeFor[flag](),
	reflect.TypeFor[time.Duration](): reflect.TypeFor[seconds](),
	reflect.TypeFor[time.Time]():     reflect.TypeFor[clock](),
}

// encode is json.Marshal that leaves <, > and & as they are.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
