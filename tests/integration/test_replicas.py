#!/usr/bin/env python3
"""Several replicas of the counter, each behind an interceptor of its own, on one stream (`--replication log`), with three crsc-logd.
This test plays the operator, as test_interceptor.py does. Clients write and read through any replica and go to another one when theirs
fails. At the end all lists are equal, each acknowledged write is in them once and where its client was told, a write with an unknown
outcome at most once, and no read, at any replica, had less than what anybody had been told before it began."""
import contextlib
import http.client
import json
import random
import threading
import time

from harness import Cluster, Failure, Http, check, free_ports, main, wait_until
from test_interceptor import STREAM, Front


class Replica(Front):
    """One of several: interceptor, app, and the part of the operator. Its checkpoints are everybody's."""

    def __init__(self, bench, cluster, name, shelf, flags=(), stream=STREAM, app_flags=()):
        self.name, self.shelf = name, shelf
        super().__init__(bench, cluster, flags, stream, app_flags)

    @property
    def where(self):
        return "127.0.0.1", self.port

    @property
    def saved(self):
        return self.shelf[-1]

    @saved.setter
    def saved(self, value):
        if value[1] is not None:
            self.shelf.append(value)

    def start_interceptor(self):
        self.process = self.bench.spawn(f"interceptor-{self.name}", [
            "crsc-interceptor", "--listen", f"127.0.0.1:{self.port}", "--admin-listen", f"127.0.0.1:{self.admin_port}",
            "--servers", self.cluster.servers, "--stream", self.stream, "--replication", "log", "--producer", self.name, *self.flags])
        wait_until("the admin interface", lambda: self.status(strict=False), 30)

    def start_app(self, attach=True, checkpoint=None):
        offset, path = checkpoint or self.shelf[-1]
        self.started += 1
        argv = ["counter", "--listen", f"127.0.0.1:{self.app_port}", *self.app_flags] + (["--restore", path] if path else [])
        self.app = self.bench.spawn(f"counter-{self.name}", argv)

        def answers():
            try:
                return self.direct("GET", "/count")
            except OSError:
                check(self.app.alive(), "the counter did not start:\n%s", self.app.tail())
                return None
        wait_until("the counter answers", answers, 20, 0.002)
        if attach:
            self.attach(offset)

    def checkpoint(self, rng, die=False):
        """As the operator would: the file stays, since anybody may be restored from it."""
        token = f"t{rng.randrange(1 << 60):x}"
        status, data = self.admin("POST", "/checkpoint", {"token": token, "lease_ms": 5000, "drain_ms": 3000})
        if status != 200:
            return False
        path = self.bench.path(f"saved-{token}")
        saved, _, answer = self.direct("POST", f"/save?file={path}")
        check(saved == 200, "POST /save: %d %s", saved, answer)
        status, end = self.admin("POST", "/resume", {"token": token})
        if status != 200 or not json.loads(end)["unbroken"]:
            return False
        with self.shelf_lock:
            if json.loads(data)["offset"] > self.shelf[-1][0]:
                self.shelf.append((json.loads(data)["offset"], path))
        return True

    shelf_lock = threading.Lock()

    def list(self):
        return self.direct("GET", "/list")[2].decode().split()


class Clients:
    """Each writes and reads in turn at a replica, and goes to another one when that fails."""

    def __init__(self, replicas, n=6, seed=1, local=False):
        self.replicas, self.local = replicas, local
        self.acked, self.unknown, self.wrong = {}, set(), []
        self.highest, self.lock = 0, threading.Lock()  # the highest position that anybody was shown
        self.reads = self.moves = 0
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(k, random.Random(f"{seed}/{k}")), daemon=True) for k in range(n)]
        for thread in self.threads:
            thread.start()

    def show(self, position):
        with self.lock:
            self.highest = max(self.highest, position)

    def ask(self, connection, method, path):
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status == 503:
            raise BlockingIOError(body.decode())
        if answer.status != 200:
            raise http.client.HTTPException(f"{answer.status} {body[:200]}")
        return json.loads(body)

    def run(self, k, rng):
        number, connection = 0, None
        while not self.ended.is_set():
            number += 1
            name = f"c{k}-{number}"
            if connection is None:
                connection = http.client.HTTPConnection(*rng.choice(self.replicas).where, timeout=60)
            read = rng.random() < 0.4
            with self.lock:
                floor = self.highest
            try:
                said = self.ask(connection, "GET", "/count") if read else self.ask(connection, "POST", f"/add?id={name}")
                if read:
                    self.reads += 1
                    if said["count"] < floor and not self.local:
                        self.wrong.append(f"a read gave {said['count']} when {floor} had been shown before")
                    self.show(said["count"])
                else:
                    if said["id"] != name or said["n"] <= floor:
                        self.wrong.append(f"{name} was answered with {said} when {floor} had been shown before")
                    with self.lock:
                        self.acked[name] = said["n"]
                    self.show(said["n"])
            except (OSError, http.client.HTTPException, ValueError) as e:
                if not read and not isinstance(e, (BlockingIOError, ConnectionRefusedError)):
                    self.unknown.add(name)
                self.moves += 1
                connection.close()
                connection = None
                time.sleep(0.01)
        if connection:
            connection.close()

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join(90)
            check(not thread.is_alive(), "a client still waits for an answer")


