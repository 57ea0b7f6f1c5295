package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
)

// chart is a small diagram, drawn as SVG: lines over a number, or bars over
// names. The y axis begins at 0, so that heights can be compared.
type chart struct {
	title, x, y string
	names       []string // bars: what stands below each group
	logX        bool     // lines: decades at equal distances
	series      []series
}

type series struct {
	name   string
	points []point // bars: X is not used, the n-th point belongs to the n-th name
}

type point struct{ X, Y float64 }

// Sizes in pixels.
const (
	plotWidth, plotHeight             = 640, 320
	plotLeft, plotRight               = 72, 16
	plotTop, plotBottom               = 56, 48
	plotInnerWidth, plotInnerHeight   = plotWidth - plotLeft - plotRight, plotHeight - plotTop - plotBottom
	plotBase                          = plotTop + plotInnerHeight
	plotTicks, plotFont, plotFontSize = 5, "system-ui, sans-serif", 12
)

// plotColours differ in lightness too: they can be told apart in grey.
var plotColours = [...]string{"#1b4965", "#e07a5f", "#81b29a", "#b08900", "#7a5195", "#9a9a9a"}

func (c *chart) draw() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" font-family="%s" font-size="%d">`+"\n",
		plotWidth, plotHeight, plotWidth, plotHeight, plotFont, plotFontSize)
	fmt.Fprintf(&b, "<title>%s</title>\n"+`<rect width="100%%" height="100%%" fill="#ffffff"/>`+"\n", html.EscapeString(c.title))
	text(&b, plotLeft, 20, "start", "#222222", 14, c.title)
	c.legend(&b)
	top := c.yAxis(&b)
	if len(c.names) > 0 {
		c.bars(&b, top)
	} else {
		c.lines(&b, top)
	}
	text(&b, plotLeft+plotInnerWidth/2, plotHeight-8, "middle", "#444444", plotFontSize, c.x)
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func text(b *bytes.Buffer, x, y float64, anchor, colour string, size int, s string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s" font-size="%d">%s</text>`+"\n", x, y, anchor, colour, size, html.EscapeString(s))
}

func (c *chart) legend(b *bytes.Buffer) {
	x := float64(plotLeft)
	for i, s := range c.series {
		fmt.Fprintf(b, `<rect x="%.1f" y="30" width="10" height="10" fill="%s"/>`+"\n", x, colour(i))
		text(b, x+14, 39, "start", "#222222", plotFontSize, s.name)
		x += 14 + 16 + 6.6*float64(len([]rune(s.name)))
	}
	text(b, plotWidth-plotRight, 39, "end", "#444444", plotFontSize, c.y)
}

func colour(i int) string { return plotColours[i%len(plotColours)] }

// yAxis draws the grid and returns the value at its top.
func (c *chart) yAxis(b *bytes.Buffer) (top float64) {
	for _, s := range c.series {
		for _, p := range s.points {
			top = max(top, p.Y)
		}
	}
	step := niceStep(top / plotTicks)
	top = max(step, math.Ceil(top/step)*step)
	for v := 0.0; v <= top+step/2; v += step {
		y := plotY(v, top)
		fmt.Fprintf(b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#dddddd"/>`+"\n", plotLeft, y, plotWidth-plotRight, y)
		text(b, plotLeft-6, y+4, "end", "#444444", plotFontSize, tick(v))
	}
	return top
}

func plotY(v, top float64) float64 { return plotBase - v/top*plotInnerHeight }

// niceStep is the next 1, 2 or 5 times a power of ten.
func niceStep(least float64) float64 {
	if least <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(least)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= least*(1-1e-9) {
			return m * power
		}
	}
	return 10 * power
}

// tick writes a number as short as an axis needs it.
func tick(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%gM", round(v/1e6))
	case v >= 1e4:
		return fmt.Sprintf("%gk", round(v/1e3))
	}
	return fmt.Sprintf("%g", round(v))
}

func round(v float64) float64 { return math.Round(v*1000) / 1000 }

func (c *chart) bars(b *bytes.Buffer, top float64) {
	group := plotInnerWidth / float64(len(c.names))
	width := group * 0.7 / float64(len(c.series))
	for n, name := range c.names {
		left := plotLeft + group*float64(n) + group*0.15
		for i, s := range c.series {
			if n >= len(s.points) {
				continue
			}
			x, y := left+width*float64(i), plotY(s.points[n].Y, top)
			fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n", x, y, width-2, plotBase-y, colour(i))
			text(b, x+width/2-1, y-4, "middle", "#222222", 11, tick(threeDigits(s.points[n].Y)))
		}
		text(b, left+group*0.35, plotBase+18, "middle", "#222222", plotFontSize, name)
	}
}

// threeDigits rounds to three significant digits.
func threeDigits(v float64) float64 {
	if v == 0 {
		return 0
	}
	scale := math.Pow(10, 2-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}

func (c *chart) lines(b *bytes.Buffer, top float64) {
	place := func(x float64) float64 { return x }
	if c.logX {
		place = func(x float64) float64 { return math.Log10(max(x, 1)) }
	}
	low, high := math.Inf(1), math.Inf(-1)
	for _, s := range c.series {
		for _, p := range s.points {
			low, high = min(low, place(p.X)), max(high, place(p.X))
		}
	}
	if high <= low {
		high = low + 1
	}
	at := func(x float64) float64 { return plotLeft + (place(x)-low)/(high-low)*plotInnerWidth }
	c.xAxis(b, low, high, at)
	for i, s := range c.series {
		var path bytes.Buffer
		for n, p := range s.points {
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(n, 1)], at(p.X), plotY(p.Y, top))
		}
		fmt.Fprintf(b, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", path.String(), colour(i))
		if len(s.points) <= 20 {
			for _, p := range s.points {
				fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", at(p.X), plotY(p.Y, top), colour(i))
			}
		}
	}
}

func (c *chart) xAxis(b *bytes.Buffer, low, high float64, at func(float64) float64) {
	mark := func(v float64) {
		fmt.Fprintf(b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#888888"/>`+"\n", at(v), plotBase, at(v), plotBase+4)
		text(b, at(v), plotBase+18, "middle", "#444444", plotFontSize, tick(v))
	}
	if c.logX {
		for e := math.Ceil(low - 1e-9); e <= high+1e-9; e++ {
			mark(math.Pow(10, e))
		}
		return
	}
	step := niceStep((high - low) / plotTicks)
	for v := math.Ceil(low/step) * step; v <= high+step/1e6; v += step {
		mark(v)
	}
}
