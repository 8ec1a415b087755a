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
		{"a register in order", "registers", `{"op":"put","key":"a","call":1,"return":2,"to":7,"outcome":"ok"}
{"op":"cas","key":"a","call":3,"return":4,"from":7,"to":8,"swapped":true,"value":8,"outcome":"ok"}
{"op":"cas","key":"a","call":5,"return":6,"from":7,"to":9,"swapped":false,"value":8,"outcome":"ok"}
{"op":"get","key":"a","call":7,"return":8,"value":8,"outcome":"ok"}
{"op":"get","key":"b","call":7,"return":8,"value":0,"outcome":"ok"}`, porcupine.Ok},
		{"a stale read", "registers", `{"op":"put","key":"a","call":1,"return":2,"to":7,"outcome":"ok"}
{"op":"get","key":"a","call":3,"return":4,"value":0,"outcome":"ok"}`, porcupine.Illegal},
		{"beside the write", "registers", `{"op":"put","key":"a","call":1,"return":9,"to":7,"outcome":"ok"}
{"op":"get","key":"a","call":3,"return":4,"value":0,"outcome":"ok"}
{"op":"get","key":"a","call":5,"return":6,"value":7,"outcome":"ok"}`, porcupine.Ok},
		{"two readers see it come and go", "registers", `{"op":"put","key":"a","call":1,"return":9,"to":7,"outcome":"ok"}
{"op":"get","key":"a","call":3,"return":4,"value":7,"outcome":"ok"}
{"op":"get","key":"a","call":5,"return":6,"value":0,"outcome":"ok"}`, porcupine.Illegal},
		{"an unknown write is seen late", "registers", `{"op":"put","key":"a","call":1,"return":2,"to":7,"outcome":"unknown"}
{"op":"get","key":"a","call":3,"return":4,"value":0,"outcome":"ok"}
{"op":"get","key":"a","call":5,"return":6,"value":7,"outcome":"ok"}`, porcupine.Ok},
		{"an unknown write is done twice", "registers", `{"op":"put","key":"a","call":1,"return":2,"to":7,"outcome":"unknown"}
{"op":"get","key":"a","call":3,"return":4,"value":7,"outcome":"ok"}
{"op":"put","key":"a","call":5,"return":6,"to":8,"outcome":"ok"}
{"op":"get","key":"a","call":7,"return":8,"value":7,"outcome":"ok"}`, porcupine.Illegal},
		{"both swap", "registers", `{"op":"cas","key":"a","call":1,"return":9,"from":0,"to":7,"swapped":true,"value":7,"outcome":"ok"}
{"op":"cas","key":"a","call":1,"return":9,"from":0,"to":8,"swapped":true,"value":8,"outcome":"ok"}`, porcupine.Illegal},
		{"a queue in order", "queues", `{"op":"push","key":"q","call":1,"return":2,"to":1,"length":1,"outcome":"ok"}
{"op":"push","key":"q","call":3,"return":4,"to":2,"length":2,"outcome":"ok"}
{"op":"look","key":"q","call":5,"return":6,"value":1,"length":2,"outcome":"ok"}
{"op":"pop","key":"q","call":7,"return":8,"value":1,"outcome":"ok"}
{"op":"pop","key":"q","call":9,"return":10,"value":2,"outcome":"ok"}
{"op":"pop","key":"q","call":11,"return":12,"value":0,"outcome":"ok"}`, porcupine.Ok},
		{"popped twice", "queues", `{"op":"push","key":"q","call":1,"return":2,"to":1,"length":1,"outcome":"ok"}
{"op":"pop","key":"q","call":3,"return":9,"value":1,"outcome":"ok"}
{"op":"pop","key":"q","call":3,"return":9,"value":1,"outcome":"ok"}`, porcupine.Illegal},
		{"a lost push", "queues", `{"op":"push","key":"q","call":1,"return":2,"to":1,"length":1,"outcome":"ok"}
{"op":"pop","key":"q","call":3,"return":4,"value":0,"outcome":"ok"}`, porcupine.Illegal},
		{"an unknown pop took it", "queues", `{"op":"push","key":"q","call":1,"return":2,"to":1,"length":1,"outcome":"ok"}
{"op":"pop","key":"q","call":3,"return":4,"outcome":"unknown"}
{"op":"pop","key":"q","call":5,"return":6,"value":0,"outcome":"ok"}`, porcupine.Ok},
		{"out of order", "queues", `{"op":"push","key":"q","call":1,"return":2,"to":1,"length":1,"outcome":"ok"}
{"op":"push","key":"q","call":3,"return":4,"to":2,"length":2,"outcome":"ok"}
{"op":"pop","key":"q","call":5,"return":6,"value":2,"outcome":"ok"}`, porcupine.Illegal},
		{"a stale look", "queues", `{"op":"push","key":"q","call":1,"return":2,"to":1,"length":1,"outcome":"ok"}
{"op":"look","key":"q","call":3,"return":4,"value":0,"length":0,"outcome":"ok"}`, porcupine.Illegal},
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
