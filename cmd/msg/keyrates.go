package main

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"

	"restante/internal/publishers"
)

// keyRates are the options that say what a key may post a second.
type keyRates struct{ messages, bytes *string }

func rateOptions(f *flags) keyRates {
	return keyRates{
		messages: f.String("rate", "", "`messages` a second that the key may post to each replica; 0 for no limit, default for the replica's -publisher-rate"),
		bytes:    f.String("byte-rate", "", "`bytes` of messages a second, like 500kB or 1MB; 0 for no limit, default for the replica's -publisher-bytes"),
	}
}

func (o keyRates) given() bool { return *o.messages != "" || *o.bytes != "" }

// over returns rates with what the options change.
func (o keyRates) over(rates publishers.Rates) (publishers.Rates, error) {
	for _, c := range []struct {
		option, text string
		parse        func(string) (int64, bool)
		rate         **int64
	}{
		{"-rate", *o.messages, parseCount, &rates.Messages},
		{"-byte-rate", *o.bytes, parseBytes, &rates.Bytes},
	} {
		switch c.text {
		case "":
			continue
		case "default":
			*c.rate = nil
			continue
		}
		n, ok := c.parse(c.text)
		if !ok {
			return rates, usagef("%s %s is not a rate: give a whole number a second, 0 for no limit, or default", c.option, c.text)
		}
		*c.rate = &n
	}
	return rates, nil
}

func parseCount(text string) (int64, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && n >= 0
}

// parseBytes reads a number of bytes, with a unit or without.
func parseBytes(text string) (int64, bool) {
	number := strings.TrimRight(text, "kKMGiB")
	factor := map[string]int64{"": 1, "B": 1, "k": 1e3, "kB": 1e3, "KB": 1e3, "MB": 1e6, "M": 1e6, "GB": 1e9, "G": 1e9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[text[len(number):]]
	n, ok := parseCount(number)
	if !ok || factor == 0 || n > math.MaxInt64/factor {
		return 0, false
	}
	return n * factor, true
}

func (e *env) setKeyRates(ctx context.Context, keys *publishers.Keys, id string, o keyRates) error {
	id = keyID(id)
	all, err := keys.List(ctx)
	if err != nil {
		return err
	}
	var rates publishers.Rates // a key that is not in the list is not there, which SetRates says
	for _, p := range all {
		if p.KeyID == id {
			rates = p.Rates
		}
	}
	if rates, err = o.over(rates); err != nil {
		return err
	}
	if err := keys.SetRates(ctx, id, rates); err != nil {
		return err
	}
	e.say("Key %s may post %s a second to each replica. Replicas know it within seconds.", printable(id), ratesText(rates))
	return nil
}

func ratesText(r publishers.Rates) string {
	return rateText(r.Messages) + " messages and " + rateText(r.Bytes) + " bytes"
}

func rateText(rate *int64) string {
	switch {
	case rate == nil:
		return "default"
	case *rate == 0:
		return "unlimited"
	}
	return fmt.Sprint(*rate)
}
