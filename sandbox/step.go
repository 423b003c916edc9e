package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
)

// A step is one effect on the host and its reverse. undo needs nothing but what
// it closes over, usually an id; it is safe when do never ran, ran half, or was
// undone before.
type step struct {
	name string
	do   func(context.Context) error
	undo func(context.Context) error
}

// undoBound is how long undoing a whole list may take: clean-up runs on a
// context of its own, since the request's may have ended.
const undoBound = 2 * time.Minute

// run does the steps in order. When one fails, it and all before it are undone,
// and the error joins what went wrong on the way back. at is told each step's
// name as it begins.
func run(ctx context.Context, steps []step, at func(string)) error {
	for i, s := range steps {
		at(s.name)
		err := context.Cause(ctx)
		if err == nil && s.do != nil {
			err = traced(ctx, s)
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", s.name, err)
			return errors.Join(err, undo(ctx, steps[:i+1]))
		}
	}
	at("")
	return nil
}

// traced does a step within a span of its own, for those who trace calls; nobody
// does unless the configuration says where to.
func traced(ctx context.Context, s step) error {
	ctx, span := otel.Tracer(tracer).Start(ctx, s.name)
	defer span.End()
	err := guarded(ctx, s.name, s.do)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	return err
}

// tracer names who made a span.
const tracer = "github.com/cri-box/cri-box"

// An undoError is a step that could not be undone: something is left.
type undoError struct {
	step string
	err  error
}

func (e *undoError) Error() string { return fmt.Sprintf("undo %s: %v", e.step, e.err) }
func (e *undoError) Unwrap() error { return e.err }

// leftBehind tells whether a list of steps failed and could not be undone.
func leftBehind(err error) bool {
	var u *undoError
	return errors.As(err, &u)
}

// undo undoes the steps in reverse order, all of them, whatever fails.
func undo(ctx context.Context, steps []step) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBound)
	defer cancel()
	var errs []error
	for i := len(steps) - 1; i >= 0; i-- {
		if steps[i].undo == nil {
			continue
		}
		if err := guarded(ctx, "undo "+steps[i].name, steps[i].undo); err != nil {
			errs = append(errs, &undoError{steps[i].name, err})
		}
	}
	return errors.Join(errs...)
}
