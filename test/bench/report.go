package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// report prints the table and writes the files that were asked for.
func (b *bench) report() error {
	var errs []error
	if b.files.add != "" {
		text, err := os.ReadFile(b.files.add)
		if err == nil {
			err = b.endpoints.add(text)
		}
		if !errors.Is(err, fs.ErrNotExist) { // else it is the first piece
			errs = append(errs, err) // the rest is printed all the same
		}
	}
	b.endpoints.print(os.Stdout)
	write := func(path string, content func() ([]byte, error)) {
		if path == "" {
			return
		}
		text, err := content()
		if err == nil {
			err = os.WriteFile(path, text, 0o644)
		}
		errs = append(errs, err)
	}
	write(b.files.json, func() ([]byte, error) { return json.MarshalIndent(b.endpoints.samples(), "", " ") })
	write(b.files.svg, func() ([]byte, error) { return []byte(b.endpoints.plot()), nil })
	write(b.files.markdown, func() ([]byte, error) { return []byte(b.endpoints.markdown()), nil })
	return errors.Join(errs...)
}

// rows are the names of all that was measured at the first endpoint, in order,
// then what only others have.
func (l endpoints) rows() []string {
	var rows []string
	for _, e := range l {
		for _, what := range e.order {
			if !slices.Contains(rows, what) {
				rows = append(rows, what)
			}
		}
	}
	return rows
}

// print writes a table: p50, p90 and p99 of each endpoint, and the ratio of the
// other endpoints to the first one.
func (l endpoints) print(w io.Writer) {
	fmt.Fprintln(w, machine())
	for _, e := range l {
		fmt.Fprintf(w, "%s: %s\n", e.name, e.version)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "what\tn\t")
	for i, e := range l {
		fmt.Fprintf(t, "%s p50\tp90\tp99\t", e.name)
		if i > 0 {
			fmt.Fprint(t, "ratio\t")
		}
	}
	fmt.Fprintln(t)
	for _, what := range l.rows() {
		base := l[0].results[what]
		fmt.Fprintf(t, "%s\t%d\t", what, len(base))
		for i, e := range l {
			v := e.results[what]
			fmt.Fprintf(t, "%s\t%s\t%s\t", figure(v, 50), figure(v, 90), figure(v, 99))
			if i > 0 {
				fmt.Fprintf(t, "%s\t", ratio(v, base))
			}
		}
		fmt.Fprintln(t)
	}
	t.Flush()
}

// markdown is the same as a table of Markdown.
func (l endpoints) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Side by side\n\nWritten by test/bench (`make compare`). %s.\nTimes are in ms; a ratio is a peer's median divided by the first column's, its spread in brackets.\n\n", machine())
	head, rule := "| what | n |", "|---|---|"
	for i, e := range l {
		head += fmt.Sprintf(" %s p50 | p90 | p99 |", e.version)
		rule += "---|---|---|"
		if i > 0 {
			head += " ratio |"
			rule += "---|"
		}
	}
	fmt.Fprintf(&b, "%s\n%s\n", head, rule)
	for _, what := range l.rows() {
		base := l[0].results[what]
		fmt.Fprintf(&b, "| %s | %d |", what, len(base))
		for i, e := range l {
			v := e.results[what]
			fmt.Fprintf(&b, " %s | %s | %s |", figure(v, 50), figure(v, 90), figure(v, 99))
			if i > 0 {
				fmt.Fprintf(&b, " %s |", ratio(v, base))
			}
		}
		b.WriteString("\n")
	}
	b.WriteString(l.behaviourTable())
	return b.String()
}

func figure(v []float64, percent int) string {
	if len(v) == 0 {
		return "-"
	}
	q := quantile(v, percent)
	if q >= 1000 {
		return fmt.Sprintf("%.0f", q)
	}
	return fmt.Sprintf("%.3g", q)
}

// ratio is that of the medians and, in brackets, its spread: the samples of a
// turn belong together, so the tenth and ninetieth percentile of their ratios.
func ratio(v, base []float64) string {
	m := quantile(base, 50)
	if len(v) == 0 || m <= 0 {
		return "-"
	}
	var pairs []float64
	for i := range min(len(v), len(base)) {
		if base[i] > 0 {
			pairs = append(pairs, v[i]/base[i])
		}
	}
	return fmt.Sprintf("%.3g [%.3g–%.3g]", quantile(v, 50)/m, quantile(pairs, 10), quantile(pairs, 90))
}

// quantile returns the value below which percent of the samples lie.
func quantile(samples []float64, percent int) float64 {
	if len(samples) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(samples))
	return s[min(len(s)*percent/100, len(s)-1)]
}

// machine says where this was measured.
func machine() string {
	var u unix.Utsname
	unix.Uname(&u) // cannot fail with a valid pointer
	return fmt.Sprintf("%d cores, kernel %s, %s", runtime.NumCPU(), unix.ByteSliceToString(u.Release[:]), runtime.GOARCH)
}

// A kept is one endpoint's results in the JSON file; times are in ms.
type kept struct {
	Name      string               `json:"name"`
	Version   string               `json:"version"`
	Order     []string             `json:"order"`
	Results   map[string][]float64 `json:"results"`
	Behaviour map[string]string    `json:"behaviour,omitempty"`
}

// A run is the JSON file.
type run struct {
	Machine   string `json:"machine"`
	Endpoints []kept `json:"endpoints"`
}

func (l endpoints) samples() run {
	r := run{Machine: machine()}
	for _, e := range l {
		r.Endpoints = append(r.Endpoints, kept{e.name, e.version, e.order, e.results, e.behaviour})
	}
	return r
}

// add completes the results with those of an earlier run of the same runtimes on
// the same machine: rows and tests that this one did not measure.
func (l endpoints) add(text []byte) error {
	var earlier run
	if err := json.Unmarshal(text, &earlier); err != nil {
		return fmt.Errorf("the earlier run is not one of -json: %w", err)
	}
	if earlier.Machine != machine() {
		return fmt.Errorf("the earlier run was on another machine: %s, this is %s", earlier.Machine, machine())
	}
	for _, k := range earlier.Endpoints {
		i := slices.IndexFunc(l, func(e *endpoint) bool { return e.name == k.Name })
		if i < 0 {
			return fmt.Errorf("the earlier run has %s, this one does not: name it in -start too", k.Name)
		}
		if l[i].version != k.Version {
			return fmt.Errorf("the earlier run was with %s, this one with %s: their figures do not belong together", k.Version, l[i].version)
		}
		l[i].keep(k)
	}
	return nil
}

// keep puts an earlier run's rows before this one's.
func (e *endpoint) keep(k kept) {
	order := []string{}
	for _, what := range k.Order {
		if e.results[what] == nil {
			e.results[what] = k.Results[what]
			order = append(order, what)
		}
	}
	e.order = append(order, e.order...)
	verdicts := map[string]string{}
	maps.Copy(verdicts, k.Behaviour)
	maps.Copy(verdicts, e.behaviour)
	e.behaviour = verdicts
}
