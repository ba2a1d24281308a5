package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/spec"
)

// Hold starts a process that does nothing until release is called. systemd
// makes no scope without one, and removes it with the last one.
type Hold func() (pid int, release func(), err error)

// CreateScope is Create for a Location with a Unit: systemd makes the group. The
// process of hold is in it until the first Join has been closed.
//
// Annotations org.systemd.property.NAME are properties of the unit, in the
// text form of D-Bus.
//
// Here the grace period, which Join saves, is paid by systemd: it moves the
// process by its pid.
func CreateScope(ctx context.Context, l Location, r *specs.LinuxResources, annotations map[string]string, hold Hold) (*Group, error) {
	if _, err := os.Lstat("/run/systemd/system"); err != nil {
		return nil, fmt.Errorf("linux.cgroupsPath: systemd is not running here: %w", err)
	}
	extra, err := annotated(annotations)
	if err != nil {
		return nil, err
	}
	pid, release, err := hold()
	if err != nil {
		return nil, fmt.Errorf("start a process to hold %s: %w", l.Unit, err)
	}
	g := newGroup(l)
	g.release = release
	if err = startUnit(ctx, l.Unit, append(g.scope(ctx, pid, r), extra...)); err != nil {
		taken := isError(err, "UnitExists")
		err = fmt.Errorf("start unit %s: %w", l.Unit, err)
		if taken { // it is another's to stop
			g.holdNoMore()
			g.Close()
			return nil, err
		}
	}
	for i := 0; err == nil && i < len(l.Dirs); i++ {
		var d dir
		var made []string // what is above stays, as the slice does
		if d, _, err = create(l.Dirs[i], l.V2(), &made); err == nil {
			g.dirs = append(g.dirs, d)
		}
	}
	if err == nil {
		err = g.prepare(r)
	}
	if err != nil {
		return nil, errors.Join(err, g.Delete(context.WithoutCancel(ctx)))
	}
	return g, nil
}

// scope are the properties that the unit is made with.
func (g *Group) scope(ctx context.Context, pid int, r *specs.LinuxResources) []property {
	props := []property{
		{"Description", "container " + strings.TrimSuffix(g.Unit, ".scope")},
		{"Slice", g.Slice},
		{"Delegate", true},
		{"PIDs", []uint32{uint32(pid)}},
		{"MemoryAccounting", true},
		{"CPUAccounting", true},
		{map[bool]string{true: "IOAccounting", false: "BlockIOAccounting"}[g.V2()], true},
		{"TasksAccounting", true},
		{"DefaultDependencies", false},
	}
	if r == nil {
		return props
	}
	// systemd takes this only now, since version 253.
	policy, ok := map[string]string{"0": "continue", "1": "kill"}[strings.TrimSpace(r.Unified["memory.oom.group"])]
	if ok && version(ctx) >= 253 {
		props = append(props, property{"OOMPolicy", policy})
	}
	return props
}

// annotated are the properties that annotations ask for.
func annotated(annotations map[string]string) ([]property, error) {
	var props []property
	for _, key := range sortedKeys(annotations) {
		name, ok := strings.CutPrefix(key, "org.systemd.property.")
		if !ok {
			continue
		}
		field := fmt.Sprintf("annotations[%q]", key)
		if len(name) < 3 || strings.ContainsFunc(name, func(c rune) bool { return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') }) {
			return nil, spec.Invalid(field, "%q is no name of a property", name)
		}
		v, err := dbus.ParseVariant(annotations[key], dbus.Signature{})
		if err != nil {
			return nil, spec.Invalid(field, "%v", err)
		}
		// systemd's documentation says …Sec, and D-Bus wants …USec.
		if base, ok := strings.CutSuffix(name, "Sec"); ok && base != "" && base[len(base)-1] >= 'a' && base[len(base)-1] <= 'z' {
			seconds, err := strconv.ParseFloat(fmt.Sprint(v.Value()), 64)
			if err != nil {
				return nil, spec.Invalid(field, "%v is not a number", v)
			}
			name, v = base+"USec", dbus.MakeVariant(uint64(seconds*1e6))
		}
		props = append(props, property{name, v})
	}
	return props, nil
}

// setUnit tells systemd of the limits.
func (g *Group) setUnit(props []property) error {
	if len(props) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), systemdTime)
	defer cancel()
	isIdle := func(p property) bool { return p.name == "CPUWeight" && p.value == uint64(0) }
	if slices.ContainsFunc(props, isIdle) && version(ctx) < 252 {
		props = slices.DeleteFunc(slices.Clone(props), isIdle)
	}
	// v1: systemd denies all devices for a moment.
	if d := g.dir("freezer"); d != nil {
		if frozen, err := d.frozen(); err == nil && !frozen {
			if err := d.freeze(ctx); err != nil {
				return errors.Join(err, d.thaw())
			}
			return errors.Join(g.setProperties(ctx, props), d.thaw())
		}
	}
	return g.setProperties(ctx, props)
}

