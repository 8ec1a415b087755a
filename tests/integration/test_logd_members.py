#!/usr/bin/env python3
"""The membership of a running cluster: 1 -> 3 -> 5 -> 3 servers under load, a rolling restart, leadership moved, a dead server replaced, one
that lost its data refused, one that was removed told so. Nothing acknowledged is lost, and no append fails at the client."""
import json
import os
import shutil
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Cluster, check, main, wait_until  # noqa: E402


class Growing(Cluster):
    """Servers 1..n, of which `first` make the cluster; the others wait to be added."""

    def __init__(self, bench, n, first, flags=()):
        super().__init__(bench, n, flags)
        self.first = first
        self.joined = set()

    def start(self, i=None, wait=True):
        for k in [i] if i else range(1, self.first + 1):
            super().start(k, wait=False)
        if wait:
            for k in [i] if i else range(1, self.first + 1):
                self.running[k].wait_for("ready", 60)
        return self

    def argv(self, i):
        members = ",".join(f"{k}={self.addresses[k]}" for k in range(1, self.first + 1))
        if i <= self.first and i not in self.joined:
            how = ["--initial-cluster", members]
        else:
            how = ["--initial-cluster", f"{i}={self.addresses[i]}", "--initial-cluster-state", "existing"]
        return ["crsc-logd", "--id", str(i), "--listen", self.addresses[i], "--data-dir", self.data(i), *how, *self.flags]

    def who(self):
        return {m["id"]: m for m in json.loads(self.logctl("members", "--timeout", "20s"))["members"]}

    def change(self, *argv, status=0):
        return self.logctl(*argv, "--timeout", "60s", status=status)

    def join(self, i):
        self.joined.add(i)
        self.start(i)
        self.change("members", "add", f"{i}={self.addresses[i]}")
        self.change("members", "promote", str(i))

    def leave(self, i):
        """Removes a running server, which must notice and stop."""
        server = self.running.pop(i)
        self.change("members", "remove", str(i))
        code = server.wait(30)
        check(code == 4, "server %d was removed and ended with %s", i, code)
        check(server.find("this server is none of the cluster's: it stops") is not None, "server %d does not say that it was removed", i)

    def roles(self):
        return {i: m["role"] for i, m in self.who().items()}


class Load:
    """crsc-appendload until it is told to stop; then everything acknowledged is on every server given."""

    def __init__(self, cluster, servers=None):
        self.cluster, self.bench = cluster, cluster.bench
        self.acked = self.bench.path("acked")
        self.argv = ["--stream", "load", "--producers", "3", "--out", self.acked]
        self.process = self.bench.spawn("load", ["crsc-appendload", "--servers", servers or cluster.servers, "--seconds", "600",
                                                 "--rate", "300", *self.argv])
        wait_until("the first append", lambda: any(os.path.exists(self.acked + end) and os.path.getsize(self.acked + end) > 0
                                                   for end in ("", ".0", "-0")) or self.size() > 0, 30)

    def size(self):
        folder, name = os.path.split(self.acked)
        return sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder) if f.startswith(name))

    def goes_on(self):
        before = self.size()
        wait_until("appends go on", lambda: self.size() > before, 60)

    def stop(self, ids):
        code = self.process.stop()
        check(code == 0, "the load ended with %d: an append failed\n%s", code, self.process.tail())
        self.verify(ids)

    def verify(self, ids):
        servers = ",".join(self.cluster.addresses[i] for i in ids)
        self.bench.run("crsc-appendload", "--servers", servers, *self.argv, "--verify", timeout=120)


def test_one_three_five_three(bench, rng):
    cluster = Growing(bench, 5, 1)
    cluster.start(1)
    cluster.wait_leader()
    load = Load(cluster, cluster.addresses[1])
    for i in (2, 3, 4, 5):
        cluster.join(i)
        load.goes_on()
    check(cluster.roles() == {i: "voter" for i in range(1, 6)}, "after growing: %s", cluster.who())
    check(all(m["instance"] for m in cluster.who().values()), "instances are not noted: %s", cluster.who())
    gone = rng.sample(range(1, 6), 2)
    for i in gone:  # the leader too, in two of five runs
        cluster.leave(i)
        load.goes_on()
    left = sorted(set(range(1, 6)) - set(gone))
    check(sorted(cluster.roles()) == left, "after shrinking: %s", cluster.who())
    # one that was removed stays out
    again = bench.spawn("again", cluster.argv(gone[0]))
    check(again.wait(30) == 4, "a removed server may come back")
    for i in left:  # what they know of each other is on their disks
        cluster.stop(i)
        cluster.start(i)
        cluster.wait_leader()
    check(sorted(cluster.roles()) == left, "after the restarts: %s", cluster.who())
    load.goes_on()
    load.stop(left)


