package integration

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/myshim/myshim/integration/harness"
)

// Many lives in a row: nothing fails, nothing is left. The check after the test
// sees processes, mounts, cgroups, sockets, FIFOs and bundles.
func TestRunMany(t *testing.T) {
	each(t, func(e *env) {
		n := count(30, 1000)
		for i := range n {
			if r := e.ctr(e.ctrRun("--rm", baseImage, newID(), "/bin/testbox", "echo", strconv.Itoa(i))...); r != (result{fmt.Sprintln(i), "", 0}) {
				e.Fatalf("round %d: %+v", i, r)
			}
		}
	})
}

// Many in batches of 20 at a time.
func TestRunManyInParallel(t *testing.T) {
	each(t, func(e *env) {
		batch := 20
		if e.oracle() && patience() > 1 { // with more, containerd gives up what is too slow
			batch = 5
		}
		for range count(2, 10) {
			e.batch(batch)
		}
	})
}

// Batch runs so many containers at the same time, each with its own exit code.
func (e *env) batch(n int) {
	e.Helper()
	results := make(chan [2]int, n)
	for i := range n {
		go func() {
			r := e.ctr(e.ctrRun("--rm", baseImage, newID(), "/bin/testbox", "exit", strconv.Itoa(i))...)
			if r.err != "" {
				e.Errorf("container %d: %+v", i, r)
			}
			results <- [2]int{i, r.code}
		}()
	}
	for range n {
		if r := <-results; r[0] != r[1] {
			e.Errorf("exit code %d, want %d", r[1], r[0])
		}
	}
}

// Many execs in one container: the shim stays as it was after the first ones,
// in memory, descriptors, threads and goroutines.
func TestExecMany(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(still())
		shim := s.startVitals(c)
		n := count(300, 10_000)
		run := func(count int) {
			s.Helper()
			for i := range count {
				id := fmt.Sprint("e", i)
				s.must(c.exec(id, nil, "/bin/testbox", "true"))
				s.must(c.start(id))
				exit, err := c.wait(id)
				s.must(err)
				if exit.ExitStatus != 0 {
					s.Fatalf("exec %d: exit status %d", i, exit.ExitStatus)
				}
				_, err = c.delete(id)
				s.must(err)
			}
		}
		run(max(100, n/10)) // by then pools and buffers have their size
		before := shim.read()
		run(n)
		shim.check(before, shim.read())
	})
}

// Many execs at the same time, again and again, some of them failing, some
// with terminals.
func TestExecManyInParallel(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(still())
		shim := b.shimPid()
		var before harness.Vitals
		rounds := count(4, 50)
		for round := range rounds {
			done := make(chan error, 20)
			for i := range cap(done) {
				go func() { done <- e.oneOfMany(b, i) }()
			}
			for range cap(done) {
				e.must(<-done)
			}
			if round == rounds/2 {
				before = e.vitals(shim)
			}
		}
		e.notGrown(before, shim)
	})
}

func (e *env) oneOfMany(b *box, i int) error {
	words, opts := []string{"/bin/testbox", "echo", "x"}, []execOpt{}
	switch i % 4 {
	case 1:
		words = []string{"/bin/missing"}
	case 2:
		opts = append(opts, execTerminal)
	case 3:
		opts = append(opts, execIO(cio.NullIO))
	}
	p, err := b.tryExec(words, opts...)
	if err != nil {
		return err
	}
	if err := p.Start(e.ctx); (err == nil) != (i%4 != 1) {
		return fmt.Errorf("start of %q: %w", words, err)
	}
	if i%4 != 1 {
		<-p.exit
	}
	_, err = p.Delete(e.ctx)
	return err
}

// A pod's shim outlives many containers.
func TestPodOfMany(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(still())
		shim := s.startVitals(c)
		var before reading
		n := count(20, 500)
		for i := range n {
			m := c.newMember(testbox("exit", "0"))
			m.launch()
			_, err := m.wait("")
			s.must(err)
			_, err = m.delete("")
			s.must(err)
			m.streams.close()
			s.must(m.Disconnect())
			if i == n/2 {
				before = shim.read()
			}
		}
		shim.check(before, shim.read())
	})
}

// Waits, states and stats of clients that give up leave nothing in the shim.
func TestImpatientClients(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(still())
		shim := s.startVitals(c)
		impatient := func(n int) {
			for range n {
				again, err := c.Again(s.ctx)
				s.must(err)
				go func() { _, _ = again.Wait(s.ctx, &taskv3.WaitRequest{ID: c.id}) }()
				s.must(stats(c))
				s.must(again.Disconnect())
			}
		}
		impatient(10)
		before := shim.read()
		impatient(count(50, 1000))
		shim.check(before, shim.read())
	})
}

// VitalsOf a shim that a test drives itself, and whose log it has.
type vitalsOf struct {
	s *stage
	t *task
}

type reading struct {
	harness.Vitals
	goroutines int
}

func (s *stage) startVitals(t *task) vitalsOf { return vitalsOf{s, t} }

func (v vitalsOf) read() reading {
	v.s.Helper()
	n, err := harness.Goroutines(v.s.ctx, v.t.Pid, &v.t.Bundle.Log)
	v.s.must(err)
	return reading{v.s.vitals(v.t.Pid), n}
}

// Check that the shim has settled at what it was before: it may take a moment
// to notice that clients are gone.
func (v vitalsOf) check(before, after reading) {
	v.s.Helper()
	for range 50 {
		if after.goroutines <= before.goroutines+2 && len(after.FDs) <= len(before.FDs) {
			break
		}
		time.Sleep(20 * time.Millisecond)
		after = v.read()
	}
	v.s.notGrown(before.Vitals, v.t.Pid)
	if after.goroutines > before.goroutines+2 {
		v.s.Errorf("goroutines grew from %d to %d", before.goroutines, after.goroutines)
	}
	// The heap breathes by its own size, and more on a slow machine, where more is
	// allocated while it is collected; a leak of 1 KiB for each of 10,000 execs is
	// 10 MiB.
	if limit := before.RSS + before.RSS/4 + 2048*patience(); after.RSS > limit && !v.s.oracle() {
		v.s.Errorf("memory grew from %d to %d KiB", before.RSS, after.RSS)
	}
	v.s.Logf("RSS %d → %d KiB, PSS %d → %d KiB, descriptors %d → %d, threads %d → %d, goroutines %d → %d",
		before.RSS, after.RSS, before.PSS, after.PSS, len(before.FDs), len(after.FDs), before.Threads, after.Threads, before.goroutines, after.goroutines)
}
