package waits

import (
	"context"
	"testing"
)

// TestNow: of several waits the oldest that is not over is told.
func TestNow(t *testing.T) {
	var p Place
	ctx := At(context.Background(), &p)
	want := func(what string) {
		t.Helper()
		got := ""
		if w := p.Now(); w != nil {
			got = w.For
		}
		if got != what {
			t.Errorf("it waits for %q, want %q", got, what)
		}
	}
	want("")
	first := For(ctx, "first", "next")
	second := For(context.WithoutCancel(ctx), "second", "next")
	want("first")
	first()
	want("second")
	first()
	want("second")
	second()
	want("")
	For(context.Background(), "nobody keeps this", "")()
	want("")
}