def test_rolling_restart(bench, rng):
    cluster = Growing(bench, 3, 3)
    cluster.start()
    cluster.wait_leader()
    load = Load(cluster)
    for i in (1, 2, 3):
        check(cluster.stop(i) == 0, "server %d did not stop cleanly", i)
        cluster.start(i)
        wait_until(f"server {i} is reached", lambda: cluster.who()[i]["reachable"], 30, pause=0.05)
        load.goes_on()
    for i in (1, 2, 3, rng.randrange(1, 4)):
        cluster.change("leader", "transfer", str(i))

        def leads(i=i):  # on a machine that stands still for longer than an election another one may have taken it since
            if cluster.leader() == i:
                return True
            bench.run("crsc-logctl", "--servers", cluster.servers, "--timeout", "20s", "leader", "transfer", str(i), status=None)
            return cluster.leader() == i
        wait_until(f"server {i} leads", leads, 30, pause=0.5)
        load.goes_on()
    cluster.logctl("leader", "transfer", "9", status=4)
    load.stop((1, 2, 3))


def test_replace_and_refuse(bench, rng):
    # a short log: who comes anew gets the state, not the entries
    cluster = Growing(bench, 4, 3, ["--log-keep", "0", "--log-keep-max", "4MiB", "--segment-size", "64KiB"])
    cluster.start()
    cluster.wait_leader()
    wait_until("all have met", lambda: all(m["instance"] for m in cluster.who().values()), 30, pause=0.1)
    load = Load(cluster)
    # lost data under the old id: it is not let in, and says what to do
    cluster.kill(3)
    shutil.rmtree(cluster.data(3))
    cluster.start(3)
    waits = "this server has no log, and the cluster does not take it as it is: it waits to be added"
    said = wait_until("it says what to do", lambda: cluster.running[3].find(waits), 30)
    check("members remove 3" in said["reason"], "it does not say what to do: %s", said)
    load.goes_on()
    out = cluster.who()
    check(not out[3]["reachable"] and out[3]["role"] == "voter", "it is let in under its old id: %s", out)
    # with the old id again, as a new one, which is running already
    cluster.change("members", "remove", "3")
    cluster.change("members", "add", f"3={cluster.addresses[3]}")
    cluster.change("members", "promote", "3")
    load.goes_on()
    check(cluster.who()[3]["instance"] != out[3]["instance"], "the same instance: %s", cluster.who())
    load.goes_on()
    # a dead one is replaced by another
    dead = rng.choice([i for i in (1, 2, 3) if i != cluster.wait_leader()])
    cluster.kill(dead)
    cluster.logctl("members", "add", f"4={cluster.addresses[dead]}", status=1)  # that is somebody's address
    cluster.change("members", "remove", str(dead))
    cluster.join(4)
    load.goes_on()
    check(sorted(cluster.roles()) == sorted({1, 2, 3, 4} - {dead}), "after the replacement: %s", cluster.who())
    # not a majority any more: refused, and nothing happened
    follower = next(i for i in cluster.running if i != cluster.wait_leader())
    cluster.kill(follower)
    left = next(i for i in cluster.running if i != cluster.wait_leader())
    cluster.logctl("members", "remove", str(left), status=1)
    cluster.start(follower)
    load.goes_on()
    load.stop(sorted(cluster.running))


def test_founding(bench, rng):
    """All of initial-cluster have to be there once. From then on one that lost its data is told from the one that it was, also by a server that
    has been down since."""
    cluster = Cluster(bench, 3)
    one, two, three = (1, 2, 3) if rng.random() < 0.5 else (2, 3, 1)
    for i in (one, two):
        cluster.start(i)
    waiting = wait_until("it says for whom it waits", lambda: cluster.running[one].find("the cluster is not founded yet: all of initial-cluster have to be there once"), 30)
    check(f"server {three} (not met yet)" in waiting["waiting_for"], "%s", waiting)
    check(cluster.leader() is None, "two of three have elected a leader")
    # emptied before all have met: nobody minds
    cluster.kill(two)
    shutil.rmtree(cluster.data(two))
    # killed at random moments while they found
    for i in (two, three):
        cluster.start(i, wait=False)
    for _ in range(10):
        i = rng.choice((one, two, three))
        time.sleep(rng.uniform(0, 0.05))
        cluster.kill(i)
        cluster.start(i, wait=False)
    cluster.wait_leader()
    wait_until("all have a log", lambda: all(s.get("applied_index", 0) > 0 for s in cluster.status()["servers"]) and len(cluster.status()["servers"]) == 3, 60)
    # one misses everything that is acknowledged from here on; another one loses it
    cluster.kill(three)
    load = Load(cluster)
    load.goes_on()
    load.process.kill()
    for i in (one, two):
        cluster.kill(i)
    shutil.rmtree(cluster.data(one))
    for i in (one, three):
        cluster.start(i)
    time.sleep(4)
    check(cluster.leader() is None, "an emptied server and one that was down are a majority")
    cluster.start(two)
    cluster.wait_leader()
    load.verify((two, three))


if __name__ == "__main__":
    main([test_founding, test_one_three_five_three, test_rolling_restart, test_replace_and_refuse])
