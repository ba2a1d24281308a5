package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/myshim/myshim/process"
)

// printPlan is the command plan: it says how the container of a bundle would be
// made.
func printPlan(args []string) error {
	flags := flag.NewFlagSet("plan", flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "print JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return fmt.Errorf("plan takes the directory of a bundle, and got %d arguments", flags.NArg())
	}
	p, err := process.Plan(flags.Arg(0))
	if err != nil {
		return err
	}
	if !*asJSON {
		_, err = fmt.Print(p)
		return err
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(p)
}
