#!/usr/bin/env python3
"""The drain for a checkpoint: what is in flight is finished within a bound, or else the checkpoint is given up and not the request; while it is
done nothing reaches the app, which has no connection of the interceptor's any more; what clients see of it beside the dump is told."""
import json
import threading
import time

from harness import Http, check, main, wait_until
from test_interceptor import Writers, compare, prepare


def connections(port):
    """Established TCP connections to that port of this machine."""
    with open("/proc/net/tcp") as f:
        rows = [line.split() for line in list(f)[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


def checkpoint(front, token, drain_ms=60000, lease_ms=60000):
    """The bounds are far beyond what a machine that does much else takes."""
    status, data = front.admin("POST", "/checkpoint", {"token": token, "lease_ms": lease_ms, "drain_ms": drain_ms})
    return status, json.loads(data)


def resume(front, token):
    status, data = front.admin("POST", "/resume", {"token": token})
    check(status == 200, "POST /resume: %d %s", status, data)
    return json.loads(data)


def test_bounded(bench, rng):
    """A request that takes longer than the drain may: the drain ends, the request does not."""
    _, front = prepare(bench, n=1)
    answers = []

    def ask():
        connection = Http(front.port)
        answers.append(connection.request("POST", "/slow?ms=8000&id=slow")[:1] + (time.monotonic(),))
        connection.close()
    thread = threading.Thread(target=ask)
    thread.start()
    wait_until("the app has it", lambda: front.direct("GET", "/list")[2] == b"slow\n")
    status, said = checkpoint(front, "short", drain_ms=100)
    check(status == 504 and "in flight" in said["error"], "%d %s", status, said)
    check(not answers, "the request ended before the drain's bound: this shows nothing")
    front.wait_active()
    check(not resume(front, "short")["unbroken"], "%s", front.status())
    status, said = checkpoint(front, "long")
    check(status == 200 and said["offset"] == front.status()["offsets"]["executed"], "%d %s", status, said)
    thread.join(60)
    check(answers and answers[0][0] == 200, "%s", answers)
    check(resume(front, "long")["unbroken"], "nothing reached the app meanwhile")


def test_nothing_is_connected(bench, rng):
    """The dump must hold no established TCP of ours; clients, and what they asked, stay."""
    _, front = prepare(bench, n=1, flags=("--ordering", "concurrent"))
    writers = Writers(front.port, n=8, key=lambda k: f"own{k}")
    pauses = []
    for k in range(5 if bench.build.sanitized else 20):
        at = writers.total()
        wait_until("writes", lambda n=at: writers.total() > n + 20 or writers.errors)
        begun = time.monotonic()
        status, said = checkpoint(front, f"t{k}")
        check(status == 200, "%d %s", status, said)
        check(connections(front.app_port) == 0, "drained, and still connected to the app")
        executed = front.direct("GET", "/count")[2]
        dump = time.monotonic()
        time.sleep(0.05)
        check(connections(front.app_port) == 0 and front.direct("GET", "/count")[2] == executed, "something reached the app in a drain")
        total = writers.total()
        resumed = time.monotonic()
        check(resume(front, f"t{k}")["unbroken"], "broken")
        wait_until("an answer", lambda n=total: writers.total() > n or writers.errors, 30, 0.0005)
        pauses.append(1000 * (dump - begun + time.monotonic() - resumed))
    writers.stop()
    front.wait_active()
    check(not writers.errors, "%s", writers.errors[:3])
    pauses.sort()
    print(f"  clients waited, beside the time of the dump itself: {pauses[len(pauses) // 2]:.1f} ms, at most {pauses[-1]:.1f} ms", flush=True)


def test_serial_under_load(bench, rng):
    """Drains of all lengths, some broken by their lease: exactly once all the same, and the offset is that of the state."""
    _, front = prepare(bench, n=1)
    writers = Writers(front.port)
    for k in range(5 if bench.build.sanitized else 20):
        time.sleep(rng.uniform(0, 0.02))
        status, said = checkpoint(front, f"t{k}", drain_ms=rng.choice([1, 5, 1000]), lease_ms=rng.choice([1, 1000]))
        count = json.loads(front.direct("GET", "/count")[2])["count"]
        after = resume(front, f"t{k}")
        check(after["unbroken"] <= (status == 200), "%d %s, %s", status, said, after)
        if after["unbroken"]:
            logged = front.status()["requests"]["logged"]
            check(count <= logged, "%d executed, %d logged", count, logged)
    writers.stop()
    front.wait_active()
    compare(front, writers)


if __name__ == "__main__":
    main([test_bounded, test_nothing_is_connected, test_serial_under_load])