def audit(replicas, clients):
    def same():
        try:
            if any(r.status()["state"] != "active" for r in replicas):
                return None  # one of them replays
            ends = {(r.status()["offsets"]["executed"], tuple(r.list())) for r in replicas}
        except (OSError, http.client.HTTPException):
            return None  # one of them is dead, frozen for a dump or just restored: it is looked at again
        return ends if len(ends) == 1 else None
    try:
        found = wait_until("all replicas have the same list", same, 30, 0.05).pop()[1]
    except Failure as e:
        raise Failure(f"{e}: {[(r.name, r.status()['state'], r.status()['reason'], r.status()['offsets'], len(r.list())) for r in replicas]}") from None
    check(not clients.wrong, "not linearizable: %s", clients.wrong[:3])
    check(len(set(found)) == len(found), "doubled: %s", sorted({i for i in found if found.count(i) > 1})[:10] if len(found) < 20000 else "yes")
    for name, n in clients.acked.items():
        check(n <= len(found) and found[n - 1] == name, "%s was answered with position %d, where the list has %s", name, n, found[n - 1:n])
    stray = set(found) - set(clients.acked) - clients.unknown
    check(not stray, "in the list, and its client was told that it is not: %s", sorted(stray)[:10])
    return len(found)


def sound(replicas):
    """Nobody is taken for wrong. Who was kept waiting for longer than his lease serves again in a moment."""
    for r in replicas:
        r.wait_active()
        status = r.status()
        check(not status["app"]["diverged"] and not status["app"]["disagreement"], "%s: %s", r.name, status)


def prepare(bench, n=3, servers=3, flags=()):
    cluster = Cluster(bench, n=servers).start()
    cluster.wait_leader()
    shelf = [(0, None)]
    replicas = [Replica(bench, cluster, f"r{k}", shelf, flags) for k in range(n)]
    for r in replicas:
        r.start_app()
    for r in replicas:
        r.wait_active()
    return cluster, replicas


def restart(replica, what):
    """Kills and brings back: its app, its interceptor (whose app's state nobody knows then), or both."""
    if what != "app":
        replica.process.kill()
    replica.app.kill()
    if what != "app":
        replica.start_interceptor()
    replica.start_app()


def test_kills(bench, rng):
    """Apps, interceptors, log servers killed at random moments, checkpoints taken from any replica and restored on any other."""
    cluster, replicas = prepare(bench)
    clients = Clients(replicas, seed=rng.randrange(1 << 30))
    rounds = 10 if bench.build.sanitized else 40
    counts = {"app": 0, "interceptor": 0, "logd": 0, "checkpoint": 0}
    for _ in range(rounds):
        time.sleep(rng.uniform(0.02, 0.2))
        what = rng.choice(["app", "app", "interceptor", "logd", "checkpoint", "checkpoint"])
        replica = rng.choice(replicas)
        if what == "checkpoint":
            counts[what] += replica.state() == "active" and replica.checkpoint(rng)
        elif what == "logd":
            victim = rng.choice(list(cluster.running))
            cluster.kill(victim)
            time.sleep(rng.uniform(0, 0.3))
            cluster.start(victim)
            counts[what] += 1
        else:
            restart(replica, what)
            counts[what] += 1
            if rng.random() < 0.7:
                replica.wait_active()
        check(not clients.wrong, "not linearizable: %s", clients.wrong[:3])
    for r in replicas:
        r.wait_active()
    wait_until("a checkpoint", lambda: counts["checkpoint"] or replicas[0].checkpoint(rng), pause=0.05)  # whatever the dice said
    clients.stop()
    total = audit(replicas, clients)
    followed = [r.status()["requests"]["followed"] for r in replicas]
    check(clients.acked and clients.reads > rounds, "too little happened: %s", counts)
    print(f"  {counts}: {len(clients.acked)} acknowledged, {len(clients.unknown)} unknown, {total} executed, {clients.reads} reads, "
          f"followed {followed}", flush=True)


