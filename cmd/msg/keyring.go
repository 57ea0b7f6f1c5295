package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"restante/internal/tokens"
)

func keyringCommand() command {
	return command{
		name:  "keyring",
		args:  "new|add|promote|list|remove [KID]",
		short: "make and rotate the keys that seal connection tokens",
		long: `
Works on the keyring file of the gateway's replicas: the keys with which the
single-use connection tokens are sealed. The first key seals, all of them open.

  msg keyring new     -file keyring.json         a new file with one key
  msg keyring add     -file keyring.json         one more key, which opens only
  msg keyring promote -file keyring.json KID     this key seals from now on
  msg keyring remove  -file keyring.json KID     this key is no longer accepted
  msg keyring list    -file keyring.json         the key ids; secrets are never shown

To rotate without refusing anybody: add; when every replica has the file (a few
seconds if they share it), promote; a minute later, when the last token of the
old key has expired, remove. Replicas notice each change by themselves.`,
		prepare: func(e *env, f *flags) action {
			file := f.String("file", "", "the keyring `file`")
			seal := f.Bool("promote", false, "with add: the new key seals at once")
			return func(_ context.Context, args []string) error {
				if len(args) == 0 {
					return usagef("say what to do: new, add, promote, list or remove")
				}
				if *file == "" {
					return usagef("name the keyring with -file")
				}
				return e.keyring(args[0], args[1:], *file, *seal)
			}
		},
	}
}

func (e *env) keyring(what string, args []string, file string, seal bool) error {
	wantsID := what == "promote" || what == "remove"
	if wantsID && len(args) != 1 {
		return usagef("%s needs the id of one key; msg keyring list shows them", what)
	}
	if !wantsID && len(args) > 0 {
		return usagef("unexpected argument %q", args[0])
	}
	switch what {
	case "new":
		return e.newKeyring(file)
	case "add":
		key, err := tokens.NewKey()
		if err != nil {
			return err
		}
		if err := tokens.AddKey(file, key, seal); err != nil {
			return keyringError(err, file)
		}
		fmt.Fprintln(e.stdout, key.ID)
		if !seal {
			e.say("The key opens tokens. When every replica has it: msg keyring promote -file %s %s", shellQuote(file), key.ID)
		}
		return nil
	case "promote":
		return keyringError(tokens.PromoteKey(file, args[0]), file)
	case "remove":
		return keyringError(tokens.RemoveKey(file, args[0]), file)
	case "list":
		keys, err := tokens.ReadFile(file)
		if err != nil {
			return keyringError(err, file)
		}
		for i, key := range keys {
			use := "opens"
			if i == 0 {
				use = "seals and opens"
			}
			fmt.Fprintf(e.stdout, "%s\t%s\n", key.ID, use)
		}
		return nil
	}
	return usagef("there is no keyring %s: it is new, add, promote, list or remove", what)
}

// newKeyring never replaces a file: that would lock out everybody whose token
// the old keys have sealed.
func (e *env) newKeyring(file string) error {
	if _, err := os.Lstat(file); err == nil {
		return hint(fmt.Errorf("%s exists already", file), "To rotate its keys: msg keyring add -file "+shellQuote(file))
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key, err := tokens.NewKey()
	if err != nil {
		return err
	}
	if err := tokens.WriteFile(file, []tokens.Key{key}); err != nil {
		return err
	}
	fmt.Fprintln(e.stdout, key.ID)
	e.say("%s has one key. Give the file to every replica, and to nobody else.", file)
	return nil
}

func keyringError(err error, file string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return hint(err, "To make one: msg keyring new -file "+shellQuote(file))
	}
	return err
}
