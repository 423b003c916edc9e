package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A LogLine is one line of a container's log in CRI format.
type LogLine struct {
	Time   time.Time
	Stream string // "stdout" or "stderr"
	Full   bool   // F: ends with a newline; P: the next one of the stream goes on
	Text   string
}

// ParseLog reads a whole log file and is strict about the format that the
// kubelet reads: RFC3339Nano SP stream SP tag SP content LF.
func ParseLog(text string) ([]LogLine, error) {
	var lines []LogLine
	for n, line := range strings.SplitAfter(text, "\n") {
		if line == "" {
			break
		}
		l, err := parseLogLine(line)
		if err != nil {
			return nil, fmt.Errorf("line %d %.100q: %w", n+1, line, err)
		}
		lines = append(lines, l)
	}
	return lines, nil
}

func parseLogLine(line string) (LogLine, error) {
	content, ok := strings.CutSuffix(line, "\n")
	if !ok {
		return LogLine{}, fmt.Errorf("does not end")
	}
	f := strings.SplitN(content, " ", 4)
	if len(f) != 4 {
		return LogLine{}, fmt.Errorf("%d fields, wanted 4", len(f))
	}
	at, err := time.Parse(time.RFC3339Nano, f[0])
	if err != nil {
		return LogLine{}, err
	}
	if f[1] != "stdout" && f[1] != "stderr" {
		return LogLine{}, fmt.Errorf("stream %q", f[1])
	}
	if f[2] != "F" && f[2] != "P" {
		return LogLine{}, fmt.Errorf("tag %q", f[2])
	}
	return LogLine{at, f[1], f[2] == "F", f[3]}, nil
}

// LogPath is the container's log file.
func (c *Container) LogPath() string {
	return filepath.Join(c.Pod.Config.LogDirectory, c.Config.LogPath)
}

// Logs returns the lines that are whole so far.
func (c *Container) Logs() []LogLine {
	c.T.Helper()
	text, err := os.ReadFile(c.LogPath())
	if err != nil {
		c.T.Fatalf("cannot read the log: %v", err)
	}
	// A line being written is not there yet.
	lines, err := ParseLog(string(text[:strings.LastIndex(string(text), "\n")+1]))
	if err != nil {
		c.T.Fatalf("the log is not in CRI format: %v", err)
	}
	return lines
}

// Output returns what the container wrote to a stream, lines put together again.
func (c *Container) Output(stream string) string {
	c.T.Helper()
	var b strings.Builder
	for _, l := range c.Logs() {
		if l.Stream != stream {
			continue
		}
		b.WriteString(l.Text)
		if l.Full {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// WaitOutput returns once the container's stdout holds the text.
func (c *Container) WaitOutput(text string) {
	c.T.Helper()
	c.Wait(fmt.Sprintf("%q in the log of %s", text, c.Config.Metadata.Name), func() bool {
		return strings.Contains(c.Output("stdout"), text)
	})
}