def test_partitioned(bench, rng):
    """One interceptor stands still for longer than an election, and goes on: it gives nobody what is old."""
    _, replicas = prepare(bench)
    clients = Clients(replicas[1:], seed=rng.randrange(1 << 30))
    for _ in range(2 if bench.build.sanitized else 5):
        time.sleep(0.2)
        replicas[0].process.pause()
        time.sleep(rng.uniform(0.3, 1.0))
        with clients.lock:
            floor = clients.highest
        connection = http.client.HTTPConnection("127.0.0.1", replicas[0].port, timeout=60)
        connection.request("GET", "/count")
        replicas[0].process.resume()
        count = json.loads(connection.getresponse().read())["count"]
        connection.close()
        check(count >= floor, "a read gave %d when %d had been shown before", count, floor)
    clients.stop()
    audit(replicas, clients)


def test_newer_checkpoint(bench, rng):
    """An app restored from another replica's newer checkpoint: who waits for what that contains is not answered, and nothing is doubled."""
    _, (a, b) = prepare(bench, n=2, servers=1, flags=("--without-app", "hold"))
    a.app.kill()
    a.wait_lost()
    waiting = http.client.HTTPConnection("127.0.0.1", a.port, timeout=60)
    waiting.request("POST", "/add?id=early")
    wait_until("it is executed by the other one", lambda: "early" in b.list(), 20)
    wait_until("a checkpoint", lambda: b.checkpoint(rng))
    later = http.client.HTTPConnection("127.0.0.1", a.port, timeout=60)
    later.request("POST", "/add?id=later")
    wait_until("it is executed by the other one", lambda: "later" in b.list(), 20)
    a.start_app()
    a.wait_active()
    with contextlib.suppress(http.client.RemoteDisconnected):
        check(False, "answered with %s", waiting.getresponse().read())
    check(json.loads(later.getresponse().read()) == {"n": 2, "id": "later"}, "the one behind the checkpoint")
    check(a.list() == b.list() == ["early", "later"], "%s %s", a.list(), b.list())
    check(a.status()["requests"]["abandoned"] == 1, "%s", a.status())


def test_refused(bench, rng):
    """A replica without an app that has caught up makes nobody wait whom another one can answer; what is in the log is answered in its place."""
    _, (a, b) = prepare(bench, n=2, servers=1)

    def refused():
        for method, path in (("POST", "/add?id=refused"), ("GET", "/count")):
            status, headers, body = Http(a.port).request(method, path)
            check(status == 503 and headers["retry-after"] == "0" and b"not logged and not executed" in body, "%s: %d %s %s", method, status, headers, body)
    a.app.pause()
    early = http.client.HTTPConnection("127.0.0.1", a.port, timeout=60)
    early.request("POST", "/add?id=early")
    wait_until("it is in the log", lambda: b.list() == ["early"], 20)
    a.app.kill()
    a.wait_lost()
    refused()
    check(a.admin("GET", "/readyz")[0] == 503 and a.status()["requests"]["rejected"] == 2, "%s", a.status())
    check(Http(b.port).json("POST", "/add?id=later")["n"] == 2, "the other one")
    a.start_app(attach=False)
    a.app.pause()
    a.attach(0)
    refused()  # it has not caught up
    a.app.resume()
    check(json.loads(early.getresponse().read()) == {"n": 1, "id": "early"}, "who was in the log")
    a.wait_active()
    check(Http(a.port).json("GET", "/count") == {"count": 2} and a.list() == b.list() == ["early", "later"], "%s %s", a.list(), b.list())


