// Package decide is what the checkers have in common: they read a history, a JSON object a line, and have Porcupine search the order that explains it.
package decide

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/anishathalye/porcupine"
)

// Histories are the operations by the name of the object, or kind of object, that they are of.
type Histories map[string][]porcupine.Operation

// Lines calls each with what a line holds, as long as that is no error.
func Lines[T any](path string, each func(T) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var one T
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			return fmt.Errorf("%s: %w: %s", path, err, lines.Text())
		}
		if err := each(one); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return lines.Err()
}

// Main is the program: `program HISTORY [PICTURE.html]`. It prints one JSON object, in which `count` tells how much each verdict is of. Exit status 0:
// there is such an order for each model; 1: not for all (the picture shows where), or not decided in time; 2: no such history.
func Main(program string, read func(path string) (Histories, error), models map[string]porcupine.Model, count func([]porcupine.Operation) map[string]any) {
	if len(os.Args) < 2 {
		fmt.Fprintf(os.Stderr, "usage: %s HISTORY [PICTURE.html]\n", program)
		os.Exit(2)
	}
	histories, err := read(os.Args[1])
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", program, err)
		os.Exit(2)
	}
	result, status := map[string]any{}, 0
	for name, m := range models {
		verdict, info := porcupine.CheckOperationsVerbose(m, histories[name], 2*time.Minute)
		told := count(histories[name])
		told["verdict"] = verdict
		result[name] = told
		if verdict != porcupine.Ok {
			status = 1
			if len(os.Args) > 2 {
				if picture, err := os.Create(os.Args[2]); err == nil {
					_ = porcupine.Visualize(m, info, picture)
					picture.Close()
				}
			}
		}
	}
	text, _ := json.Marshal(result)
	fmt.Println(string(text))
	os.Exit(status)
}
