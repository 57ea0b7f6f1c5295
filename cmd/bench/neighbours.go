package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// apart is how many users at the end of the list belong to the troubles.
const apart = 2

// neighbour is what one trouble does to everybody it does not concern.
type neighbour struct {
	Trouble string `json:"trouble"`
	Before  around `json:"before"`
	During  around `json:"during"`
	After   around `json:"after"`
	Note    string `json:"note,omitempty"` // what the trouble itself came to
}

// around is one window of the others' load.
type around struct {
	Answer   *spread `json:"answer"`   // due to be posted → 202
	Delivery *spread `json:"delivery"` // due to be posted → received
	Failed   int64   `json:"failed"`   // posts not answered 202
	Memory   int64   `json:"server_resident_bytes,omitempty"`
}

// neighbours posts at a fixed rate and lets one trouble after the other begin and
// end beside it. Every trouble gets three windows: before, during and after it.
func neighbours(b *bench) error {
	b.load.apart = apart
	readers, err := b.connectAll(clientBuffer)
	if err != nil {
		return err
	}
	defer readers.close()
	for _, t := range troubles() {
		if b.troubles != "" && !slices.Contains(strings.Split(b.troubles, ","), t.name) {
			continue
		}
		if err := b.beside(t); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	return b.verdict()
}

// beside measures the others before, during and after a trouble.
func (b *bench) beside(t trouble) error {
	n := neighbour{Trouble: t.name}
	if t.prepare != nil {
		if err := b.during("preparing "+t.name, func() error { return t.prepare(b) }); err != nil {
			return err
		}
	}
	open := b.openLoop()
	defer open.stop()
	if err := b.rest("warming up", b.warmup); err != nil {
		return err
	}
	var windows [3]*window
	var memory [3]int64
	look := func(i int, what string) (err error) {
		windows[i] = b.load.measure(b.duration)
		err = b.rest(what+" "+t.name, b.duration)
		memory[i] = b.env.usage(b.ctx).memory
		return err
	}
	if err := look(0, "before"); err != nil {
		return err
	}
	trouble, cancel := context.WithTimeout(b.ctx, b.duration)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		note, err := t.run(trouble, b)
		n.Note = note
		done <- err
	}()
	err := look(1, "during")
	cancel()
	if failed := <-done; failed != nil {
		return failed
	}
	if err != nil {
		return err
	}
	if err := look(2, "after"); err != nil {
		return err
	}
	open.stop()
	// What is late still counts in its window.
	for late := time.Now().Add(arriveWithin); b.load.check.Waiting() > 0 && time.Now().Before(late); {
		if err := pause(b.ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	for i, a := range []*around{&n.Before, &n.During, &n.After} {
		w := windows[i]
		*a = around{Answer: w.answers.spread(), Delivery: w.delivery.spread(), Failed: w.failed.Load(), Memory: memory[i]}
	}
	b.Neighbours = append(b.Neighbours, n)
	return nil
}

func (n *neighbour) rows(row func(name, format string, args ...any)) {
	line := func(when string, a *around) {
		row(n.Trouble+", "+when, "answer p50 %.1f ms, p99 %.1f; delivery p50 %.1f, p99 %.1f; %d failed; %d MiB resident",
			a.Answer.P50, a.Answer.P99, a.Delivery.P50, a.Delivery.P99, a.Failed, a.Memory>>20)
	}
	line("before", &n.Before)
	line("during", &n.During)
	line("after", &n.After)
	row("", "p99 during ÷ before: answer %.1f ×, delivery %.1f ×", per(n.During.Answer.P99, n.Before.Answer.P99), per(n.During.Delivery.P99, n.Before.Delivery.P99))
	if n.Note != "" {
		row("", "%s", n.Note)
	}
}
