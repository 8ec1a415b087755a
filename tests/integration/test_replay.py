#!/usr/bin/env python3
"""The replay after an app's death, and what may happen in its middle: the log's leader dies, the app dies again, the interceptor dies, clients
bring new requests, the log is larger than the interceptor may be. The counter answers `/slow` after a time, so that there is a middle."""
import json
import threading
import time

from harness import Cluster, Http, check, main, wait_until
from test_interceptor import Front, Writers, compare, prepare


def listing(front):
    return front.direct("GET", "/list")[2].decode().split()


def fill(front, n, ms=0, clients=8, body=None):
    """So many requests that are answered."""
    def write(k):
        connection = Http(front.port)
        for i in range(k, n, clients):
            status, _, data = connection.request("POST", f"/slow?ms={ms}&id=f{i}", body)
            if status != 200:
                failed.append((status, data))
        connection.close()
    failed = []
    threads = [threading.Thread(target=write, args=(k,)) for k in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(not failed, "%s", failed[:3])


def middle(front, share=0.2):
    """Kills the app, starts another one, and waits until that share of the replay to it is done. Where this test was kept waiting until all of it was, once more."""
    def look():
        status = front.status()
        replay = status["replay"]
        if status["state"] == "active":
            return status
        return status if status["state"] == "replaying" and replay["done"] > share * max(replay["total"], 1) > 0 else None
    for _ in range(20):
        front.app.kill()
        front.start_app()
        status = wait_until("the middle of the replay", look, 60, 0.002)
        if status["state"] != "active":
            return status
    check(False, "the replay is always over before its middle is seen: %s", status)
    return None


def test_progress_and_new_requests(bench, rng):
    """`replay` in /status tells how far it is; requests that come meanwhile, and those that the dead app had, wait in their order behind it, on
    their connections, and are answered; each replayed one says Crsc-Replay."""
    _, front = prepare(bench, n=1)
    n = 300
    fill(front, n, 10)
    before = listing(front)
    half, answers = threading.Thread(target=lambda: answers.append(ask("/slow?ms=2000&id=half"))), []

    def ask(path):
        connection = Http(front.port, timeout=60)
        status, _, data = connection.request("POST", path)
        connection.close()
        return status, json.loads(data)["n"], json.loads(data)["id"]
    half.start()
    wait_until("the app has it", lambda: listing(front)[-1] == "half")
    seen = [middle(front, 0.1)["replay"]]
    new = []
    for k in range(5):
        new.append(threading.Thread(target=lambda k=k: answers.append(ask(f"/add?id=new{k}"))))
        new[-1].start()
        logged = n + 2 + k
        wait_until("it is logged", lambda: front.status()["requests"]["logged"] >= logged)
    while True:
        early = list(answers)  # before the status is asked for: what is answered later may be
        status = front.status()
        if status["state"] == "active":
            break
        if status["state"] == "replaying":
            seen.append(status["replay"])
        check(not early or status["replay"]["done"] >= n, "answered before the replay had come there: %s, %s", early, status["replay"])
        time.sleep(0.01)
    for thread in [half, *new]:
        thread.join(60)
    check(listing(front) == before + ["half"] + [f"new{k}" for k in range(5)], "%s", listing(front)[-10:])
    check(sorted(answers) == [(200, n + 1, "half")] + [(200, n + 2 + k, f"new{k}") for k in range(5)], "%s", answers)
    check(all(a["done"] <= b["done"] for a, b in zip(seen, seen[1:])) and all(r["total"] == n + 1 for r in seen[1:]), "%s", seen[:5])
    check(all(r["per_s"] > 0 and r["eta_ms"] > 0 for r in seen if r["done"] < n), "%s", seen[:5])
    final = front.status()["replay"]
    check(final["done"] == final["total"] == n + 1 and final["eta_ms"] == 0 and final["per_s"] > 0, "%s", final)
    replays = json.loads(front.direct("GET", "/replays")[2])["replays"]
    check(replays == n + 1, "%d requests said Crsc-Replay, %d were replayed", replays, n + 1)
    check(front.status()["requests"]["digests_compared"] == n, "%s", front.status()["requests"])


def test_leader_dies(bench, rng):
    """The replay goes on where it was, with what the next leader has."""
    cluster, front = prepare(bench)
    fill(front, 500, 2)
    writers = Writers(front.port)
    wait_until("some writes", lambda: writers.total() > 20)
    for _ in range(1 if bench.build.sanitized else 3):
        leader = cluster.wait_leader()
        done = middle(front)["replay"]["done"]
        cluster.kill(leader)
        check(front.status()["replay"]["done"] >= done, "it began again")
        before = writers.total()
        front.wait_active()
        wait_until("writes go on", lambda n=before: writers.total() > n + 5 or writers.errors, 60)
        replays = json.loads(front.direct("GET", "/replays")[2])["replays"]
        check(replays <= front.status()["requests"]["logged"], "some were replayed twice")
        cluster.start(leader)
    writers.stop()
    found = listing(front)
    check(len(set(found)) == len(found) and len([i for i in found if i[0] == "f"]) == 500, "%d of them", len(found))
    compare(front, writers, extra=[f"f{i}" for i in range(500)])


def test_app_and_interceptor_die(bench, rng):
    """In the middle of a replay: the app again, then the interceptor (what it replayed to proves nothing), then both."""
    _, front = prepare(bench, n=1)
    n = 400
    fill(front, n, 2)
    before = listing(front)
    for what in ("app", "interceptor", "both") if bench.build.sanitized else ("app", "interceptor", "both") * 2:
        middle(front, rng.uniform(0.05, 0.5))
        if what != "app":
            identity = f"counter-{front.started}-{front.app.pid}"
            front.process.kill()
            front.start_interceptor()
            found = wait_until("a verdict", lambda: (p := front.status()["proof"]) and p["verdict"] != "pending" and p, 30)
            check(found["verdict"] != "known" or found["identity"] != identity, "half a replay proves a state: %s", found)
        front.app.kill()
        if what == "both":
            front.process.kill()
            front.start_interceptor()
    front.start_app()
    front.wait_active()
    check(listing(front) == before, "the list is another one")
    replays = json.loads(front.direct("GET", "/replays")[2])["replays"]
    check(replays == n, "%d were replayed to the last app, of %d", replays, n)


def test_bounded_memory(bench, rng):
    """A log many times larger than what the reader may hold (8 MiB)."""
    cluster = Cluster(bench, n=1).start()
    cluster.wait_leader()
    front = Front(bench, cluster)
    front.start_app()
    front.wait_active()
    fill(front, 400, 0, body="x" * 250_000)
    front.app.kill()
    front.process.kill()
    front.start_interceptor()

    def memory():
        with open(f"/proc/{front.process.pid}/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) / 1024
    idle = memory()
    front.start_app()
    front.wait_active()
    most = memory()
    check(len(listing(front)) == 400, "%d", len(listing(front)))
    print(f"  100 MB replayed; the interceptor had {idle:.0f} MiB before, {most:.0f} at most", flush=True)
    check(bench.build.sanitized or most < idle + 60, "%.0f MiB, with %.0f before", most, idle)


if __name__ == "__main__":
    main([test_progress_and_new_requests, test_leader_dies, test_app_and_interceptor_die, test_bounded_memory])
