// The clients of the other systems in tests/bench/append: C closed-loop clients over at most 16 connections, each with one append on
// the way. Prints one JSON object.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const connectionsMax = 16

// An append of one client; n is its number among that client's.
type appendFunc func(ctx context.Context, n int) error

func die(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func etcdClients(endpoints []string, clients int, value string) []appendFunc {
	var connections []*clientv3.Client
	for i := 0; i < min(clients, connectionsMax); i++ {
		c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 10 * time.Second})
		die(err)
		connections = append(connections, c)
	}
	all := make([]appendFunc, clients)
	run := time.Now().UnixNano()
	for i := range all {
		c := connections[i%len(connections)]
		all[i] = func(ctx context.Context, n int) error {
			_, err := c.Put(ctx, fmt.Sprintf("/bench/%x/%d/%d", run, i, n), value)
			return err
		}
	}
	return all
}

func natsClients(endpoints []string, clients int, value string) []appendFunc {
	var connections []jetstream.JetStream
	for i := 0; i < min(clients, connectionsMax); i++ {
		nc, err := nats.Connect(strings.Join(endpoints, ","), nats.Timeout(10*time.Second))
		die(err)
		js, err := jetstream.New(nc)
		die(err)
		connections = append(connections, js)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	config := jetstream.StreamConfig{Name: "bench", Subjects: []string{"bench.>"}, Storage: jetstream.FileStorage, Replicas: 3}
	var err error
	for { // the cluster may still be electing
		if _, err = connections[0].CreateOrUpdateStream(ctx, config); err == nil || ctx.Err() != nil {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	die(err)
	data := []byte(value)
	all := make([]appendFunc, clients)
	for i := range all {
		js, subject := connections[i%len(connections)], fmt.Sprintf("bench.%d", i)
		all[i] = func(ctx context.Context, n int) error {
			_, err := js.Publish(ctx, subject, data)
			return err
		}
	}
	return all
}

// Durations of the appends answered within the measured time, and how many there were in all.
func drive(all []appendFunc, warmup, seconds time.Duration) ([]time.Duration, int, error) {
	begin := time.Now()
	measure, end := begin.Add(warmup), begin.Add(warmup+seconds)
	var lock sync.Mutex
	var wait sync.WaitGroup
	var measured []time.Duration
	var failure error
	total := 0
	for _, one := range all {
		wait.Add(1)
		go func() {
			defer wait.Done()
			var mine []time.Duration
			n := 0
			for {
				start := time.Now()
				if start.After(end) {
					break
				}
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				err := one(ctx, n)
				cancel()
				if err != nil {
					lock.Lock()
					failure = err
					lock.Unlock()
					break
				}
				n++
				if now := time.Now(); now.After(measure) && now.Before(end) {
					mine = append(mine, now.Sub(start))
				}
			}
			lock.Lock()
			measured = append(measured, mine...)
			total += n
			lock.Unlock()
		}()
	}
	wait.Wait()
	return measured, total, failure
}

func main() {
	endpoints := flag.String("endpoints", "", "of the servers, with commas")
	clients := flag.Int("clients", 1, "closed-loop clients")
	bytes := flag.Int("bytes", 1024, "of an append")
	warmup := flag.Duration("warmup", 2*time.Second, "not measured")
	seconds := flag.Duration("seconds", 8*time.Second, "measured")
	flag.Parse()
	value := strings.Repeat("x", *bytes)
	list := strings.Split(*endpoints, ",")
	var all []appendFunc
	switch flag.Arg(0) {
	case "etcd":
		all = etcdClients(list, *clients, value)
	case "jetstream":
		all = natsClients(list, *clients, value)
	default:
		die(fmt.Errorf("which system? etcd or jetstream"))
	}
	measured, total, err := drive(all, *warmup, *seconds)
	die(err)
	if len(measured) == 0 {
		die(fmt.Errorf("nothing was appended in time"))
	}
	sort.Slice(measured, func(i, j int) bool { return measured[i] < measured[j] })
	at := func(p float64) float64 {
		return float64(measured[min(int(p*float64(len(measured))), len(measured)-1)].Microseconds()) / 1000
	}
	json.NewEncoder(os.Stdout).Encode(map[string]any{"appends_per_s": float64(len(measured)) / seconds.Seconds(),
		"p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999), "total": total})
}
