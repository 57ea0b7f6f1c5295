package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"restante/internal/publishers"
)

const databaseTimeout = 15 * time.Second

func keysCommand() command {
	return command{
		name:  "keys",
		args:  "create|list|rate|revoke [KEYID]",
		short: "make, list, limit and revoke the API keys of back ends",
		long: `
Works on the API keys with which back ends publish, directly in the gateway's
database: DATABASE_URL, or the development gateway's own.

  msg keys create -name billing                        may publish, for every user
  msg keys create -name support -scopes read           may only look
  msg keys create -name shop -user-prefix shop-        only for users whose id begins so
  msg keys create -name shop -file /run/shop-key       into a file, unless it has a good one
  msg keys create -name bulk -rate 500 -byte-rate 1MB  500 messages and 1 MB a second
  msg keys list
  msg keys rate KEYID -rate 2000                       another rate for a key in use
  msg keys revoke KEYID

create prints the key on standard output, this one time: the database has only
its hash. With -file it writes it there instead; a key that is there already and in
force is kept, so that a deploy can run this every time. A revoked key is refused within seconds, on every replica. To rotate:
create, give the new key to the back end, revoke the old one.

Rates are those of one replica: a back end whose requests are spread over three may
post three times as much. What is over them is answered 429 with Retry-After. A key
without rates of its own has the replica's -publisher-rate and -publisher-bytes.`,
		prepare: func(e *env, f *flags) action {
			name := f.String("name", "", "`name` of the back end, for people")
			scopes := f.String("scopes", "publish", "`list` of what the key may do, with commas: publish, read")
			file := f.String("file", "", "with create: write the key to this `file` and print nothing")
			prefix := f.String("user-prefix", "", "only users whose id begins with this `text`")
			rates := rateOptions(f)
			return func(ctx context.Context, args []string) error {
				if len(args) == 0 {
					return usagef("say what to do: create, list, rate or revoke")
				}
				what, args := args[0], args[1:]
				switch {
				case what == "create" && *name == "":
					return usagef("give the key a name: -name billing")
				case what != "create" && *file != "":
					return usagef("-file goes with create")
				case (what == "revoke" || what == "rate") && len(args) != 1:
					return usagef("%s needs the id of one key; msg keys list shows them", what)
				case what != "create" && what != "list" && what != "rate" && what != "revoke":
					return usagef("there is no keys %s: it is create, list, rate or revoke", what)
				case (what == "create" || what == "list") && len(args) > 0:
					return usagef("unexpected argument %q", args[0])
				case what == "rate" && !rates.given():
					return usagef("say which rate: -rate 500, -byte-rate 1MB, or both")
				case (what == "list" || what == "revoke") && rates.given():
					return usagef("-rate and -byte-rate go with create and rate")
				}
				own, err := rates.over(publishers.Rates{})
				if err != nil {
					return err
				}
				return keysError(e.withKeys(ctx, func(ctx context.Context, keys *publishers.Keys) error {
					switch what {
					case "create":
						k := newKey{*name, splitScopes(*scopes), *prefix, own}
						if *file != "" {
							return e.keepKey(ctx, keys, k, *file)
						}
						return e.createKey(ctx, keys, k)
					case "rate":
						return e.setKeyRates(ctx, keys, args[0], rates)
					case "revoke":
						return e.revokeKey(ctx, keys, args[0])
					default:
						return e.listKeys(ctx, keys)
					}
				}))
			}
		},
	}
}

func splitScopes(list string) []string {
	var scopes []string
	for scope := range strings.SplitSeq(list, ",") {
		if scope = strings.TrimSpace(scope); scope != "" {
			scopes = append(scopes, scope)
		}
	}
	return scopes
}

// withKeys opens the database for one command.
func (e *env) withKeys(ctx context.Context, do func(context.Context, *publishers.Keys) error) error {
	databaseURL, err := e.databaseURL()
	if err != nil {
		return err
	}
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		// The parser's error may show the URL, with its password.
		return usagef("DATABASE_URL is not a PostgreSQL URL")
	}
	config.MaxConns = 1
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	defer pool.Close()
	if err := pool.Ping(ctx); err != nil {
		return hint(errors.New("the gateway's database does not answer: "+firstLine(err)),
			"Is it running? In development it runs with the gateway: make run")
	}
	return do(ctx, publishers.New(pool, nil))
}

