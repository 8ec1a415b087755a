// Is there one order of all the operations of a history (tests/chaos/driver.c) that explains every answer? Porcupine searches it.
//
//	linearizable HISTORY [PICTURE.html]
//
// Prints one JSON object. Exit status 0: yes, for each of the three objects; 1: no (the picture shows where), or not decided in time.
package main

import (
	"fmt"
	"math"
	"slices"

	"github.com/anishathalye/porcupine"

	"crsc.io/crsc/tests/chaos/linearizable/decide"
)

const repeats = 1000 // added to the number of a client whose fence may have been repeated

type operation struct {
	Client  int    `json:"client"`
	Op      string `json:"op"`
	Call    int64  `json:"call"`
	Return  int64  `json:"return"`
	Epoch   uint64 `json:"epoch"`
	Value   uint64 `json:"value"`
	Outcome string `json:"outcome"`
}

// One stream as the log promises it. An operation whose outcome is unknown has no end: it may stand behind everything else, where
// nobody sees whether it had an effect. An append that was told "fenced" may have had its effect before the fence (the answer was
// lost, the repetition was refused: logd/streams/commands.c), but never after that answer. So may a fence: the answer, with the lowest
// epoch as it is then, is that of the repetition. Each is two operations here, of which the first has no answer.
type stream struct {
	epoch, min, last uint64
}

// The states that may follow; none: it cannot stand here.
func stepStream(state, input, _ any) []any {
	s, op := state.(stream), input.(operation)
	switch op.Op {
	case "open": // a repeated request may have taken numbers: they only grow
		if op.Epoch <= s.epoch || op.Epoch < s.min {
			return nil
		}
		return []any{stream{op.Epoch, s.min, s.last}}
	case "fence":
		s.min = max(s.min, op.Epoch)
		if op.Outcome == "ok" && op.Value != s.min {
			return nil
		}
		return []any{s}
	}
	appended := stream{s.epoch, s.min, s.last + 1}
	switch {
	case op.Outcome != "ok" && op.Epoch < s.min:
		return []any{s}
	case op.Outcome != "ok":
		return []any{s, appended}
	case op.Epoch < s.min || op.Value != appended.last: // L4, L2 and L3
		return nil
	}
	return []any{appended}
}

// The valid snapshot with the highest offset.
func stepSnapshots(state, input, _ any) (bool, any) {
	newest, op := state.(uint64), input.(operation)
	if op.Op == "record" {
		return true, max(newest, op.Value)
	}
	return op.Value == newest, newest
}

// The commit index that the leader states.
func stepStatus(state, input, _ any) (bool, any) {
	op := input.(operation)
	return op.Value >= state.(uint64), op.Value
}

func describe(input, _ any) string {
	op := input.(operation)
	return fmt.Sprintf("%s epoch=%d value=%d %s", op.Op, op.Epoch, op.Value, op.Outcome)
}

func model(initial any, step func(state, input, output any) (bool, any)) porcupine.Model {
	return porcupine.Model{Init: func() any { return initial }, Step: step, DescribeOperation: describe}
}

func read(path string) (decide.Histories, error) {
	object := map[string]string{"open": "stream", "append": "stream", "fence": "stream", "record": "snapshots", "latest": "snapshots",
		"status": "status"}
	histories := decide.Histories{}
	err := decide.Lines(path, func(op operation) error {
		name, known := object[op.Op]
		if !known {
			return fmt.Errorf("no such operation: %s", op.Op)
		}
		if op.Outcome == "unknown" {
			op.Return = math.MaxInt64
		}
		histories[name] = append(histories[name], porcupine.Operation{ClientId: op.Client, Input: op, Call: op.Call, Return: op.Return})
		if op.Op == "fence" && op.Outcome == "ok" {
			op.Outcome = "repeated"
			histories[name] = append(histories[name], porcupine.Operation{ClientId: repeats + op.Client, Input: op, Call: op.Call, Return: op.Return})
		}
		return nil
	})
	histories["stream"] = withoutRepeatedFences(histories["stream"])
	return histories, err
}

// Of unknown fences to one epoch only the first called is kept: it may stand wherever a later one may, and does the same there. Each one
// more would double the search.
func withoutRepeatedFences(all []porcupine.Operation) []porcupine.Operation {
	first := map[uint64]int64{}
	unknown := func(o porcupine.Operation) bool {
		op := o.Input.(operation)
		return op.Op == "fence" && op.Outcome == "unknown"
	}
	for _, o := range all {
		epoch := o.Input.(operation).Epoch
		if call, known := first[epoch]; unknown(o) && (!known || o.Call < call) {
			first[epoch] = o.Call
		}
	}
	return slices.DeleteFunc(all, func(o porcupine.Operation) bool { return unknown(o) && o.Call != first[o.Input.(operation).Epoch] })
}

func models() map[string]porcupine.Model {
	nondeterministic := porcupine.NondeterministicModel{Init: func() []any { return []any{stream{}} }, Step: stepStream,
		Equal: func(a, b any) bool { return a == b }, DescribeOperation: describe}
	return map[string]porcupine.Model{"stream": nondeterministic.ToModel(), "snapshots": model(uint64(0), stepSnapshots),
		"status": model(uint64(0), stepStatus)}
}

func main() {
	decide.Main("linearizable", read, models(), func(all []porcupine.Operation) map[string]any {
		return map[string]any{"operations": len(all)}
	})
}
