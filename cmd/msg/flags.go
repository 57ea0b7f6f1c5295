package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

var errHelp = flag.ErrHelp

// flags are the options of one command. Unlike those of the flag package they
// may stand behind the arguments too (send-message "text" -w 20), as in the
// seed's command line.
type flags struct {
	*flag.FlagSet
	cmd   command
	alias map[string]string // long name → short name, for the help
}

func newFlags(cmd command) *flags {
	set := flag.NewFlagSet(cmd.name, flag.ContinueOnError)
	set.SetOutput(io.Discard) // run says what went wrong, once
	return &flags{FlagSet: set, cmd: cmd, alias: map[string]string{}}
}

// stringVar and its like define an option under two names.
func (f *flags) stringVar(p *string, short, long, value, usage string) {
	f.StringVar(p, short, value, usage)
	f.StringVar(p, long, value, usage)
	f.alias[long] = short
}

func (f *flags) float64Var(p *float64, short, long string, value float64, usage string) {
	f.Float64Var(p, short, value, usage)
	f.Float64Var(p, long, value, usage)
	f.alias[long] = short
}

// parse reads options wherever they stand and returns the arguments. Behind
// "--" everything is an argument; "-" alone always is one.
func (f *flags) parse(args []string) ([]string, error) {
	var options, positional []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			positional = append(positional, args[i+1:]...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' {
			positional = append(positional, arg)
			continue
		}
		options = append(options, arg)
		name, _, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if known := f.Lookup(name); known != nil && !hasValue && !isBool(known.Value) && i+1 < len(args) {
			i++
			options = append(options, args[i])
		}
	}
	err := f.Parse(options)
	if errors.Is(err, flag.ErrHelp) {
		return nil, errHelp
	}
	if err != nil {
		words := err.Error()
		if strings.HasPrefix(words, "flag provided but not defined: ") {
			words = "there is no option " + strings.TrimPrefix(words, "flag provided but not defined: ") +
				" (put -- before an argument that begins with a hyphen)"
		}
		return nil, &usageError{words}
	}
	return positional, nil
}

func isBool(v flag.Value) bool {
	b, ok := v.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

// help is the page that -h shows.
func (f *flags) help(w io.Writer) {
	usage := "msg " + f.cmd.name + " [options]"
	if f.cmd.args != "" {
		usage += " " + f.cmd.args
	}
	fmt.Fprintf(w, "%s\n\n%s\n", usage, strings.TrimSpace(f.cmd.long))
	long := map[string]string{}
	for l, s := range f.alias {
		long[s] = l
	}
	heading := "\nOptions:\n"
	f.VisitAll(func(o *flag.Flag) {
		if _, isLong := f.alias[o.Name]; isLong {
			return
		}
		name := "-" + o.Name
		if l := long[o.Name]; l != "" {
			name += ", --" + l
		}
		value, usage := flag.UnquoteUsage(o)
		if value != "" {
			name += " " + value
		}
		if o.DefValue != "" && o.DefValue != "false" && o.DefValue != "0" {
			usage += " (default " + o.DefValue + ")"
		}
		fmt.Fprintf(w, "%s  %s\n      %s\n", heading, name, usage)
		heading = ""
	})
}
