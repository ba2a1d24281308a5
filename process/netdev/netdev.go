// Package netdev answers: how does a network interface of the host get into a
// container?
//
// By three requests of rtnetlink(7). What the kernel forgets when an interface
// changes its namespace, its state and its addresses, is set again afterwards.
package netdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Device is an interface on its way.
type Device struct {
	Name      string // on the host
	NewName   string // in the container
	addresses []address
}

// address is a permanent one, of global scope: others, as those of IPv6 for the
// link, the kernel makes anew.
type address struct {
	header     unix.IfAddrmsg
	attributes []syscall.NetlinkRouteAttr
}

// Take moves the interface out of the calling thread's network namespace into
// another one, down, under its new name, which must be free there: the kernel
// would first move it and then refuse the name.
func Take(name, newName string, namespace *os.File) (*Device, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	d := &Device{Name: name, NewName: newName}
	if d.addresses, err = addressesOf(link.Index); err != nil {
		return nil, fmt.Errorf("read its addresses: %w", err)
	}
	if err := setUp(link.Index, false); err != nil {
		return nil, fmt.Errorf("set it down: %w", err)
	}
	message := linkMessage(link.Index, 0, 0)
	message = attribute(message, unix.IFLA_NET_NS_FD, binary.NativeEndian.AppendUint32(nil, uint32(namespace.Fd())))
	message = attribute(message, unix.IFLA_IFNAME, append([]byte(newName), 0))
	if err := request(unix.RTM_NEWLINK, 0, message); err != nil {
		if link.Flags&net.FlagUp != 0 {
			err = errors.Join(err, setUp(link.Index, true))
		}
		return nil, fmt.Errorf("move it: %w", err)
	}
	return d, nil
}

// FreeName is a name that is free in the calling thread's network namespace: the
// given one, or, if there is a %d in it, the first. The kernel would choose the
// same, and not tell.
func FreeName(name string) (string, error) {
	all, err := net.Interfaces()
	if err != nil {
		return "", err
	}
	taken := func(name string) bool {
		return slices.ContainsFunc(all, func(i net.Interface) bool { return i.Name == name })
	}
	before, after, template := strings.Cut(name, "%d")
	if !template {
		if taken(name) {
			return "", fmt.Errorf("%s: %w", name, unix.EEXIST)
		}
		return name, nil
	}
	for n := 0; ; n++ {
		if candidate := before + strconv.Itoa(n) + after; !taken(candidate) {
			return candidate, nil
		}
	}
}

// Settle gives the interface its addresses back and sets it up, in the namespace
// of the calling thread, which it was moved into.
func (d *Device) Settle() error {
	link, err := net.InterfaceByName(d.NewName)
	if err != nil {
		return err
	}
	for _, a := range d.addresses {
		header := a.header
		header.Index, header.Flags = uint32(link.Index), 0
		message := []byte{header.Family, header.Prefixlen, header.Flags, header.Scope}
		message = binary.NativeEndian.AppendUint32(message, header.Index)
		for _, attr := range a.attributes {
			switch attr.Attr.Type {
			case unix.IFA_LOCAL, unix.IFA_ADDRESS, unix.IFA_BROADCAST:
				message = attribute(message, attr.Attr.Type, attr.Value)
			}
		}
		if err := request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, message); err != nil {
			return fmt.Errorf("set its addresses: %w", err)
		}
	}
	if err := setUp(link.Index, true); err != nil {
		return fmt.Errorf("set it up: %w", err)
	}
	return nil
}

func addressesOf(index int) ([]address, error) {
	table, err := syscall.NetlinkRIB(unix.RTM_GETADDR, unix.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	messages, err := syscall.ParseNetlinkMessage(table)
	if err != nil {
		return nil, err
	}
	var found []address
	for _, m := range messages {
		if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < unix.SizeofIfAddrmsg {
			continue
		}
		header := unix.IfAddrmsg{Family: m.Data[0], Prefixlen: m.Data[1], Flags: m.Data[2], Scope: m.Data[3], Index: binary.NativeEndian.Uint32(m.Data[4:])}
		if int(header.Index) != index || header.Flags&unix.IFA_F_PERMANENT == 0 || header.Scope != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			return nil, err
		}
		found = append(found, address{header, attributes})
	}
	return found, nil
}

func setUp(index int, up bool) error {
	var flags uint32
	if up {
		flags = unix.IFF_UP
	}
	return request(unix.RTM_NEWLINK, 0, linkMessage(index, flags, unix.IFF_UP))
}

// linkMessage is a struct ifinfomsg.
func linkMessage(index int, flags, change uint32) []byte {
	message := make([]byte, 4, unix.SizeofIfInfomsg)
	message = binary.NativeEndian.AppendUint32(message, uint32(index))
	message = binary.NativeEndian.AppendUint32(message, flags)
	return binary.NativeEndian.AppendUint32(message, change)
}

// attribute appends a struct rtattr, which begins at a multiple of 4.
func attribute(message []byte, kind uint16, value []byte) []byte {
	message = binary.NativeEndian.AppendUint16(message, uint16(unix.SizeofRtAttr+len(value)))
	message = binary.NativeEndian.AppendUint16(message, kind)
	message = append(message, value...)
	for len(message)%4 != 0 {
		message = append(message, 0)
	}
	return message
}

// request sends a message to the kernel and waits for its answer.
func request(kind, flags uint16, message []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	// struct nlmsghdr of netlink(7)
	packet := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(message)))
	packet = binary.NativeEndian.AppendUint16(packet, kind)
	packet = binary.NativeEndian.AppendUint16(packet, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	packet = append(packet, make([]byte, 8)...) // one request, one answer: no number is needed
	packet = append(packet, message...)
	if err := unix.Sendto(fd, packet, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	// The acknowledgement is a header, the negative errno, and what it is about.
	answer := make([]byte, 8192)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	switch {
	case err != nil:
		return os.NewSyscallError("recvfrom", err)
	case n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR:
		return errors.New("rtnetlink: an answer that is none")
	}
	if errno := -int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}
