// Is there, for each register and each queue of the app store (tests/apps/store.c), one order of its operations that explains every answer?
// As ../main.go does it for the log itself; the history is that of tests/chaos/test_store.py.
//
//	store HISTORY [PICTURE.html]
//
// Prints one JSON object. Exit status 0: yes, for each of them; 1: no (the picture shows where), or not decided in time.
package main

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/anishathalye/porcupine"

	"crsc.io/crsc/tests/chaos/linearizable/decide"
)

type operation struct {
	Client  int    `json:"client"`
	Op      string `json:"op"`
	Key     string `json:"key"`
	Call    int64  `json:"call"`
	Return  int64  `json:"return"`
	From    uint64 `json:"from"`
	To      uint64 `json:"to"` // what is written or pushed
	Value   uint64 `json:"value"`
	Length  int    `json:"length"`
	Swapped bool   `json:"swapped"`
	Outcome string `json:"outcome"` // ok, or unknown: it may have had its effect at any time since, or never
}

// An operation whose outcome is unknown has no end: it may stand behind everything else, where nobody sees whether it had an effect.

func stepRegister(state, input, _ any) (bool, any) {
	was, op := state.(uint64), input.(operation)
	told := op.Outcome == "ok"
	switch op.Op {
	case "get":
		return op.Value == was, was
	case "put":
		return true, op.To
	}
	now := was
	if was == op.From {
		now = op.To
	}
	return !told || (op.Swapped == (was == op.From) && op.Value == now), now
}

// A queue is its items, 8 bytes each: strings can be compared.
func stepQueue(state, input, _ any) (bool, any) {
	items, op := state.(string), input.(operation)
	told, front, rest := op.Outcome == "ok", uint64(0), items
	if items != "" {
		front, rest = binary.BigEndian.Uint64([]byte(items[:8])), items[8:]
	}
	switch op.Op {
	case "look":
		return op.Value == front && op.Length == len(items)/8, items
	case "push":
		items += string(binary.BigEndian.AppendUint64(nil, op.To))
		return !told || op.Length == len(items)/8, items
	}
	return !told || op.Value == front, rest
}

func describe(input, _ any) string {
	op := input.(operation)
	return fmt.Sprintf("%s %s from=%d to=%d: value=%d length=%d swapped=%t %s", op.Op, op.Key, op.From, op.To, op.Value, op.Length, op.Swapped, op.Outcome)
}

// Each key is a history of its own: a linearizable whole is one of linearizable parts, and the other way round.
func byKey(all []porcupine.Operation) [][]porcupine.Operation {
	parts := map[string][]porcupine.Operation{}
	for _, o := range all {
		key := o.Input.(operation).Key
		parts[key] = append(parts[key], o)
	}
	var list [][]porcupine.Operation
	for _, part := range parts {
		list = append(list, part)
	}
	slices.SortFunc(list, func(a, b []porcupine.Operation) int {
		return cmp.Compare(a[0].Input.(operation).Key, b[0].Input.(operation).Key)
	})
	return list
}

func models() map[string]porcupine.Model {
	return map[string]porcupine.Model{
		"registers": {Init: func() any { return uint64(0) }, Step: stepRegister, Partition: byKey, DescribeOperation: describe},
		"queues":    {Init: func() any { return "" }, Step: stepQueue, Partition: byKey, DescribeOperation: describe},
	}
}

func read(path string) (decide.Histories, error) {
	object := map[string]string{"get": "registers", "put": "registers", "cas": "registers", "look": "queues", "push": "queues", "pop": "queues"}
	histories := decide.Histories{}
	err := decide.Lines(path, func(op operation) error {
		name, known := object[op.Op]
		if !known {
			return fmt.Errorf("no such operation: %s", op.Op)
		}
		switch {
		case op.Outcome == "ok":
		case op.Outcome != "unknown":
			return fmt.Errorf("no such outcome: %s", op.Outcome)
		case op.Op == "get" || op.Op == "look":
			return nil // it changed nothing, and nobody saw what it gave
		default:
			op.Return = math.MaxInt64
		}
		histories[name] = append(histories[name], porcupine.Operation{ClientId: op.Client, Input: op, Call: op.Call, Return: op.Return})
		return nil
	})
	return histories, err
}

func main() {
	decide.Main("store", read, models(), func(all []porcupine.Operation) map[string]any {
		return map[string]any{"operations": len(all), "keys": len(byKey(all))}
	})
}
