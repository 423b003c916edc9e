package sandbox

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
)

// A fake is work whose course a test decides.
type fake struct {
	runs    int
	begun   chan struct{}
	proceed chan error
	dropped chan string
}

func newFake() *fake {
	return &fake{begun: make(chan struct{}, 9), proceed: make(chan error, 9), dropped: make(chan string, 9)}
}

func (k *fake) work() flightWork {
	return flightWork{
		do: func(ctx context.Context) (string, error) {
			k.runs++
			k.begun <- struct{}{}
			select {
			case err := <-k.proceed:
				return "the-id", err
			case <-ctx.Done():
				return "", context.Cause(ctx)
			}
		},
		same: func(other any) error {
			if other != "request" {
				return ErrExists
			}
			return nil
		},
		drop: func(_ context.Context, id string) error { k.dropped <- id; return nil },
	}
}

type outcome struct {
	id  string
	err error
}

func (f *flights) joinLater(ctx context.Context, k *fake, request string) chan outcome {
	done := make(chan outcome, 1)
	go func() {
		id, err := f.join(ctx, "key", request, k.work())
		done <- outcome{id, err}
	}()
	return done
}

// waiting counts the clients of a flight; -1 if there is none.
func (f *flights) waiting(key string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.byKey[key]; fl != nil {
		return fl.waiters
	}
	return -1
}

// beginAndGo has a client begin the work and go away.
func (f *flights) beginAndGo(t *testing.T, k *fake) {
	ctx, cancel := context.WithCancel(t.Context())
	first := f.joinLater(ctx, k, "request")
	<-k.begun
	cancel()
	<-first
}

// done is closed when the work of a flight has ended.
func (f *flights) done(key string) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.byKey[key].done
}

func TestSameRequestSharesTheWork(t *testing.T) {
	f, k := &flights{}, newFake()
	first := f.joinLater(t.Context(), k, "request")
	<-k.begun
	second := f.joinLater(t.Context(), k, "request")
	for f.waiting("key") < 2 {
		runtime.Gosched()
	}
	if _, err := f.join(t.Context(), "key", "other", flightWork{same: func(any) error { return ErrExists }}); !errors.Is(err, ErrExists) {
		t.Errorf("another request under the key: %v", err)
	}
	k.proceed <- nil
	for _, ch := range []chan outcome{first, second} {
		if o := <-ch; o.id != "the-id" || o.err != nil {
			t.Errorf("%+v", o)
		}
	}
	if k.runs != 1 {
		t.Errorf("the work was done %d times", k.runs)
	}
}

func TestRetryFindsWhatItsPredecessorBegan(t *testing.T) {
	f, k := &flights{}, newFake()
	ctx, cancel := context.WithCancel(t.Context())
	first := f.joinLater(ctx, k, "request")
	<-k.begun
	cancel()
	if o := <-first; !errors.Is(o.err, context.Canceled) {
		t.Errorf("%+v", o)
	}
	retry := f.joinLater(t.Context(), k, "request")
	for f.waiting("key") < 1 {
		runtime.Gosched()
	}
	k.proceed <- nil
	if o := <-retry; o.id != "the-id" || o.err != nil || k.runs != 1 {
		t.Errorf("%+v after %d runs", o, k.runs)
	}
}

// TestFinishedWorkIsLookedAtAgain: what was made for a client that had gone may
// have been removed since; its retry is not answered from memory.
func TestFinishedWorkIsLookedAtAgain(t *testing.T) {
	f, k := &flights{}, newFake()
	f.beginAndGo(t, k)
	done := f.done("key")
	k.proceed <- nil
	<-done
	k.proceed <- nil
	if id, err := f.join(t.Context(), "key", "request", k.work()); id != "the-id" || err != nil || k.runs != 2 {
		t.Errorf("%q, %v after %d runs", id, err, k.runs)
	}
	if n := f.waiting("key"); n >= 0 {
		t.Errorf("a flight with %d clients is left", n)
	}
}

// The bound of the retry passes when all that the work can do is done: the time of
// a bubble waits for that.
func TestAbandonedWorkIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, k := &flights{}, newFake()
		ctx, cancel := context.WithCancel(t.Context())
		first := f.joinLater(ctx, k, "request")
		<-k.begun
		k.proceed <- nil // it may finish before or after its client goes: both end the same
		cancel()
		if o := <-first; o.err == nil {
			return // the client had its answer first: nothing is abandoned
		}
		if id := <-k.dropped; id != "the-id" {
			t.Errorf("dropped %q", id)
		}
	})
}

func TestAbandonedWorkIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, k := &flights{}, newFake()
		f.beginAndGo(t, k)
		<-f.done("key") // the work ends by its own context; a new request then begins anew
		again := f.joinLater(t.Context(), k, "request")
		<-k.begun
		k.proceed <- nil
		if o := <-again; o.id != "the-id" || o.err != nil {
			t.Errorf("%+v", o)
		}
	})
}

func TestPanicIsAnError(t *testing.T) {
	f := &flights{}
	_, err := f.join(t.Context(), "key", "request", flightWork{do: func(context.Context) (string, error) { panic("ouch") }})
	if err == nil || err.Error() != "internal error: ouch" {
		t.Errorf("error %v", err)
	}
}

func TestStepsAreUndoneInReverse(t *testing.T) {
	var did []string
	make := func(name string, err error) step {
		return step{name, func(context.Context) error { did = append(did, "do "+name); return err },
			func(context.Context) error { did = append(did, "undo "+name); return fmt.Errorf("%s stays", name) }}
	}
	broken := errors.New("broken")
	err := run(t.Context(), []step{make("a", nil), make("b", nil), make("c", broken), make("d", nil)}, func(string) {})
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	want := "[do a do b do c undo c undo b undo a]"
	if got := fmt.Sprint(did); got != want {
		t.Errorf("did %s, want %s", got, want)
	}
	for _, part := range []string{"c: broken", "undo a: a stays", "undo b: b stays", "undo c: c stays"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}
