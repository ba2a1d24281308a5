package cgroup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// freezer returns the directory that freezes: v1's, or one of cgroup v2, which
// has it without any controller.
func (g *Group) freezer() *dir {
	if d := g.dir("freezer"); d != nil {
		return d
	}
	return g.dir("")
}

var errNoFreezer = fmt.Errorf("the cgroup has no freezer: %w", errors.ErrUnsupported)

// freezeTime is how long Freeze tries when ctx knows no sooner end: as long as
// runc.
const freezeTime = 10 * time.Second

// Freeze stops all processes of the group, and returns when they have stopped.
// If they don't in time, or Thaw or Kill are called meanwhile, they go on, and
// it is an error. A clone into a frozen group hangs.
func (g *Group) Freeze(ctx context.Context) error {
	if err := g.use(); err != nil {
		return err
	}
	defer g.done()
	d := g.freezer()
	if d == nil {
		return errNoFreezer
	}
	ctx, cancel := context.WithTimeout(ctx, freezeTime)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	g.mu.Lock()
	warm := g.warm
	g.mu.Unlock()
	defer context.AfterFunc(warm, func() { stop(context.Cause(warm)) })()

	err := context.Cause(warm)
	if err == nil {
		err = d.freeze(ctx)
	}
	if err == nil {
		err = context.Cause(warm)
	}
	if err != nil {
		return fmt.Errorf("freeze cgroup %s: %w", d.absolute(), errors.Join(err, d.thaw()))
	}
	return nil
}

var (
	errThawed = errors.New("it was thawed meanwhile")
	errKilled = errors.New("it is being killed")
)

// Thaw lets the processes go on.
func (g *Group) Thaw() error {
	if err := g.use(); err != nil {
		return err
	}
	defer g.done()
	d := g.freezer()
	if d == nil {
		return errNoFreezer
	}
	g.endFreeze(errThawed)
	if err := d.thaw(); err != nil {
		return fmt.Errorf("thaw cgroup: %w", err)
	}
	return nil
}

// endFreeze ends each Freeze that is waiting; after errKilled, those to come as
// well: on v1, who is frozen does not die.
func (g *Group) endFreeze(why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if errors.Is(context.Cause(g.warm), errKilled) {
		return
	}
	g.endWarm(why)
	if !errors.Is(why, errKilled) {
		g.warm, g.endWarm = context.WithCancelCause(context.Background())
	}
}

func (d dir) freeze(ctx context.Context) error {
	if d.v2() {
		if err := d.write("cgroup.freeze", "1"); err != nil {
			return err
		}
		return d.await(ctx, "frozen 1")
	}
	// v1 may stay in FREEZING for good when processes fork meanwhile; writing
	// it again makes the kernel go through all of them again, and letting
	// them run for a moment helps, too.
	for i := 1; ; i++ {
		if err := d.write("freezer.state", "FROZEN"); err != nil {
			return err
		}
		state, err := d.read("freezer.state")
		if err != nil {
			return err
		}
		switch strings.TrimSpace(state) {
		case "FROZEN":
			return nil
		case "THAWED":
			return errThawed
		}
		pause := time.Duration(min(i*i, 1000)) * time.Microsecond
		if i%50 == 0 {
			if err := d.thaw(); err != nil {
				return err
			}
			pause = 10 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

func (d dir) thaw() error {
	var err error
	if d.v2() {
		err = d.write("cgroup.freeze", "0")
	} else {
		err = d.write("freezer.state", "THAWED")
	}
	if gone(err) {
		return nil
	}
	return err
}

// frozen says whether this very group, not one above it, is frozen. In a
// hierarchy without a freezer, it is not.
func (d dir) frozen() (bool, error) {
	var state string
	var err error
	switch {
	case d.v2():
		if state, err = d.read("cgroup.freeze"); err == nil && state == "1\n" {
			state, err = d.read("cgroup.events")
			return strings.Contains(state, "frozen 1"), err
		}
	case slices.Contains(d.Controllers, "freezer"):
		if state, err = d.read("freezer.state"); err == nil && state == "FROZEN\n" {
			state, err = d.read("freezer.self_freezing")
			return state == "1\n", err
		}
	}
	if gone(err) {
		err = nil
	}
	return false, err
}
