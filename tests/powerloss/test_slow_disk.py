#!/usr/bin/env python3
"""A leader whose disk becomes slow says so, and leaves leadership to a server whose disk is not; when it is fast again the alarm ends. Each server's
data is on a filesystem of its own (forgetfs), whose syncs can be slowed down."""
import contextlib
import json
import os
import subprocess
import sys

from test_powerloss import Disk

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from harness import Cluster, check, main, wait_until  # noqa: E402

STREAM = "slow/default/workload/app"


class OnDisks(Cluster):
    def data(self, i):
        return os.path.join(self.disks[i].path, "logd")


def alarm(cluster, i):
    return next((s.get("alarm", "") for s in cluster.status(timeout="10s")["servers"] if s.get("id") == i), None)


def test_a_slow_leader_hands_over(bench, rng):
    with contextlib.ExitStack() as stack:
        # a bound above what others may do to the disk that is below all three
        cluster = OnDisks(bench, flags=["--segment-size", "1MiB", "--election-timeout", "4s", "--slow-disk", "1s"])
        cluster.disks = {i: stack.enter_context(Disk(bench, rng, f"disk-{i}")) for i in (1, 2, 3)}
        stack.callback(lambda: [cluster.stop(i) for i in list(cluster.running)])
        cluster.start()
        slow = cluster.wait_leader()
        out = bench.path("acked")
        loader = bench.spawn("loader", ["crsc-appendload", "--servers", cluster.servers, "--stream", STREAM, "--out", out, "--seconds", "30", "--rate", "100",
                                        "--timeout", "120"])
        wait_until("appends are acknowledged", lambda: os.path.exists(out) and os.path.getsize(out) > 100, 60, 0.01)
        cluster.disks[slow].tell("slow 1800")
        process = cluster.running[slow]
        process.wait_for("the disk is slow", 120)
        process.wait_for("leadership is handed over, as the disk is slow", 60)
        other = cluster.wait_leader(120, other_than=slow)
        wait_until("status says it", lambda: "disk slow" in (alarm(cluster, slow) or ""), 60, 0.1)
        done = subprocess.run([bench.build.path("crsc-logctl"), "--servers", cluster.servers, "--timeout", "20s", "health"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True, check=False)
        check(done.returncode == 1 and "disk slow" in done.stdout, "health: %d %s", done.returncode, done.stdout)
        cluster.running[other].wait_for("something is wrong with another server", 60, peer=slow)
        cluster.disks[slow].tell("slow 0")
        wait_until("the alarm ends", lambda: alarm(cluster, slow) == "", 120, 0.2)
        check(loader.wait(180) == 0, "appends failed: %s", loader.tail())
        text, _ = bench.run("crsc-appendload", "--verify", "--servers", cluster.servers, "--stream", STREAM, "--out", out, "--timeout", "60", timeout=180)
        check(json.loads(text.splitlines()[-1])["violations"] == 0, "%s", text)


if __name__ == "__main__":
    main([test_a_slow_leader_hands_over])
