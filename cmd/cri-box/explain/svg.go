package explain

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

// Sizes of the picture, in pixels; a letter of the font is letterWidth wide.
const (
	lineHeight  = 18
	letterWidth = 7.3
	margin      = 16
	titleWidth  = 104
	boxWidth    = 920
	itemLetters = 96 // of a line beside its title
)

// SVG draws the pod as a picture: the node's world around the pod's, and the pod's
// around each container's.
func (f *Facts) SVG(w io.Writer) error {
	p := &f.Pod
	pod := block{title: fmt.Sprintf("pod %s/%s", p.Namespace, p.Name), note: short(p.ID) + "  " + p.State, fill: "#eef5ff", edge: "#3b6fb6"}
	pod.add(p.rows())
	for i := range f.Containers {
		c := &f.Containers[i]
		b := block{title: "container " + c.Name, note: short(c.ID) + "  " + c.State, fill: "#fff8e8", edge: "#b6862c"}
		if c.PID != 0 {
			b.note += fmt.Sprintf("  process %d", c.PID)
		}
		b.add(c.rows())
		pod.inner = append(pod.inner, b)
	}
	height := pod.height() + 2*margin
	if _, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="monospace" font-size="12">
<rect width="100%%" height="100%%" fill="white"/>
`, boxWidth+2*margin, height); err != nil {
		return err
	}
	var out strings.Builder
	pod.draw(&out, margin, margin, boxWidth)
	out.WriteString("</svg>\n")
	_, err := io.WriteString(w, out.String())
	return err
}

// A block is a box with lines, and boxes in it.
type block struct {
	title, note string
	fill, edge  string
	lines       []textLine
	inner       []block
}

type textLine struct{ title, text string }

// add breaks rows into lines.
func (b *block) add(rows []row) {
	for _, r := range rows {
		title, line := r.title, ""
		for _, item := range r.items {
			item = brief(item)
			if line != "" && len(line)+2+len(item) > itemLetters {
				b.lines = append(b.lines, textLine{title, line})
				title, line = "", ""
			}
			if line != "" {
				line += "  "
			}
			line += item
		}
		if line != "" {
			b.lines = append(b.lines, textLine{title, line})
		}
	}
}

func (b *block) height() int {
	h := margin + lineHeight*(1+len(b.lines)) + margin/2
	for i := range b.inner {
		h += b.inner[i].height() + margin/2
	}
	return h
}

func (b *block) draw(out *strings.Builder, x, y, width int) {
	fmt.Fprintf(out, `<rect x="%d" y="%d" width="%d" height="%d" rx="8" fill="%s" stroke="%s"/>`+"\n", x, y, width, b.height(), b.fill, b.edge)
	at := y + margin + lineHeight/2
	word(out, x+margin, at, `font-weight="bold" fill="`+b.edge+`"`, b.title)
	word(out, x+margin+int(letterWidth*float64(len(b.title)+2)), at, `fill="#555"`, b.note)
	for _, l := range b.lines {
		at += lineHeight
		word(out, x+margin, at, `fill="#777"`, l.title)
		word(out, x+margin+titleWidth, at, `fill="#111"`, cut(l.text, itemLetters+4))
	}
	at += lineHeight / 2
	for i := range b.inner {
		b.inner[i].draw(out, x+margin, at, width-2*margin)
		at += b.inner[i].height() + margin/2
	}
}

// cut keeps a line within its box.
func cut(s string, n int) string {
	if letters := []rune(s); len(letters) > n {
		return string(letters[:n-1]) + "…"
	}
	return s
}

func word(out *strings.Builder, x, y int, style, text string) {
	if text == "" {
		return
	}
	fmt.Fprintf(out, `<text x="%d" y="%d" %s xml:space="preserve">`, x, y, style)
	xml.EscapeText(out, []byte(text))
	out.WriteString("</text>\n")
}
