package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/myshim/myshim/process"
)

// inspect is the command inspect: it shows the namespaces of running containers,
// and, of one container, its mounts.
func inspect(args []string) error {
	flags := flag.NewFlagSet("inspect", flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "print JSON")
	namespace := flags.String("n", "", "only this namespace of containerd")
	state := flags.String("state", "/run/containerd", "state directory of containerd")
	if err := flags.Parse(args); err != nil {
		return err
	}
	list, err := process.Inspect(*state, *namespace)
	if err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return show(*asJSON, list, func(w io.Writer) { writeNamespaces(w, list) })
	}
	id := flags.Arg(0)
	for _, c := range list {
		if c.ID != id {
			continue
		}
		mounts, err := c.Mounts()
		if err != nil {
			return err
		}
		one := struct {
			process.Inspection
			Mounts []process.MountState `json:"mounts"`
		}{c, mounts}
		return show(*asJSON, one, func(w io.Writer) {
			writeNamespaces(w, []process.Inspection{c})
			fmt.Fprintln(w, "\nDESTINATION\tTYPE\tSOURCE\tOPTIONS\tORIGIN")
			for _, m := range mounts {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", m.Dest, m.Type, m.Source, m.Options, m.Origin)
			}
		})
	}
	return fmt.Errorf("no container %s below %s", id, *state)
}

// show prints v as JSON, or as the table that write makes.
func show(asJSON bool, v any, write func(io.Writer)) error {
	if asJSON {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(v)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	write(w)
	return w.Flush()
}

func writeNamespaces(w io.Writer, list []process.Inspection) {
	fmt.Fprintln(w, "CONTAINER\tPID\tNAMESPACE\tINODE\tSHARED WITH\tPROCESSES")
	for _, c := range list {
		id, pid := c.Namespace+"/"+c.ID, strconv.Itoa(c.PID)
		if len(c.Namespaces) == 0 {
			fmt.Fprintf(w, "%s\t%s\t(not running)\t\t\t\n", id, pid)
		}
		for _, ns := range c.Namespaces {
			shared := strings.Join(ns.Shared, " ")
			if ns.Host {
				shared = "the host"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", id, pid, ns.Type, ns.Inode, shared, strings.Trim(fmt.Sprint(ns.Processes), "[]"))
			id, pid = "", ""
		}
	}
}
