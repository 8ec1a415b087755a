#!/usr/bin/env python3
"""The log stays bounded: trimmed events give their space back, Raft's part is kept short, and a server that was away for longer, or lost
its disk, fetches the state of another."""
import contextlib
import glob
import json
import os
import shutil
import time

import wire
from harness import Cluster, check, main, wait_until

STREAM = "retention/default/workload/app"
FLAGS = ["--segment-size", "1MiB", "--log-keep", "1MiB", "--log-keep-max", "64MiB", "--index-commit", "20ms"]


def load(bench, cluster, tag, seconds=2.0, size=1000, window=64, servers=None, count=0):
    """For so long, or so many: where the log has to become long, on a slow disk too."""
    out, _ = bench.run("crsc-appendload", "--servers", servers or cluster.servers, "--stream", f"{STREAM}-{tag}", "--out",
                       bench.path(f"acked-{tag}"), "--seconds", "170" if count else str(seconds), "--count", str(count), "--size", str(size), "--window", str(window), "--timeout",
                       "60", timeout=180)
    acked = json.loads(out.splitlines()[-1])["acked"]
    check(acked > 0, "nothing was acknowledged")
    return acked


def verify(bench, cluster, tag, servers=None):
    """On every server by itself."""
    out, _ = bench.run("crsc-appendload", "--verify", "--servers", servers or cluster.servers, "--stream", f"{STREAM}-{tag}",
                       "--out", bench.path(f"acked-{tag}"), "--timeout", "60", timeout=180)
    check(json.loads(out.splitlines()[-1])["violations"] == 0, "%s", out)


def server(cluster, i):
    return next((s for s in cluster.status()["servers"] if s.get("id", s.get("node_id")) == i and s.get("applied_index")), None)


def streams(cluster, tag):
    return [s for s in cluster.streams() if s["name"].startswith(f"{STREAM}-{tag}")]


def segments(cluster, i):
    return sorted(glob.glob(os.path.join(cluster.data(i), "wal", "*.seg")))


def log_bytes(cluster, i):
    total = 0
    for path in segments(cluster, i):
        with contextlib.suppress(FileNotFoundError):  # it goes while we look
            total += os.path.getsize(path)
    return total


def wait_beginning(cluster, i, beyond):
    wait_until(f"logd {i} keeps nothing before entry {beyond}", lambda: (server(cluster, i) or {}).get("first_index", 0) > beyond, 60, 0.1)


def trim_all(cluster, tag):
    for s in streams(cluster, tag):
        cluster.logctl("trim", s["name"], "--to", str(s["last_offset"]), "--force")


def test_trimmed_events_give_their_space_back(bench, rng):
    cluster = Cluster(bench, flags=FLAGS).start()
    cluster.wait_leader()
    kept = load(bench, cluster, "kept", 0.3, 200, 8)
    load(bench, cluster, "gone", count=30000)
    before = min(log_bytes(cluster, i) for i in (1, 2, 3))
    trim_all(cluster, "gone")
    load(bench, cluster, "also", 1)
    trim_all(cluster, "also")
    for i in (1, 2, 3):
        wait_until(f"logd {i} has its space back", lambda: log_bytes(cluster, i) <= 6 << 20, 60, 0.1)
    print(f"log files: {before >> 20} MiB before, {max(log_bytes(cluster, i) for i in (1, 2, 3)) >> 20} MiB after the trim")
    for _ in range(2):
        verify(bench, cluster, "kept")
        gone = streams(cluster, "gone")[0]
        check(gone["first_offset"] == gone["last_offset"] + 1, "%s", gone)
        cluster.logctl("events", gone["name"], "--from", "1", "--to", "2", status=4)
        for i in (1, 2, 3):
            cluster.stop(i) if rng.random() < 0.5 else cluster.kill(i)
        cluster.start()
        cluster.wait_leader()
    check(load(bench, cluster, "after", 0.5) > 0 and kept > 0, "appends go on")
    verify(bench, cluster, "after")


def away(bench, cluster, victim, tag):
    """The others go on until their logs begin behind what the victim has."""
    servers = ",".join(a for i, a in cluster.addresses.items() if i != victim)
    cluster.wait_leader()
    load(bench, cluster, tag, servers=servers, count=20000)
    for i in cluster.running:
        wait_beginning(cluster, i, 50)


