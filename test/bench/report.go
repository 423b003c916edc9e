package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// print writes a table: p50, p90 and p99 of each endpoint, and the ratio of the
// other endpoints' p50 to the first one's.
func (l endpoints) print(w io.Writer) {
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
	for _, what := range l[0].order {
		base := l[0].results[what]
		fmt.Fprintf(t, "%s\t%d\t", what, len(base))
		for i, e := range l {
			v := e.results[what]
			fmt.Fprintf(t, "%.2f\t%.2f\t%.2f\t", quantile(v, 50), quantile(v, 90), quantile(v, 99))
			if i > 0 {
				fmt.Fprintf(t, "%.1f\t", quantile(v, 50)/quantile(base, 50))
			}
		}
		fmt.Fprintln(t)
	}
	t.Flush()
}

// quantile returns the value below which percent of the samples lie.
func quantile(samples []float64, percent int) float64 {
	if len(samples) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(samples))
	return s[min(len(s)*percent/100, len(s)-1)]
}

// samples are all results, by endpoint and row; times are in ms.
func (l endpoints) samples() map[string]map[string][]float64 {
	out := map[string]map[string][]float64{}
	for _, e := range l {
		out[e.name+" ("+e.version+")"] = e.results
	}
	return out
}
