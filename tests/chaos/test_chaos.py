#!/usr/bin/env python3
"""Three real crsc-logd, each in a network namespace with a filesystem of its own, and in a fourth the clients: a driver whose every
operation is recorded, a loader whose every acknowledgement is, and crsc-interceptor with the counter behind it. Meanwhile servers are killed, frozen,
cut off (wholly, one way, into a minority), their disks filled, their clocks wrong. Then
  - one order of all recorded operations must explain every answer (Porcupine: linearizable/),
  - every replica by itself must hold what was acknowledged (L1 to L3, crsc-appendload --verify),
  - the counter's list must be what its clients were told, and they saw no error.

    make chaos SECONDS=3600        tests/chaos/test_chaos.py --build build/release --seed 7
"""
import json
import os
import shutil
import subprocess
import sys
import time

from hosts import Hosts, FAKETIME

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from harness import ROOT, Cluster, Skip, check, main, wait_until  # noqa: E402
from test_interceptor import Front, Writers, compare  # noqa: E402
from test_logd_chaos import lines, load, verify  # noqa: E402

DISK_MIB = 768


class Far(Cluster):
    """A cluster whose servers are on hosts of their own."""

    def __init__(self, bench, hosts, rng):
        super().__init__(bench, n=3)
        self.hosts, self.rng = hosts, rng
        self.addresses = {i: hosts.address(i, 7400) for i in self.addresses}
        self.servers = ",".join(self.addresses.values())
        self.members = ",".join(f"{i}={a}" for i, a in self.addresses.items())

    def data(self, i):
        return os.path.join(self.hosts.disk(i), "logd")

    def argv(self, i):
        plain = super().argv(i)
        return self.hosts.argv(i, [self.bench.build.path(plain[0]), *plain[1:]], self.rng)

    def start(self, i=None, wait=True):
        for k in [i] if i else range(1, self.n + 1):
            clock = self.hosts.wrong_clock(self.rng) if not self.bench.build.sanitized else {}
            self.running[k] = self.bench.spawn(f"logd-{k}", self.argv(k), clock)
        for k in ([i] if i else range(1, self.n + 1)) if wait else []:
            self.running[k].wait_for("ready", 60)
        return self


class Chaos:
    """One fault after the other, and each time its end."""

    def __init__(self, cluster, hosts, rng):
        self.cluster, self.hosts, self.rng, self.done = cluster, hosts, rng, {}
        self.kinds = [self.kill, self.kill_leader, self.freeze_leader, self.cut_off_leader, self.one_way, self.minority, self.halves_of_a_link,
                      self.kill_all, self.full_disk]

    def wait(self, low, high):
        time.sleep(self.rng.uniform(low, high))

    def leader(self):
        return self.cluster.leader() or self.rng.choice([1, 2, 3])

    def strike(self):
        kind = self.rng.choice(self.kinds)
        kind()
        self.done[kind.__name__] = self.done.get(kind.__name__, 0) + 1

    def kill(self, i=None):
        i = i or self.rng.choice([1, 2, 3])
        self.cluster.kill(i)
        self.wait(0, 1.5)
        self.cluster.start(i, wait=False)

    def kill_leader(self):
        self.kill(self.leader())

    def kill_all(self):
        for i in list(self.cluster.running):
            self.cluster.kill(i)
        self.cluster.start(wait=False)

    def freeze_leader(self):
        process = self.cluster.running[self.leader()]
        process.pause()
        self.wait(0.5, 3)
        process.resume()

    def cut(self, deaf):
        for i, to in deaf.items():
            self.hosts.deaf(i, to)
        self.wait(0.5, 4)
        for i in deaf:
            self.hosts.heal(i)

    def cut_off_leader(self):
        """From the other servers; clients still reach it: what it acknowledges now would be lost."""
        i = self.leader()
        others = {1, 2, 3} - {i}
        self.cut({i: others, **{k: {i} for k in others}})

    def one_way(self):
        """It speaks and does not hear."""
        i = self.leader()
        self.cut({i: {1, 2, 3} - {i}})

    def minority(self):
        """A server and the clients on one side: clients reach nobody else."""
        i = self.rng.choice([1, 2, 3])
        others = {1, 2, 3} - {i}
        self.cut({i: others, **{k: {i, 100} for k in others}})

    def halves_of_a_link(self):
        i, k = self.rng.sample([1, 2, 3], 2)
        self.cut({i: {k}, k: {i}})

    def full_disk(self):
        i = self.rng.choice([1, 2, 3])
        self.hosts.fill(i)
        self.wait(0.5, 3)
        self.hosts.free(i)