def came_back(bench, cluster, victim, tags):
    process = cluster.running[victim]
    process.wait_for("ready", 60)
    process.wait_for("the fetched state is verified", 60)
    wait_until("it has everything", lambda: (server(cluster, victim) or {}).get("applied_index", 0) >=
               max((s.get("commit_index", 0) for s in cluster.status()["servers"]), default=1 << 62), 60, 0.1)
    for tag in tags:
        verify(bench, cluster, tag)
    left = [n for n in ("staging", "rebuild") if os.path.exists(os.path.join(cluster.data(victim), n))]
    check(not left, "left behind: %s", left)


def test_a_server_that_was_away_fetches_the_state(bench, rng):
    cluster = Cluster(bench, flags=FLAGS).start()
    cluster.wait_leader()
    load(bench, cluster, "early", 0.3, 200, 8)
    victim = rng.choice([1, 2, 3])
    cluster.kill(victim)
    away(bench, cluster, victim, "meanwhile")
    trim_all(cluster, "meanwhile")
    load(bench, cluster, "later", 0.5)
    cluster.start(victim, wait=False)
    came_back(bench, cluster, victim, ["early", "later"])
    others = [i for i in (1, 2, 3) if i != victim]
    cluster.kill(rng.choice(others))  # now it is needed
    cluster.wait_leader()
    load(bench, cluster, "needed", 0.5)
    verify(bench, cluster, "needed", ",".join(cluster.addresses[i] for i in cluster.running))


def as_a_new_one(cluster, i):
    """A server without its data is refused under its old id until it is removed and added again."""
    cluster.logctl("members", "remove", str(i), "--timeout", "30s")
    cluster.logctl("members", "add", f"{i}={cluster.addresses[i]}", "--timeout", "30s")


def test_a_lost_disk_is_made_anew(bench, rng):
    cluster = Cluster(bench, flags=FLAGS).start()
    cluster.wait_leader()
    load(bench, cluster, "early", 0.3, 200, 8)
    victim = rng.choice([1, 2, 3])
    cluster.kill(victim)
    shutil.rmtree(cluster.data(victim))
    away(bench, cluster, victim, "meanwhile")
    as_a_new_one(cluster, victim)
    cluster.start(victim, wait=False)
    came_back(bench, cluster, victim, ["early", "meanwhile"])


def test_killed_while_it_fetches(bench, rng):
    """kill -9 at any moment of the fetching, of the one who fetches and of the one who gives."""
    cluster = Cluster(bench, flags=FLAGS).start()
    cluster.wait_leader()
    load(bench, cluster, "early", 0.3, 200, 8)
    victim = rng.choice([1, 2, 3])
    cluster.kill(victim)
    away(bench, cluster, victim, "meanwhile")
    for k in range(6):
        cluster.start(victim, wait=False)
        time.sleep(rng.random() * (1.0 if bench.build.sanitized else 0.4))
        if k == 3:
            giver = cluster.leader()
            if giver and giver != victim:
                cluster.kill(giver)
                cluster.start(giver, wait=False)
        cluster.kill(victim)
    cluster.start(victim, wait=False)
    process = cluster.running[victim]
    process.wait_for("ready", 60)
    cluster.wait_leader()
    wait_until("it has everything", lambda: (server(cluster, victim) or {}).get("applied_index", 0) >=
               max((s.get("commit_index", 0) for s in cluster.status()["servers"]), default=1 << 62), 60, 0.1)
    for tag in ("early", "meanwhile"):
        verify(bench, cluster, tag)


def flip_old_event(cluster, i):
    """A byte in the middle of an old segment that is not read at start-up."""
    path = segments(cluster, i)[0]
    with open(path, "r+b") as f:
        f.seek(300000)
        byte = f.read(1)
        f.seek(300000)
        f.write(bytes([byte[0] ^ 0x40]))
    return path


def test_a_damaged_state_is_refused(bench, rng):
    """One of the two that can give the state has a damaged segment: the other one's is taken."""
    cluster = Cluster(bench, flags=[*FLAGS, "--election-timeout", "5s"]).start()  # the one that leads is asked first, and goes on leading
    cluster.wait_leader()
    load(bench, cluster, "early", 0.3, 200, 8)
    victim = rng.choice([1, 2, 3])
    cluster.kill(victim)
    shutil.rmtree(cluster.data(victim))
    away(bench, cluster, victim, "meanwhile")
    as_a_new_one(cluster, victim)
    damaged = cluster.wait_leader()
    flip_old_event(cluster, damaged)
    cluster.start(victim, wait=False)
    process = cluster.running[victim]
    process.wait_for("the fetched state is not good: it is fetched again", 60)
    process.wait_for("ready", 60)
    others = ",".join(a for i, a in cluster.addresses.items() if i != damaged)
    wait_until("it has everything", lambda: (server(cluster, victim) or {}).get("applied_index", 0) >=
               max((s.get("commit_index", 0) for s in cluster.status()["servers"]), default=1 << 62), 60, 0.1)
    for tag in ("early", "meanwhile"):
        verify(bench, cluster, tag, others)


