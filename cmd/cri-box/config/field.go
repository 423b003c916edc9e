package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// A field is one setting, or one table of them, of a Config.
type field struct {
	name  string // dotted, such as "image.limits.depth"
	help  string
	def   string // the default as TOML; tables have none
	rule  rule
	live  bool // SIGHUP puts a change into effect
	value reflect.Value
}

func (f *field) table() bool { return f.def == "" }

// key is the last part of the name.
func (f *field) key() string { return f.name[strings.LastIndexByte(f.name, '.')+1:] }

// fields lists the settings of c in the order of the struct, each table before
// what is in it.
func fields(c *Config) []*field {
	return walk(reflect.ValueOf(c).Elem(), "")
}

func walk(v reflect.Value, prefix string) []*field {
	var list []*field
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		f := &field{name: prefix + tag.Get("toml"), help: tag.Get("help"), def: tag.Get("default"), live: tag.Get("reload") == "yes", value: v.Field(i)}
		list = append(list, f)
		if f.table() {
			list = append(list, walk(f.value, f.name+".")...)
			continue
		}
		f.rule = ruleOf(tag.Get("accept"), f.value.Type())
	}
	return list
}

// set gives the setting a value as TOML has it, or says what is wrong with it.
func (f *field) set(raw any) error {
	v := reflect.New(f.value.Type()).Elem()
	if err := assign(v, raw); err != nil {
		return err
	}
	if err := f.rule.check(v); err != nil {
		return err
	}
	f.value.Set(v)
	return nil
}

// assign converts what the TOML parser gives into v.
func assign(v reflect.Value, raw any) error {
	switch {
	case v.Type() == reflect.TypeFor[time.Duration]():
		return assignDuration(v, raw)
	case v.CanAddr() && reflect.PointerTo(v.Type()).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return assignText(v, raw)
	}
	switch v.Kind() {
	case reflect.Slice:
		return assignList(v, raw)
	case reflect.String:
		if s, ok := raw.(string); ok {
			v.SetString(s)
			return nil
		}
		return fmt.Errorf("it is %s, not a string in quotes", kindOf(raw))
	default: // integers; a Config has no other kinds
		n, ok := raw.(int64)
		if !ok {
			return fmt.Errorf("it is %s, not a whole number", kindOf(raw))
		}
		v.SetInt(n)
		return nil
	}
}

func assignDuration(v reflect.Value, raw any) error {
	s, ok := raw.(string)
	if !ok {
		return fmt.Errorf("it is %s, not a time in quotes such as \"30s\"", kindOf(raw))
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is not a time such as \"30s\" or \"1m30s\"", s)
	}
	v.SetInt(int64(d))
	return nil
}

func assignText(v reflect.Value, raw any) error {
	s, ok := raw.(string)
	if n, number := raw.(int64); number {
		s, ok = fmt.Sprint(n), true
	}
	if !ok {
		return fmt.Errorf("it is %s, not a string in quotes", kindOf(raw))
	}
	return v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s))
}

func assignList(v reflect.Value, raw any) error {
	list, ok := raw.([]any)
	if !ok {
		return fmt.Errorf("it is %s, not a list in brackets", kindOf(raw))
	}
	out := reflect.MakeSlice(v.Type(), len(list), len(list))
	for i, entry := range list {
		if err := assign(out.Index(i), entry); err != nil {
			return fmt.Errorf("entry %d: %w", i+1, err)
		}
	}
	v.Set(out)
	return nil
}

// kindOf names what a file has in the words of TOML.
func kindOf(raw any) string {
	switch raw.(type) {
	case string:
		return "a string"
	case int64:
		return "a whole number"
	case float64:
		return "a number with a fraction"
	case bool:
		return "true or false"
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "a date"
}
