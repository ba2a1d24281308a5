package seccomp

import (
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func BenchmarkCompile(b *testing.B) {
	p := profiles(b)["docker-default-x86_64"]
	b.ReportAllocs()
	for b.Loop() {
		f, err := Compile(p)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(f.Len), "instructions")
	}
}

func BenchmarkCache(b *testing.B) {
	p := profiles(b)["docker-default-x86_64"]
	var c Cache
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Compile(p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLoad compares what it costs to load the tree, and a list of
// comparisons that means the same.
func BenchmarkLoad(b *testing.B) {
	p := profiles(b)["docker-default-x86_64"]
	tree, err := Compile(p)
	if err != nil {
		b.Fatal(err)
	}
	list := listOf(b, p)
	b.Run("tree", func(b *testing.B) { benchmarkLoad(b, tree.Program) })
	b.Run("list", func(b *testing.B) { benchmarkLoad(b, list) })
}

func benchmarkLoad(b *testing.B, program []byte) {
	var spent time.Duration
	for b.Loop() {
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // and let it go with its filter
			if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
				done <- err
			}
			start := time.Now()
			_, err := load(program, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW)
			spent += time.Since(start)
			done <- err
		}()
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(spent.Microseconds())/float64(b.N), "µs/load")
	b.ReportMetric(float64(len(program)/8), "instructions")
}

// listOf is Compile with a comparison for each call, and no tree.
func listOf(t testing.TB, p *specs.LinuxSeccomp) []byte {
	f := &Filter{}
	def := actionValue(p.DefaultAction, p.DefaultErrnoRet)
	tables, err := f.tables(p.Architectures, family(specs.ArchX86_64))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.rules(p.Syscalls, def, tables); err != nil {
		t.Fatal(err)
	}
	program := &program{returns: map[uint32]int{}}
	entry := returns(unix.SECCOMP_RET_KILL_THREAD)
	for _, table := range slices.Backward(tables) {
		next := returns(def)
		if table.newest > 0 {
			next = program.branch(unix.BPF_JGT, table.newest, returns(unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)), next)
		}
		for n, e := range slices.Backward(table.entries) {
			to := returns(e.action)
			if !e.always {
				if e.rules == nil {
					continue
				}
				rules, err := settle(e.rules)
				if err != nil {
					t.Fatal(err)
				}
				to = program.rules(rules, table.wide, returns(def))
			}
			next = program.branch(unix.BPF_JEQ, table.first+uint32(n), to, next)
		}
		at := program.load(offsetNr)
		entry = program.branch(unix.BPF_JEQ, table.audit, at, entry)
	}
	program.load(offsetArch)
	return encode(program.code)
}
