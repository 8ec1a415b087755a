#!/usr/bin/env python3
"""A server fetches another's state through connections that are cut, bytes that are changed on the way, and ends of either side: it never begins
anew, and what arrives is whole. Between it and the others stands a proxy that counts, cuts and changes."""
import json
import os
import re
import socket
import struct
import threading
import time

from harness import Cluster, check, free_ports, main, wait_until

STREAM = "catchup/default/workload/app"
FLAGS = ["--segment-size", "4MiB", "--log-keep", "4MiB", "--log-keep-max", "8MiB", "--index-commit", "20ms"]
MIB = 1 << 20
WINDOW = 16 * MIB  # on the way at a time
NOTED = 16 * MIB   # of one file, of which an end of the process may cost so much


class Proxy:
    """Ports that lead to other ports. What comes back from there is counted; `happen` is called each time `at` is passed, with the bytes, and
    says what goes on: those, changed ones, or None for a cut."""

    def __init__(self, ports):
        self.ports = dict(zip(ports, free_ports(len(ports))))
        self.bytes, self.at, self.happen, self.lock = 0, None, None, threading.Lock()
        self.listeners = []
        for to, port in self.ports.items():
            s = socket.create_server(("127.0.0.1", port))
            self.listeners.append(s)
            threading.Thread(target=self.accept, args=(s, to), daemon=True).start()

    def accept(self, listener, to):
        while True:
            try:
                here, _ = listener.accept()
            except OSError:
                return
            try:
                there = socket.create_connection(("127.0.0.1", to), 5)
            except OSError:
                here.close()
                continue
            there.settimeout(None)
            threading.Thread(target=self.pump, args=(here, there, False), daemon=True).start()
            threading.Thread(target=self.pump, args=(there, here, True), daemon=True).start()

    def count(self, data):
        with self.lock:
            self.bytes += len(data)
            if self.at is None or self.bytes < self.at:
                return data
            self.at = None
        return self.happen(data)

    def pump(self, source, sink, counted):
        try:
            while data := source.recv(1 << 18):
                if counted:
                    data = self.count(data)
                    if data is None:
                        sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
                        break
                sink.sendall(data)
        except OSError:
            pass
        for s in (source, sink):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()

    def close(self):
        for s in self.listeners:
            s.close()


class Behind(Cluster):
    """Server 3 reaches the others through the proxy only; they reach it directly."""

    def begin_proxy(self):
        self.proxy = Proxy([self.ports[1], self.ports[2]])
        return self

    def argv(self, i):
        argv = super().argv(i)
        if i == 3:
            members = ",".join(f"{k}=127.0.0.1:{self.proxy.ports.get(port, port)}" for k, port in self.ports.items())
            argv[argv.index("--initial-cluster") + 1] = members
        return argv


def fill(bench, cluster, size):
    """Two servers of three get a state of that many bytes."""
    cluster.start_without(3)
    servers = ",".join(cluster.addresses[i] for i in (1, 2))
    out, _ = bench.run("crsc-appendload", "--servers", servers, "--stream", STREAM, "--out", bench.path("acked"), "--size", "32768", "--count",
                       str(size // 32768), "--seconds", "600", "--producers", "4", "--window", "16", "--timeout", "120", timeout=600)
    check(json.loads(out.splitlines()[-1])["failed"] == 0, "%s", out)
    for i in (1, 2):
        wait_until("the log begins later", lambda: (server(cluster, i) or {}).get("first_index", 0) > 1, 60, 0.1)


def server(cluster, i):
    return next((s for s in cluster.status()["servers"] if s.get("id") == i and s.get("applied_index")), None)


def caught_up(bench, cluster):
    cluster.running[3].wait_for("ready", 120)
    wait_until("it has everything", lambda: (server(cluster, 3) or {}).get("applied_index", 0) >=
               max((s.get("commit_index", 0) for s in cluster.status()["servers"]), default=1 << 62), 60, 0.1)
    out, _ = bench.run("crsc-appendload", "--verify", "--servers", cluster.servers, "--stream", STREAM, "--out", bench.path("acked"), "--timeout", "60",
                       timeout=300)
    check(json.loads(out.splitlines()[-1])["violations"] == 0, "%s", out)


def anonymous(pid):
    """Resident bytes that are not mapped files."""
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"RssAnon:\s+(\d+) kB", f.read()).group(1)) << 10


