package process

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/netdev"
)

// moveDevices moves interfaces of the host into the container's network
// namespace. When that ends the kernel gives physical ones back, and nobody else
// may (config-linux.md, "Namespace Lifecycle and Container Termination").
func (m *making) moveDevices() error {
	list := m.spec.Linux.NetDevices
	if len(list) == 0 {
		return nil
	}
	namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", m.init.PID))
	if err != nil {
		return err
	}
	defer namespace.Close()
	for _, name := range slices.Sorted(maps.Keys(list)) {
		inside := list[name].Name
		if inside == "" {
			inside = name
		}
		err := m.init.EnterNamespaces(unix.CLONE_NEWNET, func() (err error) {
			inside, err = netdev.FreeName(inside)
			return err
		})
		var device *netdev.Device
		if err == nil {
			device, err = netdev.Take(name, inside, namespace)
		}
		if err == nil {
			err = m.init.EnterNamespaces(unix.CLONE_NEWNET, device.Settle)
		}
		if err != nil {
			return fmt.Errorf("linux.netDevices[%s]: %w", name, err)
		}
	}
	return nil
}