def test_local_reads(bench, rng):
    """`--reads local` answers without the log; `linearizable` does not, without it."""
    cluster, (a, b) = prepare(bench, n=2, servers=1, flags=("--log-timeout", "1h"))
    local = Replica(bench, cluster, "l", a.shelf, ("--reads", "local"))
    local.start_app()
    local.wait_active()
    check(Http(a.port).json("POST", "/add?id=x")["n"] == 1, "the write")
    for r in (b, local):
        wait_until("followed", lambda r=r: r.list() == ["x"], 20)
    cluster.running[1].pause()
    check(Http(local.port).json("GET", "/count") == {"count": 1}, "a local read")
    waiting = http.client.HTTPConnection("127.0.0.1", b.port, timeout=60)
    waiting.request("GET", "/count")
    waiting.sock.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        check(False, "a linearizable read was answered without the log: %s", waiting.getresponse().read())
    cluster.running[1].resume()


def test_diverged(bench, rng):
    """An app whose state was changed behind the log's back: the majority finds out, whoever has the client, and it is rebuilt."""
    _, (a, b, c) = prepare(bench, servers=1)
    for n, front in enumerate((a, c)):  # another one has the client; it has the client itself
        Http(a.port).json("POST", f"/add?id=before{n}")
        wait_until("a checkpoint", lambda: b.checkpoint(rng))
        check(c.direct("POST", "/add?id=rogue")[0] == 200, "the app by itself")
        Http(front.port).json("POST", f"/add?id=first{n}")
        wait_until("it is found out", lambda: c.status()["app"]["diverged"] > 0, 20)
        status = c.status()
        check(status["app"]["suspect"] and status["state"] == "waiting", "%s", status)
        check(c.admin("GET", "/readyz")[0] == 503 and b"crsc_interceptor_diverged 1" in c.admin("GET", "/metrics")[1], "%s", status)
        check(Http(c.port).request("GET", "/count")[0] == 503, "it still answers")
        sound((a, b))
        c.app.kill()
        c.start_app()
        c.wait_active()
        Http(c.port).json("POST", f"/add?id=after{n}")
        wait_until("all are the same", lambda: a.list() == b.list() == c.list() and len(a.list()) == 3 * n + 3, 20)
        check(not c.status()["app"]["diverged"], "%s", c.status())


def test_counted(bench, rng):
    """How many they are is told while they run: with 0 nobody is judged, as while two versions of the app run; from when they are three again, the one that differs is."""
    _, replicas = prepare(bench, servers=1)
    a, _, c = replicas
    for wrong in ("count=1", "count=16", "count=-2", "count=2x", "count=", ""):
        check(a.admin("POST", f"/replicas?{wrong}")[0] == 400, "%s was taken", wrong)
    for r in replicas:
        check(json.loads(r.admin("POST", "/replicas?count=0")[1])["replicas"] == 0 == r.status()["replicas"], "%s", r.status())
    c.direct("POST", "/add?id=rogue")
    Http(a.port).json("POST", "/add?id=first")
    sound(replicas)
    for r in replicas:
        r.admin("POST", "/replicas?count=3")
    wait_until("it is found out by the votes that are there", lambda: c.status()["app"]["diverged"] > 0, 20)
    sound((a,))


def test_versions(bench, rng):
    """Version 2 answers otherwise. It replays all that version 1 executed, a dispute among it that the old ones decided by votes, and is not wrong for that; nor are
    the old ones beside it. Within each version a liar is found. The old ones' interceptors say nothing of versions; one of version 2 that does not either is judged by them."""
    cluster, (a, b, c) = prepare(bench, servers=1)
    Http(a.port).json("POST", "/add?id=before")
    check(c.direct("POST", "/add?id=rogue")[0] == 200, "the app by itself")
    Http(a.port).json("POST", "/add?id=disputed")
    wait_until("the liar among the old ones is found out", lambda: c.status()["app"]["diverged"] > 0, 20)

    def newer(name, *flags):
        r = Replica(bench, cluster, name, a.shelf, flags, app_flags=("--version", "2"))
        r.start_app()
        return r
    nameless = newer("nameless")
    wait_until("it is taken for a liar, as it does not say that it is of another version", lambda: nameless.status()["app"]["diverged"] > 0, 20)
    nameless.process.kill()
    nameless.app.kill()
    new = d, e, f = [newer(f"new-{k}", "--app-version", "2") for k in "def"]
    for r in new:
        r.wait_active()
    check(Http(d.port).json("POST", "/add?id=both") == {"n": 3, "id": "both", "version": "2"}, "version 2 answers")
    check(Http(a.port).json("POST", "/add?id=sides") == {"n": 4, "id": "sides"}, "version 1 answers")

    def same_and_sound(replicas):
        wait_until("all have executed the same", lambda: len({tuple(r.list()) for r in replicas}) == 1, 20)
        sound(replicas)
    same_and_sound((a, b, *new))
    check(d.status()["requests"]["digest_mismatches"] >= 2 and d.status()["app_version"] == "2" and a.status()["app_version"] == "", "%s", d.status())
    check(f.direct("POST", "/add?id=rogue")[0] == 200, "the app by itself")
    for n in range(64):  # a vote is begun at most once in so many offsets
        Http(rng.choice((a, d)).port).json("POST", f"/add?id=more{n}")
    wait_until("the liar among the new ones is found out", lambda: f.status()["app"]["diverged"] > 0, 20)
    same_and_sound((a, b, d, e))


