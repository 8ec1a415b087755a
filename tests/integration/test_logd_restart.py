#!/usr/bin/env python3
"""crsc-logd stopped, restarted, given the wrong or damaged data: what a person who runs it meets."""
import json
import os
import re
import shutil

from harness import Cluster, check, main, wait_until

STREAM = "restart/default/workload/app"


def load(bench, cluster, tag, seconds=1, rate=1500):
    out, _ = bench.run("crsc-appendload", "--servers", cluster.servers, "--stream", f"{STREAM}-{tag}", "--out",
                       bench.path(f"acked-{tag}"), "--seconds", str(seconds), "--rate", str(rate), "--timeout", "60", timeout=120)
    acked = json.loads(out.splitlines()[-1])["acked"]
    check(acked > 0, "nothing was acknowledged")
    return acked


def verify(bench, cluster, tag, servers=None):
    out, _ = bench.run("crsc-appendload", "--verify", "--servers", servers or cluster.servers, "--stream", f"{STREAM}-{tag}",
                       "--out", bench.path(f"acked-{tag}"), "--timeout", "60", timeout=120)
    check(json.loads(out.splitlines()[-1])["violations"] == 0, "%s", out)


def refused(bench, argv, status, words):
    """The program ends by itself with that status, and says why in those words."""
    _, err = bench.run(*argv, status=status, timeout=60)
    check(re.search(words, err, re.I | re.S), "nothing like /%s/ in: %s", words, err)
    return err


def test_stop_hands_over(bench, rng):
    """SIGTERM of a leader: it hands over, ends with 0, and no append fails."""
    cluster = Cluster(bench, flags=["--stop-timeout", "60s"]).start()
    leader = cluster.wait_leader()
    loader = bench.spawn("appendload", ["crsc-appendload", "--servers", cluster.servers, "--stream", f"{STREAM}-stop", "--out",
                                        bench.path("acked-stop"), "--seconds", "6", "--rate", "500", "--timeout", "60"])
    for _ in range(2):
        process = cluster.running[leader]
        wait_until("an acknowledged append", lambda: os.path.exists(bench.path("acked-stop")))
        check(cluster.stop(leader) == 0, "the leader did not stop cleanly:\n%s", process.tail())
        check(process.find("leadership could not be handed over in time") is None, "it did not hand over:\n%s", process.tail())
        new = cluster.wait_leader(other_than=leader)
        cluster.start(leader)
        leader = new
    check(loader.wait(120) == 0, "an append failed:\n%s", loader.tail())
    verify(bench, cluster, "stop")


def test_single_node(bench, rng):
    """One server alone: works, keeps its data over SIGTERM and over SIGKILL."""
    cluster = Cluster(bench, n=1).start()
    cluster.wait_leader()
    for k, how in enumerate(("stop", "kill", "stop")):
        load(bench, cluster, f"single{k}")
        if how == "stop":
            check(cluster.stop(1) == 0, "it did not stop cleanly")
        else:
            cluster.kill(1)
        cluster.start()
        cluster.wait_leader()
        for earlier in range(k + 1):
            verify(bench, cluster, f"single{earlier}")
    check(len(cluster.streams()) == 3, "%s", cluster.streams())


def test_second_process_on_the_same_data(bench, rng):
    cluster = Cluster(bench, n=1).start()
    cluster.wait_leader()
    load(bench, cluster, "lock")
    argv = cluster.argv(1)
    argv[argv.index("--listen") + 1] = "127.0.0.1:0"
    refused(bench, argv, 1, "another process|in use|lock")
    argv = cluster.argv(1)
    argv[argv.index("--data-dir") + 1] = bench.path("elsewhere")
    refused(bench, argv, 1, "in use|listen|address")
    verify(bench, cluster, "lock")


def test_data_of_another(bench, rng):
    """The data directory remembers whose it is."""
    cluster = Cluster(bench).start()
    cluster.wait_leader()
    load(bench, cluster, "other")
    cluster.stop(2)
    argv = cluster.argv(2)
    argv[argv.index("--data-dir") + 1] = cluster.data(3)
    cluster.stop(3)
    refused(bench, argv, 2, "server 3|id 3|belongs")
    argv = cluster.argv(2)
    argv[argv.index("--cluster") + 1] = "another"
    refused(bench, argv, 2, "cluster")
    cluster.start(2)
    cluster.start(3)
    cluster.wait_leader()
    verify(bench, cluster, "other")


def segments_with(directory, needle):
    """(path, position) of every place in the log's files that holds these bytes. The index (LMDB) is not part of the log."""
    for folder, _, names in os.walk(directory):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if name.endswith(".mdb"):
                continue
            with open(path, "rb") as f:
                data = f.read()
            at = data.find(needle)
            while at >= 0:
                yield path, at
                at = data.find(needle, at + 1)