def test_whatever_happens_it_goes_on_where_it_was(bench, rng):
    size = (96 if bench.build.sanitized else 192) * MIB
    cluster = Behind(bench, flags=FLAGS).begin_proxy()
    proxy = cluster.proxy
    fill(bench, cluster, size)
    what = ["cut"] * 4 + ["change"] * 3 + ["kill it"] * 4 + ["kill who gives"]
    rng.shuffle(what)
    what.insert(0, "cut")  # which takes nobody's attention: from then on one thing leads to the next
    happened, memory = [], [0]
    again = threading.Event()

    def happen(data):
        kind = what[len(happened)]
        happened.append((proxy.bytes, kind))
        if kind == "kill it" or kind == "kill who gives":
            again.set()  # by the main thread
            return data
        next_one()
        if kind == "cut":
            return None
        k = rng.randrange(len(data))
        return data[:k] + bytes([data[k] ^ (1 << rng.randrange(8))]) + data[k + 1:]

    def next_one():
        if len(happened) < len(what):
            proxy.at = proxy.bytes + 1 + rng.randrange(size // len(what))

    def whoever_gives():
        ports = {port: i for i, port in cluster.ports.items()}
        asked = cluster.running[3].events()
        begun = [e for e in asked if e.get("msg") == "fetching the state" and "server" in e]
        return int(begun[-1]["server"]) if begun else ports[cluster.ports[1]]

    proxy.happen = happen
    next_one()
    cluster.start(3, wait=False)
    cluster.running[3].wait_for("the state is fetched from another server: this one lacks what the leader's log no longer has", 60)
    deadline = time.monotonic() + 300
    while not cluster.running[3].find("ready", found_after(cluster.running[3])):
        check(cluster.running[3].alive(), "it ended with %s:\n%s", cluster.running[3].popen.returncode, cluster.running[3].tail())
        check(time.monotonic() < deadline, "it was not there after 300 s: %s", happened)
        try:
            memory[0] = max(memory[0], anonymous(cluster.running[3].pid))
        except (OSError, AttributeError):
            pass
        if again.wait(0.01):
            again.clear()
            victim = 3 if happened[-1][1] == "kill it" else whoever_gives()
            cluster.kill(victim)
            cluster.start(victim, wait=False)
            next_one()
    caught_up(bench, cluster)
    events = cluster.running[3].events()
    done = next((e for e in events if e.get("msg") == "the state is fetched"), {"kept": 0})  # none: it was fetched when it was killed for the last time
    bound = size * 1.1 + len(happened) * WINDOW + sum(k.startswith("kill") for _, k in happened) * NOTED
    print(f"{len(happened)} of {len(what)} things happened; {proxy.bytes / MIB:.0f} MiB came for a state of {size / MIB:.0f} MiB; the last life kept "
          f"{int(done['kept']) / MIB:.0f}; memory {memory[0] / MIB:.0f} MiB")
    check(len(happened) >= len(what) // 2, "only that happened: %s", happened)
    check(proxy.bytes <= bound, "%d bytes came, %d were to be fetched; %s", proxy.bytes, size, happened)
    check(bench.build.sanitized or memory[0] < 96 * MIB, "it took %d bytes of memory", memory[0])
    proxy.close()


def found_after(process):
    """Where this life's fetching begins in the log."""
    return next((i for i, e in enumerate(process.events()) if e.get("msg", "").startswith("the state is fetched from another")), 0)


def test_no_faster_than_it_may(bench, rng):
    rate, size = 16 * MIB, 24 * MIB
    cluster = Behind(bench, flags=FLAGS + ["--catch-up-rate", "16MiB"]).begin_proxy()
    fill(bench, cluster, size)
    cluster.start(3, wait=False)
    cluster.running[3].wait_for("fetching the state", 60)
    out, _ = bench.run("crsc-appendload", "--servers", ",".join(cluster.addresses[i] for i in (1, 2)), "--stream", STREAM + "-beside", "--out",
                       bench.path("beside"), "--count", "100", "--seconds", "60", "--timeout", "60", timeout=120)
    check(json.loads(out.splitlines()[-1])["failed"] == 0, "appends beside it failed: %s", out)
    done = cluster.running[3].wait_for("the state is fetched", 120)
    pieces = int(done["bytes"]) // MIB - 1
    check(float(done["seconds"]) >= pieces * MIB / rate * 0.99, "%s bytes in %s s", done["bytes"], done["seconds"])
    caught_up(bench, cluster)
    cluster.proxy.close()


if __name__ == "__main__":
    main([test_whatever_happens_it_goes_on_where_it_was, test_no_faster_than_it_may])