def take_snapshot(cluster, stream, name, offset):
    """A valid one, as far as the log is concerned."""
    port = int(cluster.addresses[cluster.wait_leader()].rsplit(":", 1)[1])
    head = wire.field(1, wire.field(1, stream) + wire.field(2, name) + wire.field(3, offset) + wire.field(4, 2))
    with contextlib.closing(wire.dial(port)) as s:
        s.sendall(wire.frame(wire.RECORD_SNAPSHOT, 2, head))
        answer = wire.receive(s)
    check(answer is not None and answer[0] == wire.RECORD_SNAPSHOT | wire.REPLY, "%s", answer)


def policies(cluster):
    return {r["stream"]: r for r in json.loads(cluster.logctl("retention", "get", STREAM))["retention"]}


def test_policies(bench, rng):
    """What a policy lets go, goes by itself, on every server alike, also after leaders changed and everything was killed; what it keeps stays."""
    cluster = Cluster(bench, flags=[*FLAGS, "--retention-interval", "100ms"]).start()
    cluster.wait_leader()
    for tag in ("all", "size", "age", "snapshots"):
        load(bench, cluster, tag, 1, 1000, 16)
    name = {s["name"][len(STREAM) + 1:].split("-")[0]: s["name"] for s in cluster.streams()}
    last = {s["name"]: s["last_offset"] for s in cluster.streams()}

    def first(tag):
        return next(s["first_offset"] for s in cluster.streams() if s["name"] == name[tag])

    cluster.logctl("retention", "set", name["size"], "--max-bytes", "50KiB", "--beyond-snapshots")
    cluster.logctl("retention", "set", name["age"], "--max-age", "1s", "--beyond-snapshots")
    cluster.logctl("retention", "set", name["snapshots"], "--max-bytes", "50KiB")
    wait_until("size", lambda: first("size") > 1, 30, 0.05)
    wait_until("age", lambda: first("age") == last[name["age"]] + 1, 30, 0.05)
    kept = last[name["size"]] - first("size") + 1
    check(51 <= kept <= 68, "%d events of about 1000 bytes are kept of 50 KiB", kept)
    check(first("snapshots") == 1, "nothing goes without a snapshot")
    cluster.kill(cluster.wait_leader())  # policies are everybody's
    cluster.wait_leader()
    check(policies(cluster)[name["snapshots"]]["max_bytes"] == 50 << 10, "%s", policies(cluster))
    for snapshot, offset in (("s1", 5), ("s2", 9)):
        take_snapshot(cluster, name["snapshots"], snapshot, offset)
    wait_until("as far as the newest snapshot", lambda: first("snapshots") == 10, 30, 0.05)
    cluster.logctl("retention", "set", name["all"], "--keep-snapshots", "2")
    for snapshot, offset in (("s1", 12), ("s2", 20), ("s3", 17)):
        take_snapshot(cluster, name["all"], snapshot, offset)
    wait_until("as far as the second newest", lambda: first("all") == 18, 30, 0.05)
    cluster.logctl("retention", "clear", name["all"])
    take_snapshot(cluster, name["all"], "s4", 25)
    for i in list(cluster.running):
        cluster.kill(i)
    cluster.start()
    cluster.wait_leader()
    check(first("all") == 18 and first("snapshots") == 10, "trims are kept, and what has no policy is left alone")
    check(policies(cluster)[name["all"]]["keep_snapshots"] == 0, "%s", policies(cluster))
    for i in (1, 2, 3):
        wait_until(f"{i} has all of it", lambda: (server(cluster, i) or {}).get("applied_index", 0) >=
                   max((s.get("commit_index", 0) for s in cluster.status()["servers"]), default=1 << 62), 60, 0.1)
        own = json.loads(bench.run("crsc-logctl", "--servers", cluster.addresses[i], "--output", "json", "--timeout", "60s", "streams")[0])["streams"]
        check({s["name"]: s["first_offset"] for s in own} == {s["name"]: s["first_offset"] for s in cluster.streams()}, "server %d: %s", i, own)


if __name__ == "__main__":
    main([test_policies, test_trimmed_events_give_their_space_back, test_a_server_that_was_away_fetches_the_state, test_a_lost_disk_is_made_anew,
          test_killed_while_it_fetches, test_a_damaged_state_is_refused])