func (g *Group) setProperties(ctx context.Context, props []property) error {
	err := withSystemd(ctx, func(c *systemd.Conn) error {
		return c.SetUnitPropertiesContext(ctx, g.Unit, true, variants(props)...)
	})
	if err != nil {
		return fmt.Errorf("set properties of unit %s: %w", g.Unit, err)
	}
	return nil
}

// deleteUnit removes what systemd may still know of the unit. Mostly it is gone
// with the last process, unless that has failed, as systemd sees it.
func (g *Group) deleteUnit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, systemdTime)
	defer cancel()
	err := withSystemd(ctx, func(c *systemd.Conn) error {
		done := make(chan string, 1)
		if _, err := c.StopUnitContext(ctx, g.Unit, "replace", done); err == nil {
			select {
			case <-done:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return c.ResetFailedUnitContext(ctx, g.Unit)
	})
	if err != nil && !isError(err, "NoSuchUnit") {
		return fmt.Errorf("stop unit %s: %w", g.Unit, err)
	}
	return nil
}

// holdNoMore ends the process of Hold.
func (g *Group) holdNoMore() {
	g.mu.Lock()
	release := g.release
	g.release = nil
	g.mu.Unlock()
	if release != nil {
		release()
	}
}

// systemdTime is how long systemd may take.
const systemdTime = 30 * time.Second

func startUnit(ctx context.Context, unit string, props []property) error {
	ctx, cancel := context.WithTimeout(ctx, systemdTime)
	defer cancel()
	return withSystemd(ctx, func(c *systemd.Conn) error {
		done := make(chan string, 1)
		_, err := c.StartTransientUnitContext(ctx, unit, "replace", variants(props), done)
		if isError(err, "UnitExists") {
			// Maybe one that has failed: then it can go.
			_ = c.ResetFailedUnitContext(ctx, unit)
			_, err = c.StartTransientUnitContext(ctx, unit, "replace", variants(props), done)
		}
		if err != nil {
			return err
		}
		select {
		case result := <-done:
			if result != "done" {
				return fmt.Errorf("systemd says: %s", result)
			}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// version is that of systemd, 0 if it cannot be found out.
func version(ctx context.Context) (n int) {
	_ = withSystemd(ctx, func(c *systemd.Conn) error {
		text, err := c.GetManagerProperty("Version")
		text = strings.TrimLeft(text, `"v`)
		n, _ = strconv.Atoi(text[:len(text)-len(strings.TrimLeft(text, "0123456789"))])
		return err
	})
	return n
}

func isError(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == "org.freedesktop.systemd1."+name
}

// withSystemd connects for one call: there are few of them in the life of a
// container, and none needs a goroutine in between.
func withSystemd(ctx context.Context, f func(*systemd.Conn) error) error {
	for delay := time.Millisecond; ; delay *= 2 {
		conn, err := systemd.NewWithContext(ctx)
		if err == nil {
			defer conn.Close()
			return f(conn)
		}
		// Too many connect at once.
		if !errors.Is(err, unix.EAGAIN) {
			return fmt.Errorf("connect to systemd: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("connect to systemd: %w", err)
		case <-time.After(delay):
		}
	}
}

func variants(props []property) []systemd.Property {
	list := make([]systemd.Property, 0, len(props))
	for _, p := range props {
		v, ok := p.value.(dbus.Variant)
		if !ok {
			v = dbus.MakeVariant(p.value)
		}
		list = append(list, systemd.Property{Name: p.name, Value: v})
	}
	return slices.Clip(list)
}