def test_disagreement(bench, rng):
    """Two against each other: nobody knows who is wrong. `alarm` goes on; `hold` waits for a person."""
    cluster = Cluster(bench, n=1).start()
    cluster.wait_leader()
    for policy in ("alarm", "hold"):
        shelf, stream = [(0, None)], f"{STREAM}-{policy}"
        a, b = (Replica(bench, cluster, f"{policy}-{k}", shelf, ("--replicas", "2", "--on-disagreement", policy), stream) for k in "ab")
        for r in (a, b):
            r.start_app()
            r.wait_active()
        b.direct("POST", "/add?id=rogue")
        check(Http(a.port).json("POST", "/add?id=x")["n"] == 1, "the write")
        for r in (a, b):
            wait_until("the alarm", lambda r=r: r.status()["app"]["disagreement"] > 0, 20)
            if policy == "alarm":
                r.wait_active()
            else:
                check(r.state() == "waiting", "%s", r.status())
        check(a.admin("POST", "/state?state=active")[0] == 200, "a person decides")
        check(Http(a.port).json("POST", "/add?id=y")["n"] == 2, "it goes on")


def pair(bench, cluster, flags=()):
    """One that serves, with these flags, and its standby."""
    shelf = [(0, None)]
    active = Replica(bench, cluster, "active", shelf, flags)
    standby = Replica(bench, cluster, "standby", shelf, ("--role", "standby", "--standby-of", f"127.0.0.1:{active.admin_port}"))
    for r in (active, standby):
        r.start_app()
        r.wait_active()
    return active, standby


def test_standby(bench, rng):
    """It executes everything and refuses clients; it takes over when the one that serves is gone, or frozen, or has lost its app."""
    cluster = Cluster(bench, n=1).start()
    cluster.wait_leader()
    active, standby = pair(bench, cluster)
    took = []
    for n, fault in enumerate(("gone", "app", "frozen")):
        status, _, body = Http(standby.port).request("GET", "/count")
        check(status == 503 and b"standby" in body, "%d %s", status, body)
        check(standby.admin("GET", "/readyz")[0] == 503, "a standby is ready")
        wait_until("the one that serves is ready", lambda: active.admin("GET", "/readyz")[0] == 200)
        check(Http(active.port).json("POST", f"/add?id=a{n}")["n"] == 2 * n + 1, "the write")
        begun = time.monotonic()
        if fault == "gone":
            active.process.kill()
            active.app.kill()
        elif fault == "app":
            active.app.kill()
        else:
            active.process.pause()
        said = wait_until("an answer of the standby", lambda: answered(standby, f"/add?id=s{n}"), 30, 0.001)
        took.append(round((time.monotonic() - begun) * 1000))
        check(said == {"n": 2 * n + 2, "id": f"s{n}"}, "it had not everything: %s", said)
        if fault == "gone":
            active.start_interceptor()
        if fault == "frozen":
            active.process.resume()
        else:
            active.start_app()
        active.wait_active()
        check(json.loads(standby.admin("POST", "/role?role=standby")[1])["role"] == "standby", "back")
    # the one that was frozen says "active" before it has executed what came meanwhile
    wait_until("it has everything", lambda: active.list() == ["a0", "s0", "a1", "s1", "a2", "s2"], 30)
    check(standby.admin("POST", "/role?role=other")[0] == 400, "a role that there is not")
    print(f"  answered by the standby after {took} ms (killed, its app killed, frozen: silence is 1500 ms)", flush=True)


