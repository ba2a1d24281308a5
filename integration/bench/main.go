// Bench measures what a container costs, for myshim and for containerd's own
// shim with runc (and with crun where that is installed), interleaved in one
// run:
//
//	go run ./bench [-n ITERATIONS]
//
// It speaks to the shims directly, so that containerd's own time is in none of
// the phases; only run_rm is a whole "ctr run --rm" under a containerd. The
// container has containerd's default spec and a payload of a few instructions.
// A table goes to stdout, the medians to ../bin/bench.json.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/myshim/myshim/integration/harness"
)

// Idle is between iterations and phases: a tight loop hides the RCU grace
// periods which a container on a quiet host pays for.
const idle = 25 * time.Millisecond

type metric struct{ name, unit, what string }

var metrics = []metric{
	{"shim_start", "ms", "the shim's start action, to its answer"},
	{"create", "ms", "Create"},
	{"start", "ms", "Start"},
	{"create_start", "ms", "both of one container"},
	{limitedStart, "ms", "both of a container with limits of every kind"},
	{"startup", "ms", "from the start action to the first output"},
	{"exec", "ms", "Exec, Start, Wait and Delete of a program that exits at once"},
	{"seccomp_create_start", "ms", "create_start with containerd's default seccomp profile"},
	{"seccomp_exec", "ms", "exec in such a container"},
	{"kill_exit", "ms", "Kill until Wait returns"},
	{"delete", "ms", "Delete"},
	{"delete_action", "ms", "the shim's delete action, with nothing left to do"},
	{"run_rm", "ms", "ctr run --rm, all of it"},
	{"parallel50", "ms", "50 containers at the same time, to the last one's start"},
	{"rss_idle", "KiB", "the shim of one idle container"},
	{"pss_idle", "KiB", "likewise, its share of shared pages"},
	{"pss_pod5", "KiB", "the shim of a pod of five"},
	{floor, "ms", "the same as create_start without shim and RPC; the ratio is create_start's to it"},
}

const (
	floor        = "floor_create_start"
	limitedStart = "create_start_limits"
)

func main() {
	n := flag.Int("n", 30, "iterations")
	rounds := flag.Int("parallel", 5, "iterations of parallel50 and of the memory metrics")
	out := flag.String("o", filepath.Join(filepath.Dir(harness.Bin("x")), "bench.json"), "file for the medians")
	flag.Parse()
	os.Exit(harness.Main(func() int {
		if err := run(*n, *rounds, *out); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 1
		}
		return 0
	}))
}

func run(n, rounds int, out string) error {
	wanted, err := harness.Runtimes()
	if err != nil {
		return err
	}
	var runtimes []harness.Runtime
	for _, r := range append(wanted, harness.Crun()) {
		if r.Missing != "" {
			fmt.Fprintf(os.Stderr, "*** %s is not measured: %s ***\n", r.Name, r.Missing)
			continue
		}
		runtimes = append(runtimes, r)
	}
	if len(runtimes) == 0 {
		return errors.New("nothing to measure")
	}
	b, err := newBench(runtimes)
	if err != nil {
		return err
	}
	defer b.close()
	for i := range n {
		progress("phases", i, n)
		// Each iteration begins with another runtime, so that none is always first.
		if err := b.each(i, b.phases); err != nil {
			return err
		}
		if err := b.each(i, b.limited); err != nil {
			return err
		}
		if err := b.each(i, b.filtered); err != nil {
			return err
		}
		if err := b.floor(); err != nil {
			return err
		}
	}
	for i := range n {
		progress("run --rm", i, n)
		if err := b.each(i, b.runRm); err != nil {
			return err
		}
	}
	for i := range rounds {
		progress("parallel and memory", i, rounds)
		if err := b.each(i, b.parallel); err != nil {
			return err
		}
		if err := b.each(i, b.memory); err != nil {
			return err
		}
	}
	fmt.Fprint(os.Stderr, "\r\x1b[K")
	return errors.Join(b.table(os.Stdout), b.write(out))
}

func progress(what string, i, n int) {
	fmt.Fprintf(os.Stderr, "\r\x1b[K%s %d/%d", what, i+1, n)
}

// Samples of one metric of one runtime.
type samples []float64

func (s samples) quantile(q float64) float64 {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func (s samples) median() float64 { return s.quantile(0.5) }

func (b *bench) ratio(m string) (float64, bool) {
	mine, theirs := b.samples["myshim"][m], b.samples[harness.Oracle][m]
	if m == floor {
		mine, theirs = b.samples["myshim"]["create_start"], mine
	}
	if len(mine) == 0 || len(theirs) == 0 {
		return 0, false
	}
	return mine.median() / theirs.median(), true
}

func (b *bench) table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := []string{"metric", "unit"}
	for _, r := range b.runtimes {
		row = append(row, r.Name, "p99")
	}
	fmt.Fprintln(w, strings.Join(append(row, "ratio", ""), "\t"))
	for _, m := range metrics {
		row := []string{m.name, m.unit}
		for _, r := range b.runtimes {
			if s := b.samples[r.Name][m.name]; len(s) > 0 {
				row = append(row, number(s.median()), number(s.quantile(0.99)))
			} else {
				row = append(row, "-", "-")
			}
		}
		if ratio, ok := b.ratio(m.name); ok {
			row = append(row, fmt.Sprintf("%.3f", ratio))
		} else {
			row = append(row, "-")
		}
		fmt.Fprintln(w, strings.Join(append(row, ""), "\t"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	var legend []string
	for _, m := range metrics {
		legend = append(legend, fmt.Sprintf("%s: %s", m.name, m.what))
	}
	for _, r := range b.runtimes {
		s := b.samples[r.Name]
		legend = append(legend, fmt.Sprintf("%s's limits make a start take %.2f times as long", r.Name, s[limitedStart].median()/s["create_start"].median()))
	}
	_, err := fmt.Fprintf(out, "\nMedians and 99th percentiles; ratio is myshim to runc.\n%s\n", strings.Join(legend, "\n"))
	return err
}

func number(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// Write the medians: metric → runtime → median, and the ratio.
func (b *bench) write(file string) error {
	all := map[string]map[string]float64{}
	for _, m := range metrics {
		row := map[string]float64{}
		for _, r := range b.runtimes {
			if s := b.samples[r.Name][m.name]; len(s) > 0 {
				row[r.Name] = s.median()
			}
		}
		if ratio, ok := b.ratio(m.name); ok {
			row["ratio"] = ratio
		}
		all[m.name] = row
	}
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}
