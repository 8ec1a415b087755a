#!/usr/bin/env python3
"""The whole with real containers and CRIU: the counter in runc, checkpointed while clients write, killed, restored, and replayed to
from the checkpoint's offset on. Then the same with the operator and the interceptor killed at random moments."""
import json
import os
import time

from harness import ROOT, Http, Skip, check, main, wait_until
from stack import App, Stack, containers_work, criu_works
from test_interceptor import Writers, compare

COUNTER = os.path.join(ROOT, "tests", "demo", "apps", "counter.json")


def prepare(bench, mode="criu", **options):
    why = containers_work()
    if not why and mode == "criu":
        _, why = criu_works()
    if why:
        raise Skip(why)
    stack = Stack(bench, App(COUNTER, bench.build), mode, **options)
    stack.cluster.start()
    stack.cluster.wait_leader()
    stack.make_bundle()
    stack.start_interceptor()
    stack.start_operator()
    stack.wait_active()
    return stack


def recovered(stack, start):
    event = stack.operator.wait_for("recovered", 60, start)
    stack.wait_active()
    return event


def restores(stack, n):
    found = json.loads(stack.cluster.logctl("restores", stack.stream))["restores"]
    return found if len(found) >= n else None


def fetch(stack, path, method="GET"):
    connection = Http(stack.port)
    try:
        return connection.request(method, path)[2].decode()
    finally:
        connection.close()


def test_checkpoint_and_restore(bench, rng):
    stack = prepare(bench, interval="700ms")
    writers = Writers(stack.port)
    for _ in range(3 if bench.build.sanitized else 5):
        start = len(stack.operator.events())

        def taken(start=start):  # with more in it than may be on the way when the app dies
            return next((e for e in stack.operator.events()[start:] if e.get("msg") == "checkpoint valid" and e["offset"] > 40), None)
        valid = wait_until("a checkpoint", taken, 60)
        time.sleep(rng.uniform(0, 0.5))
        start = len(stack.operator.events())
        total = writers.total()
        stack.kill_app()
        event = recovered(stack, start)
        check(event["offset"] >= valid["offset"] > 0, "restored offset %s after a checkpoint of %s", event, valid)
        check(event["replayed"] < total, "replayed %s of %d: not only the tail", event, total)
        wait_until("clients go on", lambda n=writers.total(): writers.total() > n + 10 or writers.errors, 30)
    writers.stop()
    compare(stack, writers)
    replays = json.loads(fetch(stack, "/replays"))["replays"]
    check(replays < writers.total(), "the app was given all %d writes again (%d)", writers.total(), replays)
    noted = wait_until("the recoveries are noted", lambda: restores(stack, 3 if bench.build.sanitized else 5), 30)
    causes = ("its process ended", "it dropped a request: nobody knows whether it executed it")  # whichever is seen first
    check(all(r["workload"] == "counter" and r["snapshot"] and r["cause"] in causes and r["outage_ms"] > 0 for r in noted), "%s", noted)
    check(noted[-1]["offset"] == event["offset"] and noted[-1]["replayed"] == event["replayed"], "%s is not %s", noted[-1], event)
    snapshots = stack.snapshots()
    check(any(s["state"] == "valid" for s in snapshots), "no valid snapshot in the log: %s", snapshots)
    check(not any(s["state"] == "taking" and s != snapshots[-1] for s in snapshots), "left in state taking: %s", snapshots)


def test_operator_killed(bench, rng):
    """kill -9 of the operator at random moments (also in the middle of a checkpoint or a restore): the next one goes on from what is in
    the log and what it can see."""
    stack = prepare(bench, interval="300ms", stop_containers=False)
    writers = Writers(stack.port)
    stack.operator.wait_for("checkpoint valid", 60)
    for k in range(6 if bench.build.sanitized else 15):
        time.sleep(rng.uniform(0, 0.5))
        if rng.random() < 0.6:
            stack.kill_app()
            time.sleep(rng.uniform(0, 0.25))
        stack.operator.kill()
        if rng.random() < 0.5:
            stack.kill_app_if_there()  # with nobody there to see it
        stack.start_operator()
        before = writers.total()
        wait_until("clients go on", lambda n=before: writers.total() > n + 5 or writers.errors, 60)
        check(not writers.errors, "round %d: %s", k, writers.errors[:3])
    stack.wait_active()
    writers.stop()
    compare(stack, writers)
    start = len(stack.operator.events())
    fetch(stack, "/add?id=more", "POST")
    stack.operator.wait_for("checkpoint valid", 60, start)  # it still takes them


