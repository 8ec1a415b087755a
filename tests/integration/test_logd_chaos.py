#!/usr/bin/env python3
"""Three crsc-logd under load, killed with SIGKILL again and again: the leader, a follower, the leader and then at once the next
one, all three. Then every replica is read by itself: what was acknowledged is there, at its offset, unchanged (L1); offsets
are dense and the same everywhere (L2); nothing is there twice although the client repeated what was not answered (L3)."""
import json
import time

from harness import Cluster, check, main, wait_until

STREAM = "chaos/default/workload/app"


def load(bench, cluster, seconds, tag, rate, size=100, count=0):
    return bench.spawn(f"appendload-{tag}", [
        "crsc-appendload", "--servers", cluster.servers, "--stream", f"{STREAM}-{tag}", "--out", bench.path(f"acked-{tag}"),
        "--producers", "4", "--window", "16", "--seconds", str(seconds), "--rate", str(rate), "--size", str(size), "--count", str(count),
        "--timeout", "120"])


def verify(bench, cluster, tag):
    out, _ = bench.run("crsc-appendload", "--verify", "--servers", cluster.servers, "--stream", f"{STREAM}-{tag}", "--out",
                       bench.path(f"acked-{tag}"), "--producers", "4", "--timeout", "60", timeout=150)
    found = json.loads(out.splitlines()[-1])
    check(found["servers"] == cluster.n and found["violations"] == 0, "%s", out)
    return found


def lines(bench, tag):
    try:
        with open(bench.path(f"acked-{tag}"), "rb") as f:
            return f.read().count(b"\n")
    except FileNotFoundError:
        return 0


def strike(cluster, rng, how):
    """Kills one or more; gives the ids that are down."""
    if how == "leader":
        victims = [cluster.leader() or rng.choice(list(cluster.running))]
    elif how == "follower":
        leader = cluster.leader()
        victims = [rng.choice([i for i in cluster.running if i != leader])]
    elif how == "two":
        victims = rng.sample(list(cluster.running), 2)
    else:
        victims = rng.sample(list(cluster.running), 3)
    for i in victims:
        cluster.kill(i)
    return victims


def test_kill_loop(bench, rng):
    kills, seconds = (8, 25) if bench.build.sanitized else (36, 30)
    cluster = Cluster(bench).start()
    cluster.wait_leader()
    size = rng.choice([30, 300, 3000])
    loader = load(bench, cluster, seconds, "loop", 1500 if bench.build.sanitized else 5000, size)
    begun, done, rounds = time.monotonic(), 0, 0
    plan = ["leader", "follower", "leader", "follower", "leader", "two", "leader", "follower", "all"]
    while done < kills or time.monotonic() - begun < seconds - 3:
        victims = strike(cluster, rng, plan[rounds % len(plan)])
        done += len(victims)
        rounds += 1
        time.sleep(rng.uniform(0, 0.3))
        for i in victims:
            cluster.start(i, wait=False)
        # sometimes strike again while the restarted one is still recovering
        if rng.random() < 0.75:
            for i in victims:
                cluster.running[i].wait_for("ready", 60)
            cluster.wait_leader()
            time.sleep(rng.uniform(0.05, 0.5))
    code = loader.wait(150)
    check(code == 0, "a producer broke, or an append was given up: exit %d\n%s", code, loader.tail())
    check(lines(bench, "loop") > 100, "only %d appends were acknowledged: this shows nothing", lines(bench, "loop"))
    for i, process in cluster.running.items():
        process.wait_for("ready", 60)
        check(process.alive(), "logd %d is dead", i)
    found = verify(bench, cluster, "loop")
    print(f"  {done} kills in {rounds} rounds, {lines(bench, 'loop')} acknowledged, {found}", flush=True)


def test_frozen_leader(bench, rng):
    """A leader that stands still (SIGSTOP) and wakes up later must not acknowledge what the others do not have."""
    cluster = Cluster(bench).start()
    cluster.wait_leader()
    seconds = 12
    loader = load(bench, cluster, seconds, "frozen", 1000)
    for _ in range(2):
        time.sleep(rng.uniform(0.5, 1.0))
        leader = cluster.wait_leader()
        cluster.running[leader].pause()
        time.sleep(rng.uniform(1.5, 2.5))
        cluster.running[leader].resume()
    check(loader.wait(150) == 0, "a producer broke:\n%s", loader.tail())
    check(lines(bench, "frozen") > 100, "only %d appends were acknowledged", lines(bench, "frozen"))
    verify(bench, cluster, "frozen")


def test_power_cut_of_all(bench, rng):
    """All three at once, many times, as a power cut would: only what is on disk counts."""
    rounds = 2 if bench.build.sanitized else 6
    cluster = Cluster(bench).start()
    cluster.wait_leader()
    for k in range(rounds):
        loader = load(bench, cluster, 60, f"cut{k}", 0)
        wait_until("500 acknowledged appends", lambda tag=f"cut{k}": lines(bench, tag) >= 500, 60)
        time.sleep(rng.uniform(0, 0.3))
        loader.kill()
        for i in list(cluster.running):
            cluster.kill(i)
        cluster.start()
        cluster.wait_leader()
        verify(bench, cluster, f"cut{k}")


if __name__ == "__main__":
    main([test_kill_loop, test_frozen_leader, test_power_cut_of_all])
