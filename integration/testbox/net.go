package main

import (
	"fmt"
	"io"
	"net"
	"os"
)

var netApplets = []applet{
	{"listen", "NETWORK ADDRESS: answer one connection with what it says", listen},
	{"dial", "NETWORK ADDRESS WORD: say it, print the answer", dial},
	{"cni", "a network plugin on the host, which says that a pod's network has an address, and does nothing", cni},
}

func listen(args []string) int {
	l, err := net.Listen(args[0], args[1])
	if err != nil {
		return check(err)
	}
	defer func() { _ = l.Close() }()
	fmt.Println("listening", l.Addr())
	conn, err := l.Accept()
	if err != nil {
		return check(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = io.Copy(conn, conn)
	return check(err)
}

func dial(args []string) int {
	conn, err := net.Dial(args[0], args[1])
	if err != nil {
		fmt.Println(outcome(err))
		return 0
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, args[2]); err != nil {
		return check(err)
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		if err := half.CloseWrite(); err != nil {
			return check(err)
		}
	}
	answer, err := io.ReadAll(conn)
	fmt.Println(string(answer))
	return check(err)
}

func interfaces() any {
	found := map[string]string{}
	all, err := net.Interfaces()
	if err != nil {
		return outcome(err)
	}
	for _, i := range all {
		found[i.Name] = i.Flags.String()
	}
	return found
}

func cni([]string) int {
	if os.Getenv("CNI_COMMAND") != "ADD" {
		return 0
	}
	return printJSON(map[string]any{
		"cniVersion": "1.0.0",
		"interfaces": []any{map[string]string{"name": os.Getenv("CNI_IFNAME"), "sandbox": os.Getenv("CNI_NETNS")}},
		"ips":        []any{map[string]any{"address": "192.0.2.7/24", "interface": 0}},
	})
}