def test_migrate(bench, rng):
    """Clients go from one to the other and back under load; whatever cannot be done leaves the source serving."""
    cluster = Cluster(bench, n=3).start()
    cluster.wait_leader()
    shelf = [(0, None)]
    sides = [Replica(bench, cluster, "source", shelf), Replica(bench, cluster, "target", shelf, ("--role", "standby"))]
    for r in sides:
        r.start_app()
        r.wait_active()
    clients = Clients(sides, n=4, seed=rng.randrange(1 << 30))

    def migrate(source, target, status=0):
        out, err = bench.run("crsc-logctl", "migrate", f"127.0.0.1:{source.admin_port}", f"127.0.0.1:{target.admin_port}", "--output", "json",
                             "--timeout", "3s" if status else "30s", status=status)
        return json.loads(out) if status == 0 else err
    said = []
    for _ in range(2 if bench.build.sanitized else 6):
        time.sleep(rng.uniform(0.1, 0.4))
        said.append(migrate(*sides))
        check(sides[0].status()["role"] == "standby" and sides[1].status()["role"] == "active", "roles")
        check(said[-1]["waiting"] == 0, "%s", said)
        sides.reverse()
    source, target = sides
    target.app.kill()  # it cannot catch up
    target.wait_lost()
    time.sleep(0.1)
    check("goes on serving" in migrate(source, target, status=1), "a target without an app")
    check(source.status()["role"] == "active" and target.status()["role"] == "standby", "the source serves")
    target.start_app()
    target.wait_active()
    target.process.pause()  # it does not answer at all
    check("goes on serving" in migrate(source, target, status=1), "a target that does not answer")
    target.process.resume()
    check("standby" in migrate(target, source, status=1), "the wrong way round")
    check("same interceptor" in migrate(source, source, status=1), "to itself")
    clients.stop()
    audit(sides, clients)
    print(f"  switched in {[s['switch_ms'] for s in said]} ms, {len(clients.acked)} acknowledged, {len(clients.unknown)} unknown", flush=True)
    check(not clients.unknown, "a client got no answer: %s", sorted(clients.unknown)[:5])


def test_goodbye(bench, rng):
    """One that is told to stop says so: its standby serves while it still answers those who are there."""
    cluster = Cluster(bench, n=1).start()
    cluster.wait_leader()
    active, standby = pair(bench, cluster, ("--stop-timeout", "600s"))
    active.app.pause()
    late = Http(active.port, timeout=60)
    late.connection.request("POST", "/add?id=late")
    wait_until("it is in the log, and with the app", lambda: standby.list() == ["late"], 30)
    active.process.popen.terminate()
    said = wait_until("an answer of the standby", lambda: answered(standby, "/add?id=next"), 30)
    check(said == {"n": 2, "id": "next"}, "%s", said)
    check(active.process.alive() and active.status()["leaving"], "the standby waited for its end")
    check(active.admin("GET", "/readyz")[0] == 503, "it says to nobody else that it is ready")
    active.app.resume()
    check(json.loads(late.connection.getresponse().read()) == {"n": 1, "id": "late"}, "who was there is answered")
    check(active.process.wait(30) == 0, "it stopped well")


def answered(replica, path):
    status, _, body = Http(replica.port).request("POST", path)
    return json.loads(body) if status == 200 else None


def test_settings(bench, rng):
    """What does not go together is refused at the start."""
    base = ["crsc-interceptor", "--servers", "127.0.0.1:1", "--stream", STREAM, "--replication"]
    for flags, word in ((["log", "--ordering", "concurrent"], "serial"), (["log", "--logging", "optimistic"], "pessimistic"),
                        (["both"], "none or log"), (["log", "--on-disagreement", "vote"], "alarm or hold"), (["none", "--role", "standby"], "replication log"), (["log", "--standby-of", "127.0.0.1:1"], "role standby"), (["log", "--reads", "stale"], "linearizable or local"), (["log", "--without-app", "wait"], "refuse or hold"), (["log", "--upgrade", "pass"], "upgrade pass is not for"), (["log", "--replicas", "1"], "compared with nobody"), (["log", "--app-version", "a b"], "without a space"), (["log", "--app-version", "v" * 128], "at most 127")):
        _, err = bench.run(*base, *flags, status=2)
        check(word in err, "%s: %s", flags, err)


if __name__ == "__main__":
    main([test_kills, test_partitioned, test_newer_checkpoint, test_refused, test_local_reads, test_standby, test_goodbye, test_migrate, test_diverged, test_counted, test_versions, test_disagreement, test_settings])