def test_random_kills(bench, rng):
    """Any of app, operator and one crsc-logd at a time or all together, within milliseconds: no client sees an error."""
    stack = prepare(bench, interval="400ms", stop_containers=False)
    writers = Writers(stack.port)
    for k in range(int(os.environ.get("CRSC_ROUNDS", "5" if bench.build.sanitized else "12"))):
        time.sleep(rng.uniform(0, 0.7))
        victims = [v for v in ("app", "operator", "logd") if rng.random() < 0.6] or ["app"]
        rng.shuffle(victims)
        server = rng.choice([stack.cluster.wait_leader(), *stack.cluster.running])
        for victim in victims:
            if victim == "app":
                stack.kill_app_if_there()
            elif victim == "operator":
                stack.operator.kill()
            elif victim == "logd":
                stack.cluster.kill(server)
            time.sleep(rng.choice([0, rng.uniform(0, 0.02), rng.uniform(0, 0.2)]))
        for victim in victims:
            if victim == "operator":
                stack.start_operator()
            elif victim == "logd":
                stack.cluster.start(server)
        before = writers.total()
        wait_until("clients go on", lambda n=before: writers.total() > n + 5 or writers.errors, 60)
        check(not writers.errors, "round %d, killed %s: %s", k, victims, writers.errors[:3])
    writers.stop()
    compare(stack, writers)


def test_interceptor_killed(bench, rng):
    """kill -9 of the interceptor: what the app had been given is uncertain then, so the operator must put it back into a known state."""
    stack = prepare(bench, interval="500ms")
    told = {}
    for k in range(3 if bench.build.sanitized else 6):
        connection = Http(stack.port)
        deadline, number = time.monotonic() + rng.uniform(0.1, 0.8), 0
        while time.monotonic() < deadline:
            number += 1
            name = f"i{k}-{number}"
            status, _, body = connection.request("POST", f"/add?id={name}")
            check(status == 200, "%d %s", status, body)
            told[name] = json.loads(body)["n"]
        connection.close()
        stack.interceptor.kill()
        stack.start_interceptor()
        stack.wait_active()
        found = fetch(stack, "/list").split()
        check(len(found) == len(set(found)), "doubled after round %d", k)
        wrong = [name for name, n in told.items() if n > len(found) or found[n - 1] != name]
        check(not wrong, "round %d: %d of %d acknowledged writes are lost or misplaced: %s", k, len(wrong), len(told), wrong[:5])


def test_all_killed(bench, rng):
    """Everything at once, as when the machine is switched off; data directories and images are what is left."""
    stack = prepare(bench, interval="400ms")
    writers = Writers(stack.port)
    stack.operator.wait_for("checkpoint valid", 60)
    time.sleep(rng.uniform(0.3, 1.0))
    stack.operator.kill()
    stack.interceptor.kill()
    stack.kill_app()
    for i in list(stack.cluster.running):
        stack.cluster.kill(i)
    writers.stop()
    writers.errors.clear()  # their connections broke, as they must
    stack.cluster.start()
    stack.cluster.wait_leader()
    stack.start_interceptor()
    stack.start_operator()
    stack.wait_active(120)
    in_flight = {f"c{k}-{len(acked) + 1 + j}" for k, acked in enumerate(writers.acked) for j in range(30)}
    compare(stack, writers, extra=in_flight)


def test_replay_mode(bench, rng):
    """Without CRIU: a fresh container and a replay from offset 1."""
    stack = prepare(bench, mode="replay")
    writers = Writers(stack.port, n=2)
    for _ in range(2):
        wait_until("writes", lambda n=writers.total(): writers.total() > n + 50 or writers.errors, 60)
        start = len(stack.operator.events())
        stack.kill_app()
        event = recovered(stack, start)
        check(event["offset"] == 0 and event["replayed"] > 0, "%s", event)
    writers.stop()
    compare(stack, writers)


if __name__ == "__main__":
    main([test_checkpoint_and_restore, test_operator_killed, test_random_kills, test_interceptor_killed, test_all_killed, test_replay_mode])