def checker(bench, what="."):
    """Porcupine's program for the log's own history, or for that of the app `what`, built once; or why there is none."""
    program = os.path.join(ROOT, "build", "chaos", "linearizable" if what == "." else what)
    if not shutil.which("go"):
        raise Skip("the linearizability checker needs Go")
    done = subprocess.run(["go", "build", "-o", program, "./" + what], cwd=os.path.join(ROOT, "tests", "chaos", "linearizable"), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise Skip(f"the linearizability checker cannot be built here: {done.stdout[-300:]}")
    return program


def test_chaos(bench, rng):
    seconds = float(os.environ.get("CRSC_CHAOS_SECONDS", "60" if bench.build.sanitized else "180"))
    linearizable = checker(bench)
    with Hosts(3, bench.directory, DISK_MIB) as hosts:
        try:
            run(bench, rng, hosts, seconds, linearizable)
        finally:  # while the namespaces are there
            for process in reversed(bench.processes):
                if not process.alive() and not process.expected_dead:
                    print(f"  {process.name} died by itself: {process.tail(3)}", flush=True)
            for process in bench.processes:
                if process.alive():
                    process.resume()
                    process.stop()


def run(bench, rng, hosts, seconds, linearizable):
    cluster = Far(bench, hosts, rng).start()
    cluster.wait_leader()
    front = Front(bench, cluster)
    front.start_app()
    front.wait_active()
    writers = Writers(front.port, n=3)
    history = bench.path("history")
    driver = bench.spawn("driver", ["chaos-driver", "--servers", cluster.servers, "--out", history, "--clients", "12", "--seconds", str(seconds), "--seed",
                                    str(rng.randrange(1 << 30))])
    loader = load(bench, cluster, seconds, "chaos", 300)
    chaos = Chaos(cluster, hosts, rng)
    until = time.monotonic() + seconds - 2
    while time.monotonic() < until and not writers.errors:
        chaos.wait(0.2, 2)
        chaos.strike()
        if rng.random() < 0.2:  # the app dies, too
            front.app.kill()
            front.start_app()
        if rng.random() < 0.7:
            cluster.wait_leader()
    for process in cluster.running.values():
        process.wait_for("ready", 60)
    before = writers.total()
    wait_until("writes go on after the last fault", lambda: writers.total() > before + 20 or writers.errors, 60)
    writers.stop()
    front.wait_active()
    check(driver.wait(120) == 0 and loader.wait(300) == 0, "driver or loader broke:\n%s\n%s", driver.tail(), loader.tail())
    told = compare(front, writers)
    found = verify(bench, cluster, "chaos")
    verdict = subprocess.run([linearizable, history, bench.path("history.html")], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    check(verdict.returncode == 0, "the history has no explanation: %s (picture: %s)", verdict.stdout, bench.path("history.html"))
    counted = {name: o["operations"] for name, o in json.loads(verdict.stdout).items()}
    check(min(counted.values()) > seconds / 3, "only %s operations: this shows nothing", counted)
    check(lines(bench, "chaos") > 3 * seconds, "only %d appends were acknowledged", lines(bench, "chaos"))
    print(f"  {sum(chaos.done.values())} faults {chaos.done}; linearizable: {counted}; {lines(bench, 'chaos')} acknowledged appends, {found}; {told} writes through "
          f"the interceptor, no error; clocks wrong: {os.path.exists(FAKETIME) and not bench.build.sanitized}", flush=True)


if __name__ == "__main__":
    main([test_chaos])