// undefinedTable is what PostgreSQL says about a database without our tables.
const undefinedTable = "42P01"

// keysError puts the errors of package publishers into words.
func keysError(err error) error {
	var postgres *pgconn.PgError
	switch {
	case errors.Is(err, publishers.ErrInvalid):
		_, words, _ := strings.Cut(err.Error(), publishers.ErrInvalid.Error()+": ")
		return usagef("%s", words)
	case errors.Is(err, publishers.ErrNotFound):
		return hint(errors.New("there is no key with this id"), "To see them all: msg keys list")
	case errors.As(err, &postgres) && postgres.Code == undefinedTable:
		return hint(errors.New("the database has no tables of the gateway yet"), "Make them with: go run ./cmd/migrate up")
	}
	return err
}

// firstLine keeps pgx's list of every address it has tried to one line.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// newKey is what keys create was asked for.
type newKey struct {
	name   string
	scopes []string
	prefix string // of the users' ids
	rates  publishers.Rates
}

func (e *env) createKey(ctx context.Context, keys *publishers.Keys, k newKey) error {
	publisher, key, err := keys.CreateLimited(ctx, k.name, k.scopes, k.prefix, k.rates)
	if err != nil {
		return err
	}
	fmt.Fprintln(e.stdout, key)
	e.say("This is the key of %s (%s), with id %s. It is shown this one time.\nBack ends send it as: Authorization: Bearer KEY. For msg: export RESTANTE_API_KEY=KEY",
		printable(publisher.Name), strings.Join(publisher.Scopes, ", "), publisher.KeyID)
	return nil
}

// keepKey leaves a good key in the file, the one that is there if it is good.
func (e *env) keepKey(ctx context.Context, keys *publishers.Keys, k newKey, file string) error {
	old, err := os.ReadFile(file)
	switch {
	case err == nil:
		_, err := keys.Authenticate(ctx, strings.TrimSpace(string(old)))
		if !errors.Is(err, publishers.ErrRejected) {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	publisher, key, err := keys.CreateLimited(ctx, k.name, k.scopes, k.prefix, k.rates)
	if err != nil {
		return err
	}
	if err := writeSecret(file, key); err != nil {
		return err
	}
	e.say("The key of %s (%s), with id %s, is in %s.", printable(publisher.Name), strings.Join(publisher.Scopes, ", "), publisher.KeyID, file)
	return nil
}

func (e *env) listKeys(ctx context.Context, keys *publishers.Keys) error {
	all, err := keys.List(ctx)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		e.say("There are no keys. Make one with: msg keys create -name NAME")
		return nil
	}
	table := tabwriter.NewWriter(e.stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "KEYID\tNAME\tSCOPES\tUSERS\tMESSAGES/S\tBYTES/S\tCREATED\tSTATE")
	for _, p := range all {
		users, state := "all", "in force"
		if p.UserPrefix != "" {
			users = p.UserPrefix + "…"
		}
		if p.RevokedAt != nil {
			state = "revoked " + p.RevokedAt.Local().Format(time.DateTime)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.KeyID, printable(p.Name), strings.Join(p.Scopes, ","),
			printable(users), rateText(p.Rates.Messages), rateText(p.Rates.Bytes), p.CreatedAt.Local().Format(time.DateTime), state)
	}
	return table.Flush()
}

func (e *env) revokeKey(ctx context.Context, keys *publishers.Keys, id string) error {
	id = keyID(id)
	if err := keys.Revoke(ctx, id); err != nil {
		return err
	}
	e.say("Key %s is revoked.", printable(id))
	return nil
}

// keyID returns the id of a key. Somebody in a hurry pastes the whole key; only its id
// is needed.
func keyID(id string) string {
	if parts := strings.SplitN(id, "_", 3); len(parts) == 3 && parts[0] == "rk" {
		return parts[1]
	}
	return id
}
