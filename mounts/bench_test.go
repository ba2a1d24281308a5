package mounts

import (
	"fmt"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// BenchmarkBinds makes a root with bind mounts in a fresh mount namespace; the
// time is for all of it.
func BenchmarkBinds(b *testing.B) {
	for _, n := range []int{0, 5, 50, 500} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			host, rootfs := image(b, "proc/", "host:source/")
			s := container()
			for i := range n {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: fmt.Sprintf("/mnt/%d", i), Source: host + "/source", Options: []string{"rbind", "ro", "nosuid"}})
			}
			for b.Loop() {
				b.StopTimer()
				apart(b, func() error {
					if err := unix.Mount("tmpfs", rootfs, "tmpfs", 0, ""); err != nil {
						return err
					}
					b.StartTimer()
					err := tryBuild(s, rootfs)
					b.StopTimer()
					return err
				})
				b.StartTimer()
			}
		})
	}
}
