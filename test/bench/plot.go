package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// The plot's measures, in pixels.
const (
	plotLabel  = 330
	plotWidth  = 420
	plotRow    = 14
	plotHeader = 40
)

// plot draws, for each row, how many times the first endpoint's median the
// others' medians are, on a scale from 1/10 to 1000.
func (l endpoints) plot() string {
	colours := []string{"#1b7837", "#762a83", "#d6604d", "#4393c3"}
	var b strings.Builder
	y := plotHeader
	for _, what := range l.rows() {
		base := quantile(l[0].results[what], 50)
		drawn := false
		for i, e := range l[1:] {
			v := e.results[what]
			if base <= 0 || len(v) == 0 || quantile(v, 50) <= 0 {
				continue
			}
			if !drawn {
				fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", plotLabel-6, y+10, html.EscapeString(what))
				drawn = true
			}
			r := quantile(v, 50) / base
			from, to := plotX(1), plotX(r)
			fmt.Fprintf(&b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d">%.3g</text>`+"\n",
				min(from, to), y+1, math.Abs(to-from), plotRow-3, colours[(i+1)%len(colours)], max(from, to)+3, y+10, r)
			y += plotRow
		}
	}
	var head strings.Builder
	fmt.Fprintf(&head, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="10">`+"\n", plotLabel+plotWidth+60, y+20)
	head.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	for i, e := range l {
		text := "times the figure of " + e.version + " (1)"
		if i > 0 {
			text = e.version
		}
		fmt.Fprintf(&head, `<text x="%d" y="14" fill="%s">%s</text>`+"\n", 10+i*230, colours[i%len(colours)], html.EscapeString(text))
	}
	for e := -1; e <= 3; e++ {
		x := plotX(math.Pow(10, float64(e)))
		fmt.Fprintf(&head, `<line x1="%.1f" y1="30" x2="%.1f" y2="%d" stroke="#ccc"/><text x="%.1f" y="28">%g</text>`+"\n", x, x, y, x, math.Pow(10, float64(e)))
	}
	return head.String() + b.String() + "</svg>\n"
}

func plotX(ratio float64) float64 {
	e := min(max(math.Log10(ratio), -1), 3)
	return plotLabel + (e+1)/4*plotWidth
}
