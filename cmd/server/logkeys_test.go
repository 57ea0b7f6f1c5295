package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Whoever searches logs and alerts on them depends on the keys: those of the code
// are those of the package doc's table. A duration is a number of seconds.
func TestLogKeysAreTheDocumentedOnes(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^//\t((?:[a-z_]+ )+) +\S`).FindAllStringSubmatch(string(text), -1) {
		for key := range strings.FieldsSeq(row[1]) {
			documented[key] = true
		}
	}
	used := map[string]bool{}
	for _, tree := range []string{"../server", "../sample", "../../internal"} {
		err := filepath.WalkDir(tree, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
				err = logKeys(path, used)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !maps.Equal(used, documented) {
		t.Errorf("the code logs\n%v\nmain.go documents\n%v", slices.Sorted(maps.Keys(used)), slices.Sorted(maps.Keys(documented)))
	}
}

// logKeys adds the keys that a file logs with: those of slog's attributes, and
// every second argument of a logger's methods.
func logKeys(path string, keys map[string]bool) error {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		return err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		method, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		first, step := 1, 2
		of, _ := method.X.(*ast.Ident)
		switch name := method.Sel.Name; {
		case of != nil && of.Name == "slog" && slices.Contains([]string{"String", "Int", "Int64", "Float64", "Bool", "Any", "Time", "Duration"}, name):
			first, step = 0, len(call.Args)
			if name == "Duration" {
				keys["(a Duration in "+path+")"] = true
			}
		case name == "With":
			first = 0
		case !slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, name) || len(call.Args) == 0 || !isText(call.Args[0]):
			return true
		}
		for i := first; i < len(call.Args); i += step {
			if isText(call.Args[i]) {
				key, _ := strconv.Unquote(call.Args[i].(*ast.BasicLit).Value)
				keys[key] = true
			}
		}
		return true
	})
	return nil
}

func isText(e ast.Expr) bool {
	literal, ok := e.(*ast.BasicLit)
	return ok && literal.Kind == token.STRING
}
