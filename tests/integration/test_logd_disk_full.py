#!/usr/bin/env python3
"""Disks that fill up: appends are refused with a reason, everything else goes on, and it ends by itself.

Each server's data is a small tmpfs. They are mounted in a mount namespace of this test's own: they are gone with its last process,
however it ends."""
import contextlib
import ctypes
import json
import os
import re
import subprocess

import wire
from harness import Cluster, Skip, check, main, wait_until

MIB = 1 << 20
DISK, RESERVE = 96 * MIB, 16 * MIB
STREAM = "full/default/workload/app"
NOT_LEADER, NO_SPACE = 7, 17
FLAGS = ["--segment-size", "1MiB", "--disk-reserve", "16MiB", "--log-keep", "2MiB", "--log-keep-max", "64MiB", "--index-commit", "20ms",
         "--election-timeout", "5s"]  # leadership that moves must have moved because of a disk
CLONE_NEWNS = 0x20000

entered = False


def enter_namespace():
    global entered
    if entered:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        raise Skip(f"a mount namespace of its own: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    entered = True


@contextlib.contextmanager
def disks(bench, n=3):
    """A cluster, not started, with a tmpfs as each data directory. What is in them goes when they are unmounted, after the servers' end."""
    enter_namespace()
    cluster = Cluster(bench, n=n, flags=FLAGS)
    for i in range(1, n + 1):
        os.makedirs(cluster.data(i), exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "crsc-test", cluster.data(i)], stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise Skip(f"a tmpfs: {done.stderr.strip()}")
    try:
        yield cluster
    finally:
        for i in range(1, n + 1):
            subprocess.run(["umount", "-l", cluster.data(i)], check=False)


def free(cluster, i):
    fs = os.statvfs(cluster.data(i))
    return fs.f_bavail * fs.f_frsize


def ballast(cluster, i, leave):
    """Fills the disk until so much is left."""
    with open(os.path.join(cluster.data(i), "ballast"), "wb") as f:
        os.posix_fallocate(f.fileno(), 0, max(4096, free(cluster, i) - leave))


def unload(cluster, i):
    os.unlink(os.path.join(cluster.data(i), "ballast"))


def alarms(cluster):
    return {s["id"]: s["alarm"] for s in cluster.status()["servers"] if s.get("id")}


def wait_alarm(cluster, i, word):
    """On a busy machine a server may have fetched another one's state, which keeps its segments for a minute after that (EXPORTS_IDLE_LEAST_MS)."""
    wait_until(f"logd {i}'s alarm", lambda: word in alarms(cluster).get(i, "") if word else alarms(cluster).get(i) == "", 100, 0.1)


def load(bench, cluster, tag, seconds=0.5, size=1000, timeout="60", status=0, rate=2000):
    out, _ = bench.run("crsc-appendload", "--servers", cluster.servers, "--stream", f"{STREAM}-{tag}", "--out", bench.path(f"acked-{tag}"),
                       "--seconds", str(seconds), "--size", str(size), "--rate", str(rate), "--timeout", timeout, timeout=180, status=status)
    return out


def verify(bench, cluster, tag):
    """On every server by itself, and all of them the same."""
    out, _ = bench.run("crsc-appendload", "--verify", "--servers", cluster.servers, "--stream", f"{STREAM}-{tag}", "--out",
                       bench.path(f"acked-{tag}"), "--timeout", "60", timeout=180)
    check(json.loads(out.splitlines()[-1])["violations"] == 0, "%s", out)


def append_once(cluster, stream, at=None):
    """The leader's answer (or that of server `at`) to one append of a new producer, or the refusal of the producer: (type, head)."""
    with wire.dial(cluster.ports[at or cluster.wait_leader()]) as s:
        s.sendall(wire.frame(wire.OPEN_PRODUCER, 2, wire.field(1, stream) + wire.field(2, "test")))
        kind, _, head, _ = wire.receive(s)
        if kind == wire.ERROR | wire.REPLY:
            return kind, head
        check(kind == wire.OPEN_PRODUCER | wire.REPLY and head[0] == 8, "the producer was not opened: %s", head)
        epoch = head[1]
        check(epoch < 128, "an epoch of one byte was expected")
        event = wire.field(1, 3) + wire.field(3, 4)
        s.sendall(wire.frame(wire.APPEND, 3, wire.field(1, stream) + wire.field(2, epoch) + wire.field(3, 1) + wire.field(4, event), b"text"))
        kind, _, head, _ = wire.receive(s)
        return kind, head


def check_refused(cluster, stream, word="disk-reserve", at=None):
    kind, head = append_once(cluster, stream, at)
    if at and kind == wire.ERROR | wire.REPLY and head[:2] == bytes([8, NOT_LEADER]):
        return  # it does not lead any more
    check(kind == wire.ERROR | wire.REPLY and head[:2] == bytes([8, NO_SPACE]), "not refused for want of space: %s %s", kind, head)
    check(word.encode() in head, "the refusal does not say what to do: %s", head)


def all_alive(cluster):
    for i, process in cluster.running.items():
        check(process.alive(), "logd %d ended:\n%s", i, process.tail())


def test_the_leaders_disk(bench, rng):
    with disks(bench) as cluster, contextlib.ExitStack() as stack:
        stack.callback(lambda: [cluster.stop(i) for i in list(cluster.running)])
        cluster.start()
        leader = cluster.wait_leader()
        load(bench, cluster, "before")
        ballast(cluster, leader, 12 * MIB)
        wait_alarm(cluster, leader, "disk low")
        check(cluster.wait_leader() == leader, "a low disk moved leadership")
        check_refused(cluster, f"{STREAM}-raw")
        verify(bench, cluster, "before")
        for s in [s for s in cluster.streams() if s["name"].startswith(f"{STREAM}-before")]:
            cluster.logctl("trim", s["name"], "--to", "1", "--force")
        said = [e for e in cluster.running[leader].events() if "nearly full" in e.get("msg", "")]
        check(len(said) == 1, "it was logged %d times", len(said))
        unload(cluster, leader)
        wait_alarm(cluster, leader, "")
        check(append_once(cluster, f"{STREAM}-raw")[0] == wire.APPEND | wire.REPLY, "it did not recover")
        load(bench, cluster, "after")
        verify(bench, cluster, "after")
        all_alive(cluster)


def test_a_followers_disk(bench, rng):
    with disks(bench) as cluster, contextlib.ExitStack() as stack:
        stack.callback(lambda: [cluster.stop(i) for i in list(cluster.running)])
        cluster.start()
        leader = cluster.wait_leader()
        victim = rng.choice([i for i in (1, 2, 3) if i != leader])
        load(bench, cluster, "before")
        ballast(cluster, victim, 3 * MIB)
        wait_alarm(cluster, victim, "disk full")
        left = free(cluster, victim)
        load(bench, cluster, "meanwhile", 1)
        all_alive(cluster)
        check(left - free(cluster, victim) <= 2 * MIB, "a full server took %d bytes", left - free(cluster, victim))
        def term():
            return wait_until("the leader's term", lambda: next((s["term"] for s in cluster.status()["servers"] if s.get("id") == leader and s.get("term")), None), pause=0.1)
        before = term()
        wait_until("the full server knows the leader", lambda: any(s.get("id") == victim and s["role"] == "follower"
                   for s in cluster.status()["servers"]), 10, 0.1)
        check(cluster.wait_leader() == leader and term() == before, "a full follower disturbed the leader")
        unload(cluster, victim)
        wait_alarm(cluster, victim, "")
        for tag in ("before", "meanwhile"):
            verify(bench, cluster, tag)
        all_alive(cluster)


def test_filled_by_appends(bench, rng):
    """Until nothing more is taken; trims make room, and appends go on without anybody's help."""
    with disks(bench) as cluster, contextlib.ExitStack() as stack:
        stack.callback(lambda: [cluster.stop(i) for i in list(cluster.running)])
        cluster.start()
        cluster.wait_leader()
        load(bench, cluster, "kept", 0.3, 100)
        fills, refusal = 0, None
        while not refusal:  # each load but the last is acknowledged; of that, appends are given up
            fills += 1
            check(fills <= 30, "the disk does not fill up")
            load(bench, cluster, f"gone{fills}", 2, 20000, "2", None, 0)
            if re.search("disk (low|full)", alarms(cluster).get(cluster.wait_leader(), "")):  # a follower's refuses nothing
                kind, head = append_once(cluster, f"{STREAM}-raw")
                refusal = head if kind == wire.ERROR | wire.REPLY else None  # none: what Raft needs no more has gone, and there is room again
        check(refusal[:2] == bytes([8, NO_SPACE]) and b"disk-reserve" in refusal, "not refused for want of space: %s", refusal)
        check(all(free(cluster, i) > RESERVE / 4 for i in (1, 2, 3)), "the reserve was used up: %s", [free(cluster, i) for i in (1, 2, 3)])
        verify(bench, cluster, "kept")
        verify(bench, cluster, f"gone{fills}")
        for s in [s for s in cluster.streams() if s["name"].startswith(f"{STREAM}-gone")]:
            cluster.logctl("trim", s["name"], "--to", str(s["last_offset"]), "--force")
        for i in (1, 2, 3):
            wait_alarm(cluster, i, "")
        load(bench, cluster, "after")
        for tag in ("kept", "after"):
            verify(bench, cluster, tag)
        all_alive(cluster)


def stuff(cluster, i):
    """To the last byte."""
    fd = os.open(os.path.join(cluster.data(i), "ballast"), os.O_WRONLY | os.O_CREAT, 0o600)
    for step in (4 * MIB, 4096):
        with contextlib.suppress(OSError):
            while True:
                os.posix_fallocate(fd, os.fstat(fd).st_size, step)
    os.close(fd)


def test_not_a_byte_left(bench, rng):
    """Something else takes all of the disk at once, under load: neither log nor index can grow. One server after the other, then all."""
    with disks(bench) as cluster, contextlib.ExitStack() as stack:
        stack.callback(lambda: [cluster.stop(i) for i in list(cluster.running)])
        cluster.start()
        leader = cluster.wait_leader()
        load(bench, cluster, "before")
        for k, victims in enumerate([[leader], [i for i in (1, 2, 3) if i != leader][:1], [1, 2, 3]]):
            loader = bench.spawn(f"loader-{k}", ["crsc-appendload", "--servers", cluster.servers, "--stream", f"{STREAM}-{k}", "--out", bench.path(f"acked-{k}"),
                                                 "--seconds", "4", "--size", "1000", "--rate", "3000", "--timeout", "300"])
            acked = bench.path(f"acked-{k}")
            wait_until("appends are acknowledged", lambda: os.path.exists(acked) and os.path.getsize(acked) > 5000, 30, 0.01)
            for i in victims:
                stuff(cluster, i)
            for i in victims:
                wait_alarm(cluster, i, "disk full")
            verify(bench, cluster, "before")
            leads = cluster.wait_leader()
            if leads in victims:
                check_refused(cluster, f"{STREAM}-raw", "disk", leads)
            for i in victims:
                unload(cluster, i)
                wait_alarm(cluster, i, "")
            check(loader.wait(400) == 0, "appends were lost: %s", loader.tail())
            for tag in ("before", str(k)):
                verify(bench, cluster, tag)
            all_alive(cluster)


if __name__ == "__main__":
    main([test_not_a_byte_left, test_the_leaders_disk, test_a_followers_disk, test_filled_by_appends])
