#!/usr/bin/env python3
"""A backup of a running cluster to one file, and new clusters made from it: of three servers from one of one, of one from one of three; a damaged
file is refused, and so is a directory that is not empty."""
import glob
import json
import os

from harness import Cluster, check, main, wait_until
from test_logd_chaos import load, lines, verify


def backup(bench, cluster, name):
    path = bench.path(name)
    out = json.loads(cluster.logctl("backup", path))
    check(out["bytes"] == os.path.getsize(path) and os.stat(path).st_mode & 0o777 == 0o600, "%s", out)
    check(not os.path.exists(path + ".part"), "the unfinished file is still there")
    return path


def restored(bench, path, n, prefix):
    cluster = Cluster(bench, n=n, prefix=prefix, cluster=prefix)
    for i in range(1, n + 1):
        bench.run(*cluster.argv(i), "--restore", path)
    cluster.start()
    cluster.wait_leader()
    return cluster


def events(cluster, stream):
    return [json.loads(line) for line in cluster.logctl("events", stream, "--from", "1").splitlines()]


def content(cluster):
    """Every stream's events, without what a restore may change (nothing)."""
    return {s["name"]: events(cluster, s["name"]) for s in cluster.streams()}


def test_three_to_one_to_three(bench, rng):
    first = Cluster(bench).start()
    first.wait_leader()
    check(load(bench, first, 2, "one", 800).wait(60) == 0, "the load failed")
    running = load(bench, first, 4, "two", 500)
    wait_until("the load goes", lambda: lines(bench, "two") > 100, 30)
    path = backup(bench, first, "backup-1")
    check(running.wait(60) == 0, "an append failed during the backup")
    before = {name: list_ for name, list_ in content(first).items() if "-one-" in name}
    check(len(before) == 4 and sum(map(len, before.values())) > 100, "nothing to compare")
    for i in list(first.running):
        first.stop(i)
    alone = restored(bench, path, 1, "alone")
    found = content(alone)
    for name, list_ in before.items():
        check(found[name] == list_, "%s is not the same", name)
    verify(bench, alone, "one")
    check(load(bench, alone, 1, "after", 300).wait(60) == 0, "the restored server takes no appends")
    again = backup(bench, alone, "backup-2")
    for i in list(alone.running):
        alone.kill(i)
    three = restored(bench, again, 3, "three")
    check(content(three) == {**found, **{n: l for n, l in content(three).items() if "-after-" in n}}, "the second restore differs")
    verify(bench, three, "one")
    verify(bench, three, "after")
    members = json.loads(three.logctl("members"))["members"]
    check(sorted(m["id"] for m in members) == [1, 2, 3], "%s", members)
    leader = three.wait_leader()
    three.kill(leader)
    three.wait_leader(other_than=leader)
    three.start(leader)
    check(load(bench, three, 1, "last", 300).wait(60) == 0, "the restored cluster takes no appends")
    verify(bench, three, "last")


def test_refusals(bench, rng):
    cluster = Cluster(bench, n=1).start()
    cluster.wait_leader()
    check(load(bench, cluster, 1, "small", 500).wait(60) == 0, "the load failed")
    path = backup(bench, cluster, "good")
    cluster.logctl("backup", path, status=1)  # it is there already
    cluster.stop(1)
    with open(path, "rb") as f:
        good = f.read()
    other = Cluster(bench, n=1, prefix="other", cluster="other")
    cases = [("cut", good[:-1]), ("cut-in-the-middle", good[:len(good) // 2]), ("longer", good + b"x"), ("empty", b""), ("no-backup", b"hello, world" * 10)]
    for k in range(12):
        at = rng.randrange(len(good))
        cases.append((f"flipped-{k}", good[:at] + bytes([good[at] ^ 1 << rng.randrange(8)]) + good[at + 1:]))
    for name, data in cases:
        bad = bench.path(name)
        with open(bad, "wb") as f:
            f.write(data)
        bench.run(*other.argv(1), "--restore", bad, status=3)
        check(not glob.glob(os.path.join(other.data(1), "*")), "%s: something was made of a damaged backup", name)
    bench.run(*other.argv(1), "--restore", bench.path("not-there"), status=1)
    bench.run(*other.argv(1), "--restore", path)
    bench.run(*other.argv(1), "--restore", path, status=2)  # not empty any more
    other.start()
    other.wait_leader()
    verify(bench, other, "small")


def tree(directory):
    """Every byte of the log's files: what a check must not change."""
    found = {}
    for path in sorted(glob.glob(os.path.join(directory, "wal", "*"))):
        with open(path, "rb") as f:
            found[path] = f.read()
    return found


def test_check(bench, rng):
    """A stopped server's directory: clean as it is; each flipped byte of an event is found, and nothing is changed by looking."""
    cluster = Cluster(bench, n=1, flags=["--segment-size", "1MiB"]).start()
    cluster.wait_leader()
    check(load(bench, cluster, 120, "check", 2000, 700, 4000).wait(150) == 0, "the load failed")
    cluster.logctl("check", cluster.data(1), status=1)  # it is in use
    cluster.kill(1)
    before = tree(cluster.data(1))
    found = json.loads(cluster.logctl("check", cluster.data(1)))
    check(found["damages"] == 0 and found["events"] > 1000 and found["last_index"] > 10, "%s", found)
    check(tree(cluster.data(1)) == before, "the check changed the log")
    cluster.logctl("check", bench.path("nowhere"), status=4)
    segments = sorted(p for p in before if p.endswith(".seg"))
    for _ in range(6):
        path = rng.choice(segments[:-1])
        at = rng.randrange(8192, len(before[path]) - 8192)
        data = bytearray(before[path])
        data[at] ^= 1 << rng.randrange(8)
        with open(path, "wb") as f:
            f.write(data)
        found = json.loads(cluster.logctl("check", cluster.data(1), status=1))
        check(found["damages"] >= 1 and found["found"], "%s", found)
        with open(path, "wb") as f:
            f.write(before[path])
    check(json.loads(cluster.logctl("check", cluster.data(1)))["damages"] == 0, "restored, and still damaged")
    cluster.start()
    cluster.wait_leader()
    verify(bench, cluster, "check")


if __name__ == "__main__":
    main([test_three_to_one_to_three, test_refusals, test_check])
