package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// The checker must see what is wrong when there is something wrong.
func TestVerdicts(t *testing.T) {
	cases := []struct {
		name, object, history string
		want                  porcupine.CheckResult
	}{
		{"in order", "stream", `{"op":"open","call":1,"return":2,"epoch":1,"outcome":"ok"}
{"op":"append","call":3,"return":4,"epoch":1,"value":1,"outcome":"ok"}
{"op":"append","call":5,"return":6,"epoch":1,"value":2,"outcome":"ok"}`, porcupine.Ok},
		{"an offset given twice", "stream", `{"op":"open","call":1,"return":2,"epoch":1,"outcome":"ok"}
{"op":"append","call":3,"return":4,"epoch":1,"value":1,"outcome":"ok"}
{"op":"append","call":5,"return":6,"epoch":1,"value":1,"outcome":"ok"}`, porcupine.Illegal},
		{"a lost append", "stream", `{"op":"open","call":1,"return":2,"epoch":1,"outcome":"ok"}
{"op":"append","call":3,"return":4,"epoch":1,"value":1,"outcome":"ok"}
{"op":"append","call":5,"return":6,"epoch":1,"value":3,"outcome":"ok"}`, porcupine.Illegal},
		{"an unknown one explains the gap", "stream", `{"op":"open","call":1,"return":2,"epoch":1,"outcome":"ok"}
{"op":"append","call":1,"return":3,"epoch":1,"value":0,"outcome":"unknown"}
{"op":"append","call":5,"return":6,"epoch":1,"value":2,"outcome":"ok"}`, porcupine.Ok},
		{"appended below a fence", "stream", `{"op":"open","call":1,"return":2,"epoch":1,"outcome":"ok"}
{"op":"fence","call":3,"return":4,"epoch":2,"value":2,"outcome":"ok"}
{"op":"append","call":5,"return":6,"epoch":1,"value":1,"outcome":"ok"}`, porcupine.Illegal},
		{"fenced, and in the log all the same", "stream", `{"op":"open","call":1,"return":2,"epoch":1,"outcome":"ok"}
{"op":"append","call":1,"return":9,"epoch":1,"value":0,"outcome":"fenced"}
{"op":"fence","call":5,"return":6,"epoch":2,"value":2,"outcome":"ok"}
{"op":"open","call":7,"return":8,"epoch":2,"outcome":"ok"}
{"op":"append","call":10,"return":11,"epoch":2,"value":2,"outcome":"ok"}`, porcupine.Ok},
		{"fenced, and in the log after that answer", "stream", `{"op":"open","call":1,"return":2,"epoch":1,"outcome":"ok"}
{"op":"fence","call":3,"return":4,"epoch":2,"value":2,"outcome":"ok"}
{"op":"append","call":5,"return":6,"epoch":1,"value":0,"outcome":"fenced"}
{"op":"open","call":7,"return":8,"epoch":2,"outcome":"ok"}
{"op":"append","call":10,"return":11,"epoch":2,"value":2,"outcome":"ok"}`, porcupine.Illegal},
		{"beside the fence", "stream", `{"op":"open","call":1,"return":2,"epoch":1,"outcome":"ok"}
{"op":"fence","call":3,"return":9,"epoch":2,"value":2,"outcome":"ok"}
{"op":"append","call":5,"return":6,"epoch":1,"value":1,"outcome":"ok"}`, porcupine.Ok},
		{"a fence had its effect, and was answered when it was repeated", "stream", `{"op":"open","call":1,"return":2,"epoch":1,"outcome":"ok"}
{"op":"fence","call":3,"return":30,"epoch":2,"value":5,"outcome":"ok"}
{"op":"append","call":5,"return":6,"epoch":1,"value":0,"outcome":"fenced"}
{"op":"open","call":7,"return":8,"epoch":3,"outcome":"ok"}
{"op":"append","call":10,"return":11,"epoch":3,"value":1,"outcome":"ok"}
{"op":"fence","call":20,"return":21,"epoch":5,"value":5,"outcome":"ok"}`, porcupine.Ok},
		{"a fence's answer knows of one that was not called yet", "stream", `{"op":"fence","call":3,"return":10,"epoch":2,"value":5,"outcome":"ok"}
{"op":"fence","call":20,"return":21,"epoch":5,"value":5,"outcome":"ok"}`, porcupine.Illegal},
		{"the first of two unknown fences explains it", "stream", `{"op":"fence","call":9,"return":10,"epoch":2,"value":0,"outcome":"unknown"}
{"op":"fence","call":1,"return":2,"epoch":2,"value":0,"outcome":"unknown"}
{"op":"fence","call":5,"return":6,"epoch":1,"value":2,"outcome":"ok"}`, porcupine.Ok},
		{"no unknown fence was called before it", "stream", `{"op":"fence","call":9,"return":10,"epoch":2,"value":0,"outcome":"unknown"}
{"op":"fence","call":11,"return":12,"epoch":2,"value":0,"outcome":"unknown"}
{"op":"fence","call":5,"return":6,"epoch":1,"value":2,"outcome":"ok"}`, porcupine.Illegal},
		{"a stale latest", "snapshots", `{"op":"record","call":1,"return":2,"value":7,"outcome":"ok"}
{"op":"latest","call":3,"return":4,"value":0,"outcome":"ok"}`, porcupine.Illegal},
		{"latest goes back", "snapshots", `{"op":"record","call":1,"return":2,"value":7,"outcome":"unknown"}
{"op":"latest","call":3,"return":4,"value":7,"outcome":"ok"}
{"op":"latest","call":5,"return":6,"value":0,"outcome":"ok"}`, porcupine.Illegal},
		{"the commit index goes back", "status", `{"op":"status","call":1,"return":2,"value":7,"outcome":"ok"}
{"op":"status","call":3,"return":4,"value":6,"outcome":"ok"}`, porcupine.Illegal},
	}
	for _, c := range cases {
		path := filepath.Join(t.TempDir(), "history")
		if err := os.WriteFile(path, []byte(c.history), 0o600); err != nil {
			t.Fatal(err)
		}
		histories, err := read(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := porcupine.CheckOperationsTimeout(models()[c.object], histories[c.object], time.Minute); got != c.want {
			t.Errorf("%s: %s, not %s", c.name, got, c.want)
		}
	}
}
