#!/usr/bin/env python3
"""Live events are moved out of sparse segments, and nothing of them is lost: killed at any moment, on every server, while readers read."""
import contextlib
import json
import os
import time

from harness import Cluster, check, main, wait_until

FLAGS = ["--segment-size", "256KiB", "--log-keep", "256KiB", "--log-keep-max", "1MiB", "--index-commit", "20ms", "--retention-interval", "200ms",
         "--background-rate", "0"]


def load(bench, cluster, count):
    out, _ = bench.run("crsc-appendload", "--servers", cluster.servers, "--stream", "m", "--producers", "12", "--out", bench.path("acked"), "--count", str(count),
                       "--seconds", "170", "--rate", "4000", "--size", "700", "--window", "16", "--timeout", "60", timeout=180)
    check(json.loads(out.splitlines()[-1])["acked"] > 0, "%s", out)


def verify(bench, cluster):
    """All of the stream that was not trimmed, on every server by itself."""
    with open(bench.path("acked"), encoding="ascii") as everything, open(bench.path("acked-0"), "w", encoding="ascii") as own:
        own.writelines(line for line in everything if line.startswith("m-0 "))
    out, _ = bench.run("crsc-appendload", "--verify", "--servers", cluster.servers, "--stream", "m", "--producers", "1", "--out", bench.path("acked-0"), "--timeout",
                       "60", timeout=180)
    result = json.loads(out.splitlines()[-1])
    check(result["violations"] == 0 and result["acked"] > 100, "%s", out)


def moved_files(cluster, i):
    return [n for n in os.listdir(os.path.join(cluster.data(i), "wal")) if n.endswith(".seg") and int(n[:-4]) >= 1 << 62]


def make_sparse(cluster):
    """Eleven streams of twelve keep their last 2 KiB only."""
    for s in sorted(s["name"] for s in cluster.streams())[1:]:
        cluster.logctl("retention", "set", s, "--max-bytes", "2KiB", "--beyond-snapshots")


def used(cluster, i):
    """Bytes of segments. One may go while they are counted."""
    total, folder = 0, os.path.join(cluster.data(i), "wal")
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            total += os.path.getsize(os.path.join(folder, name)) if name.endswith(".seg") else 0
    return total


def test_sparse_segments_are_rewritten(bench, rng):
    cluster = Cluster(bench, flags=FLAGS).start()
    cluster.wait_leader()
    load(bench, cluster, 12000)
    before = max(used(cluster, i) for i in (1, 2, 3))
    make_sparse(cluster)
    live = next(s for s in cluster.streams() if s["name"] == "m-0")["bytes"]
    check(live * 4 < before, "%d live of %d: nothing to be won", live, before)
    for i in (1, 2, 3):
        wait_until(f"server {i} has moved what is live", lambda: moved_files(cluster, i) and used(cluster, i) < live * 1.5 + (1 << 20), 60, 0.1)
    print(f"{live >> 10} KiB live; segments {before >> 10} KiB before, {max(used(cluster, i) for i in (1, 2, 3)) >> 10} KiB after")
    verify(bench, cluster)
    for i in (1, 2, 3):
        cluster.kill(i)
    for i in (1, 2, 3):
        bench.run("crsc-logctl", "check", cluster.data(i), timeout=120)
    cluster.start()
    cluster.wait_leader()
    verify(bench, cluster)
    cluster.logctl("backup", bench.path("backup"))


def test_killed_while_events_are_moved(bench, rng):
    cluster = Cluster(bench, n=1, flags=FLAGS).start()
    cluster.wait_leader()
    load(bench, cluster, 16000)
    make_sparse(cluster)
    for _ in range(8):
        time.sleep(rng.random() * (2.0 if bench.build.sanitized else 0.7))
        cluster.kill(1)
        bench.run("crsc-logctl", "check", cluster.data(1), timeout=120)
        cluster.start()
        cluster.wait_leader()
    live = next(s for s in cluster.streams() if s["name"] == "m-0")["bytes"]
    wait_until("what is live was moved", lambda: moved_files(cluster, 1) and used(cluster, 1) < live * 1.5 + (1 << 20), 60, 0.1)
    verify(bench, cluster)


if __name__ == "__main__":
    main([test_sparse_segments_are_rewritten, test_killed_while_events_are_moved])