def acknowledged(bench, tag):
    with open(bench.path(f"acked-{tag}")) as f:
        return [line.split() for line in f]


def flip(path, at):
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)
        f.seek(at)
        f.write(bytes([byte[0] ^ 0x40]))


def test_flipped_byte(bench, rng):
    """A byte of an old entry changed on one server's disk: it refuses to start (status 3), says where, touches nothing; the other
    two go on, with everything."""
    cluster = Cluster(bench).start()
    cluster.wait_leader()
    load(bench, cluster, "flip")
    for i in list(cluster.running):
        check(cluster.stop(i) == 0, "logd %d did not stop cleanly", i)
    victim = rng.choice([1, 2, 3])
    lines = acknowledged(bench, "flip")
    name, number = lines[rng.randrange(len(lines) // 4 + 1)][3].split("/")
    places = list(segments_with(cluster.data(victim), f"{name} {number} ".encode()))
    check(places, "the acknowledged event %s/%s is nowhere on the disk of logd %d", name, number, victim)
    path, at = places[0]
    at += rng.randrange(20)
    flip(path, at)
    before = sorted((n, os.path.getsize(os.path.join(d, n))) for d, _, names in os.walk(cluster.data(victim)) for n in names)
    err = refused(bench, cluster.argv(victim), 3, "damaged|corrupt|checksum")
    check(os.path.basename(path) in err, "it does not say in which file (%s): %s", os.path.basename(path), err)
    after = sorted((n, os.path.getsize(os.path.join(d, n))) for d, _, names in os.walk(cluster.data(victim)) for n in names)
    check(before == after, "it changed its files: %s -> %s", before, after)
    others = [i for i in (1, 2, 3) if i != victim]
    for i in others:
        cluster.start(i, wait=False)
    cluster.wait_leader()
    verify(bench, cluster, "flip", ",".join(cluster.addresses[i] for i in others))
    load(bench, cluster, "after")
    flip(path, at)  # mended, it starts and catches up
    cluster.start(victim)
    verify(bench, cluster, "flip")
    verify(bench, cluster, "after")


def test_torn_tail(bench, rng):
    """kill -9 under load, and what a half-finished write leaves behind the last entry: cut, and nothing acknowledged is lost."""
    cluster = Cluster(bench, n=1).start()
    cluster.wait_leader()
    for k in range(2 if bench.build.sanitized else 4):
        loader = bench.spawn(f"appendload-{k}", ["crsc-appendload", "--servers", cluster.servers, "--stream", f"{STREAM}-torn{k}",
                                                 "--out", bench.path(f"acked-torn{k}"), "--seconds", "60", "--window", "64",
                                                 "--size", "700", "--timeout", "60"])
        wait_until("acknowledged appends", lambda n=k: os.path.exists(bench.path(f"acked-torn{n}"))
                   and os.path.getsize(bench.path(f"acked-torn{n}")) > 20000, 60)
        cluster.kill(1)
        loader.kill()
        number = max(int(line[2]) for line in acknowledged(bench, f"torn{k}") if len(line) == 4)
        name = acknowledged(bench, f"torn{k}")[0][3].split("/")[0]
        last = None
        for number in range(number, number + 500):
            last = next(iter(segments_with(cluster.data(1), f"{name} {number} ".encode())), None) or last
        check(last, "the acknowledged events are nowhere on the disk")
        path, at = last
        with open(path, "r+b") as f:
            f.seek((at + 700 + 4096) // 4096 * 4096)
            f.write(rng.randbytes(rng.randrange(1, 3000)))
        cluster.start()
        cluster.wait_leader()
        for earlier in range(k + 1):
            verify(bench, cluster, f"torn{earlier}")


def test_lost_disk_of_a_minority(bench, rng):
    """An acknowledged append is on a majority's disks: with any one server's data gone for good, it is still there."""
    cluster = Cluster(bench).start()
    cluster.wait_leader()
    load(bench, cluster, "disk")
    victim = rng.choice([1, 2, 3])
    for i in list(cluster.running):
        cluster.kill(i)
    shutil.rmtree(cluster.data(victim))
    others = [i for i in (1, 2, 3) if i != victim]
    for i in others:
        cluster.start(i, wait=False)
    cluster.wait_leader()
    verify(bench, cluster, "disk", ",".join(cluster.addresses[i] for i in others))


if __name__ == "__main__":
    main([test_stop_hands_over, test_single_node, test_second_process_on_the_same_data, test_data_of_another, test_flipped_byte,
          test_torn_tail, test_lost_disk_of_a_minority])
