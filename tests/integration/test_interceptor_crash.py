#!/usr/bin/env python3
"""kill -9 of crsc-interceptor alone, the app lives on. The next interceptor either proves from the log what state that app has, and then it
is attached as it is, or it does not, and then a fresh one (or one from the saved list) takes its place. This test plays the operator, at
random moments, under load and between two requests, and at the end counts the app's list: each id once, each answer the position of its id,
nothing that was never sent; and a replay of the whole log into a fresh app gives the same list. The same for SIGTERM, where the one that ends can say more:
the next one goes on where it stopped, in the middle of a replay too."""
import http.client
import json
import os
import threading
import time

from harness import Http, check, main, wait_until
from test_interceptor import STREAM, prepare
from test_replay import fill


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


def end(front, how):
    """SIGKILL or SIGTERM. The identity of the app that lives on."""
    if how == "kill":
        front.process.kill()
    else:
        status = front.process.stop(60)
        check(status == 0, "SIGTERM: it ended with %s", status)
    return f"counter-{front.started}-{front.app.pid}"


def restart(front, rng, how="kill"):
    """As an operator does it. True: the app lives on."""
    identity = end(front, how)
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
        named = found["identity"] == identity  # else nothing is known of it, and whoever says what it is without a proof is believed
        for extra in ({}, {"proven": False}) if named else ({},):
            status, data = front.admin("POST", "/attach", {**body, **extra})
            check(status == 409, "an app of an uncertain state was attached: %d %s, %s", status, data, found)
        front.app.kill()
        front.start_app()
    front.wait_active()
    if rng.random() < 0.2:
        front.checkpoint(rng)
    return found["verdict"] == "known"


def listing(front):
    return front.direct("GET", "/list")[2].decode().split()


def at_rest(front, name):
    """One more write, when nobody else writes, and its completion is in the log, as are those of all before it: they come behind the answers, with nobody waiting for
    them. Until then nothing can be proven."""
    connection = Http(front.port)
    status, fields, _ = connection.request("POST", f"/add?id={name}")
    connection.close()
    check(status == 200, "POST /add: %d", status)
    wait_until("the completions are in the log", lambda: front.status()["offsets"]["last"] > int(fields["crsc-offset"]))


def marked(front):
    """The newest mark in the log is of the app that lives."""
    wait_until("the mark is in the log", lambda: f"counter-{front.started}-{front.app.pid}" in front.cluster.logctl("events", STREAM, "--from", "1"), pause=0.05)


def audit(front, writers, exact, others=frozenset()):
    """`exact`: positions count too; under `concurrent` a replay may give them otherwise where nobody could see it. `others`: sent, and not by the writers."""
    found = listing(front)
    place = {name: n for n, name in enumerate(found, 1)}
    check(len(place) == len(found), "doubled: %s", [n for n in place if found.count(n) > 1][:5] if len(found) < 20000 else "yes")
    for w in writers:
        check(not w.errors, "%s", w.errors)
        wrong = [(name, n, place.get(name)) for name, n in w.told.items() if (place.get(name) != n if exact else name not in place)]
        check(not wrong, "answered with one position, in the list at another (None: lost): %s", wrong[:5])
    sent = {name for w in writers for name in (*w.told, *w.open)} | others
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
    _, front = prepare(bench, flags=("--ordering", ordering, "--offset-header"))
    known, done, writers = {}, {}, []
    for what, n, pause in (("busy", 4, 0), ("light", 2, 0.05), ("quiet", 0, 0)):
        mine = [Writer(front, f"{what}{k}", rng, pause) for k in range(n)]
        known[what] = 0
        done[what] = 0
        # a slow machine may have nothing on its way at each of a few moments
        while done[what] < (rounds if n else 3) or (what == "busy" and known[what] == done[what] < 200):
            time.sleep(rng.uniform(0, 0.03))
            known[what] += restart(front, rng)
            done[what] += 1
        for w in mine:
            w.ended = True
        for w in mine:
            w.join(90)
            check(not w.is_alive(), "a client still waits for an answer")
        writers += mine
        if what == "light":
            at_rest(front, "last")
    told = audit(front, writers, ordering == "serial", {"last"})
    print(f"  {sum(done.values())} kills, {told} writes; the app's state was proven: {known['busy']} of {done['busy']} busy, {known['light']} of {done['light']} "
          f"with a pause between writes, {known['quiet']} of 3 quiet", flush=True)
    check(told > rounds, "only %d writes: this shows nothing", told)
    check(known["quiet"] == 3, "nothing was on its way, and the app was given up: %s", known)
    check(known["light"] + known["busy"] < done["light"] + done["busy"], "it was always proven, also with a request on its way: %s", known)


