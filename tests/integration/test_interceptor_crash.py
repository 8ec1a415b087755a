#!/usr/bin/env python3
"""kill -9 of crsc-interceptor alone, the app lives on. The next interceptor either proves from the log what state that app has, and then it
is attached as it is, or it does not, and then a fresh one (or one from the saved list) takes its place. This test plays the operator, at
random moments, under load and between two requests, and at the end counts the app's list: each id once, each answer the position of its id,
nothing that was never sent; and a replay of the whole log into a fresh app gives the same list."""
import http.client
import json
import os
import threading
import time

from harness import check, main, wait_until
from test_interceptor import prepare


class Writer(threading.Thread):
    """Writes on, over a new connection when the old one is lost; what a lost one did not answer may have been executed or not."""

    def __init__(self, front, k, rng, pause):
        super().__init__(daemon=True)
        self.front, self.k, self.rng, self.pause = front, k, rng, pause
        self.told, self.open, self.errors = {}, set(), []
        self.ended = False
        self.start()

    def run(self):
        number, connection = 0, None
        while not self.ended:
            number += 1
            name = f"w{self.k}-{number}"
            self.open.add(name)
            try:
                connection = connection or http.client.HTTPConnection("127.0.0.1", self.front.port, timeout=60)
                connection.request("POST", f"/add?id={name}")
                answer = connection.getresponse()
                said = json.loads(answer.read())
                if answer.status != 200 or said["id"] != name:
                    self.errors.append(f"{name}: {answer.status} {said}")
                    return
                self.told[name] = said["n"]
                self.open.discard(name)
            except (OSError, http.client.HTTPException, ValueError):
                connection.close()
                connection = None
                time.sleep(0.002)
            if self.pause:
                time.sleep(self.rng.uniform(0, self.pause))


def proof(front):
    """The verdict of a new interceptor, once it has one."""
    return wait_until("a verdict", lambda: (p := front.status()["proof"]) and p["verdict"] != "pending" and p, 30, 0.002)


def restart(front, rng):
    """As an operator does it. True: the app lives on."""
    identity = f"counter-{front.started}-{front.app.pid}"
    front.process.kill()
    front.start_interceptor()
    found = proof(front)
    body = {"identity": identity, "offset": found["offset"], "upstream": f"127.0.0.1:{front.app_port}", "proven": True}
    if found["verdict"] == "known":
        check(found["identity"] == identity, "%s is proven, %s was served", found, identity)
        status, data = front.admin("POST", "/attach", {**body, "offset": found["offset"] + 1})
        check(status == 409, "attached with an offset that was not proven: %d %s", status, data)
        status, data = front.admin("POST", "/attach", body)
        check(status == 200, "POST /attach: %d %s", status, data)
    else:
        for extra in ({}, {"proven": False}):
            status, data = front.admin("POST", "/attach", {**body, **extra})
            named = found["identity"] == identity
            check(status == 409 or not (named or extra == {}), "an app of an uncertain state was attached: %d %s, %s", status, data, found)
        front.app.kill()
        front.start_app()
    front.wait_active()
    if rng.random() < 0.2:
        front.checkpoint(rng)
    return found["verdict"] == "known"


def listing(front):
    return front.direct("GET", "/list")[2].decode().split()


def audit(front, writers, exact):
    """`exact`: positions count too; under `concurrent` a replay may give them otherwise where nobody could see it."""
    found = listing(front)
    place = {name: n for n, name in enumerate(found, 1)}
    check(len(place) == len(found), "doubled: %s", [n for n in place if found.count(n) > 1][:5] if len(found) < 20000 else "yes")
    for w in writers:
        check(not w.errors, "%s", w.errors)
        wrong = [(name, n, place.get(name)) for name, n in w.told.items() if (place.get(name) != n if exact else name not in place)]
        check(not wrong, "answered with one position, in the list at another (None: lost): %s", wrong[:5])
    sent = {name for w in writers for name in (*w.told, *w.open)}
    check(set(found) <= sent, "in the list and never sent: %s", sorted(set(found) - sent)[:5])
    front.app.kill()
    front.saved = (0, None)
    front.start_app()
    front.wait_active()
    again = listing(front)
    check(again == found if exact else sorted(again) == sorted(found), "a replay of the whole log gives another list")
    return len(found)


def test_killed_at_random(bench, rng):
    kill_at_random(bench, rng, int(os.environ.get("CRSC_ROUNDS", "8" if bench.build.sanitized else "50")), "serial")


def test_killed_at_random_concurrent(bench, rng):
    kill_at_random(bench, rng, int(os.environ.get("CRSC_ROUNDS", "3" if bench.build.sanitized else "10")), "concurrent")


def kill_at_random(bench, rng, rounds, ordering):
    _, front = prepare(bench, flags=("--ordering", ordering))
    known, writers = {}, []
    for what, n, pause in (("busy", 4, 0), ("light", 2, 0.05), ("quiet", 0, 0)):
        mine = [Writer(front, f"{what}{k}", rng, pause) for k in range(n)]
        known[what] = 0
        for _ in range(rounds if n else 3):
            time.sleep(rng.uniform(0, 0.03))
            known[what] += restart(front, rng)
        for w in mine:
            w.ended = True
        for w in mine:
            w.join(90)
        writers += mine
    told = audit(front, writers, ordering == "serial")
    print(f"  {2 * rounds + 3} kills, {told} writes; the app's state was proven: {known['busy']} of {rounds} busy, {known['light']} of {rounds} "
          f"with a pause between writes, {known['quiet']} of 3 quiet", flush=True)
    check(told > rounds, "only %d writes: this shows nothing", told)
    check(known["quiet"] == 3, "nothing was on its way, and the app was given up: %s", known)
    check(known["light"] + known["busy"] < 2 * rounds, "it was always proven, also with a request on its way: %s", known)


def test_request_half_way(bench, rng):
    """The app has a request and has not answered it: its state is not known, whether it had executed it (it did) or not."""
    _, front = prepare(bench, n=1)
    writer = threading.Thread(target=lambda: lost(front.port, "/slow?ms=10000&id=half"), daemon=True)
    writer.start()
    wait_until("the app has it", lambda: front.direct("GET", "/list")[2] == b"half\n")
    check(not restart(front, rng), "proven, with a request half-way")
    check(listing(front) == ["half"], "%s", listing(front))
    writer.join(30)


def lost(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path)
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        pass
    connection.close()


def test_optimistic_proves_nothing(bench, rng):
    """There the app may have what is not in the log."""
    _, front = prepare(bench, n=1, flags=("--logging", "optimistic"))
    lost(front.port, "/add?id=a")
    check(not restart(front, rng) and listing(front) == ["a"], "%s", listing(front))
    front.flags = ()
    check(not restart(front, rng) and listing(front) == ["a"], "%s", listing(front))
    check(restart(front, rng), "pessimistic, and nothing on its way")
    front.flags = ("--logging", "optimistic")
    check(not restart(front, rng), "an optimistic interceptor proved the state of an app")


if __name__ == "__main__":
    main([test_killed_at_random, test_killed_at_random_concurrent, test_request_half_way, test_optimistic_proves_nothing])
