package harness

import (
	"testing"
)

func TestParseLog(t *testing.T) {
	lines, err := ParseLog("2026-01-02T03:04:05.678901234Z stdout P abc\n2026-01-02T03:04:05.678901234+01:00 stderr F  d e\n2026-01-02T03:04:05Z stdout F \n")
	if err != nil {
		t.Fatal(err)
	}
	if len(lines) != 3 || lines[0].Full || lines[1].Text != " d e" || lines[1].Stream != "stderr" || lines[2].Text != "" {
		t.Errorf("got %+v", lines)
	}
}

func TestParseLogIsStrict(t *testing.T) {
	for _, bad := range []string{
		"2026-01-02T03:04:05Z stdout F no newline",
		"2026-01-02T03:04:05Z stdout\n",
		"yesterday stdout F x\n",
		"2026-01-02T03:04:05Z stdin F x\n",
		"2026-01-02T03:04:05Z stdout X x\n",
		"\n",
	} {
		if lines, err := ParseLog(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, lines)
		}
	}
}