def test_stopped_under_load(bench, rng):
    """SIGTERM, with requests on their way: the app finishes the one that it has, and what is left is executed under the next interceptor."""
    _, front = prepare(bench, flags=("--stop-timeout", "0s"))
    writers, known, rounds = [Writer(front, f"stop{k}", rng, 0) for k in range(4)], 0, 4 if bench.build.sanitized else 12
    stops = 0
    while stops < rounds or (known == 0 and stops < 100):
        time.sleep(rng.uniform(0, 0.05))
        known += restart(front, rng, "stop")
        stops += 1
    for w in writers:
        w.ended = True
    for w in writers:
        w.join(90)
    told = audit(front, writers, True)
    print(f"  {stops} stops under load, {told} writes; the app's state was proven {known} times", flush=True)
    check(known > 0, "never proven")


def test_stopped_in_a_replay(bench, rng):
    """SIGTERM in the middle of a replay: the next one goes on with the same app where it stopped. kill -9 there: nothing is proven of it, also when an
    earlier end was an orderly one."""
    _, front = prepare(bench, n=1, flags=("--stop-timeout", "0s"))
    n, went_on, killed = 300, 0, 0
    fill(front, n, 10)  # a replay takes 3 s at least: it is seen under way, also by a test that is kept waiting
    before, wanted = listing(front), rng.sample(range(5, n - 100, 5), 6)
    front.app.kill()
    front.start_app()
    for k, place in enumerate(sorted(wanted)):
        def there():
            status = front.status()
            return status if status["state"] == "active" or len(listing(front)) >= place else None
        if wait_until("the replay gets on", there, 60, 0.002)["state"] == "active":
            break
        identity = end(front, "kill" if k == 3 else "stop")
        front.start_interceptor()
        found = proof(front)
        if k == 3:
            killed += 1
            check(found["verdict"] != "known" or listing(front) == before, "half a replay, cut by kill -9, proves a state: %s", found)
        elif k == 1 and found["verdict"] == "known":  # what was proven to one that never attached anything holds for the next
            end(front, "stop")
            front.start_interceptor()
            again = proof(front)
            check([again[w] for w in ("verdict", "identity", "offset")] == [found[w] for w in ("verdict", "identity", "offset")], "%s, then %s", found, again)
        if found["verdict"] == "known":
            done = listing(front)
            check(found["identity"] == identity and done == before[:len(done)], "%s, %s was served", found, identity)
            status, data = front.admin("POST", "/attach", {"identity": identity, "offset": found["offset"], "upstream": f"127.0.0.1:{front.app_port}", "proven": True})
            check(status == 200, "POST /attach: %d %s", status, data)
            went_on += 1
        else:
            front.app.kill()
            front.start_app()
    front.wait_active()
    check(listing(front) == before, "the list is another one: %s", [i for i in zip(listing(front), before) if i[0] != i[1]][:3])
    replays = json.loads(front.direct("GET", "/replays")[2])["replays"]
    check(replays == n, "%d were replayed to the last app, of %d", replays, n)
    print(f"  the replay went on {went_on} times after SIGTERM, and began again after {killed} kill -9", flush=True)
    check(went_on > 0, "it never went on")


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
    check(not restart(front, rng, "stop") and listing(front) == ["a"], "%s", listing(front))
    front.flags = ()
    check(not restart(front, rng) and listing(front) == ["a"], "%s", listing(front))
    marked(front)
    check(restart(front, rng), "pessimistic, and nothing on its way")
    front.flags = ("--logging", "optimistic")
    check(not restart(front, rng), "an optimistic interceptor proved the state of an app")


if __name__ == "__main__":
    main([test_killed_at_random, test_killed_at_random_concurrent, test_stopped_under_load, test_stopped_in_a_replay, test_request_half_way, test_optimistic_proves_nothing])
