#!/usr/bin/env python3
"""Three replicas of the app store (registers and queues: tests/apps/store.c) behind `--replication log`, and three crsc-logd, each of the six in a
network namespace of its own; in a seventh the clients, at all replicas. Meanwhile apps, interceptors, log servers are killed and frozen, replicas and
servers cut off, checkpoints of any restored on any, roles changed, clients migrated. This test plays the operator. Then
  - for every register and every queue one order of its operations must explain every answer, reads included (Porcupine: linearizable/store),
  - all replicas must have equal states, in whose journal each acknowledged operation is once, each refused one never.
That the checker sees a stale read is shown on one that `--reads local` really gives, and on the run's own history with an answer changed.

    make chaos-store SECONDS=600        tests/chaos/test_store.py --build build/release --seed 7
"""
import contextlib
import http.client
import json
import os
import random
import subprocess
import threading
import time

from hosts import Hosts
from test_chaos import Chaos, checker

from harness import Cluster, Http, Skip, check, main, wait_until

STREAM = "test/default/workload/store"
PORT, ADMIN, APP = 8080, 8081, 9000  # each replica has a host of its own
SERVERS, REPLICAS = (1, 2, 3), (4, 5, 6)
PHASE = 4.0  # seconds; then other keys: an operation without an outcome burdens the search of one key only, and not for long


class Servers(Cluster):
    def __init__(self, bench, hosts, n=3):
        super().__init__(bench, n=n)
        self.hosts = hosts
        self.addresses = {i: hosts.address(i, 7400) for i in self.addresses}
        self.servers = ",".join(self.addresses.values())
        self.members = ",".join(f"{i}={a}" for i, a in self.addresses.items())

    def argv(self, i):
        plain = super().argv(i)
        return self.hosts.argv(i, [self.bench.build.path(plain[0]), *plain[1:]])


class Shelf:
    """The checkpoints of all replicas: offset and file. Everybody may be restored from each."""

    def __init__(self):
        self.kept = [(0, None)]

    def put(self, offset, path):
        if offset > self.kept[-1][0]:
            self.kept.append((offset, path))

    def newest(self):
        return self.kept[-1]

    def any(self, rng):
        return rng.choice(self.kept[-3:])


class Replica:
    """An app and its interceptor on host `i`."""

    def __init__(self, bench, hosts, cluster, shelf, i, flags=()):
        self.bench, self.hosts, self.cluster, self.shelf, self.i, self.flags = bench, hosts, cluster, shelf, i, flags
        self.name, self.host, self.started, self.identity = f"r{i}", hosts.address(i, 0).split(":")[0], 0, ""
        self.where = self.host, PORT
        self.process = self.app = None
        self.start_interceptor()

    def start_interceptor(self):
        self.process = self.bench.spawn(f"interceptor-{self.name}", self.hosts.argv(self.i, [
            self.bench.build.path("crsc-interceptor"), "--listen", f"{self.host}:{PORT}", "--admin-listen", f"{self.host}:{ADMIN}", "--servers",
            self.cluster.servers, "--stream", STREAM, "--replication", "log", "--producer", self.name, *self.flags]))

    def ask(self, port, method, path, body=None, timeout=60):
        connection = Http(port, timeout=timeout, host=self.host)
        try:
            status, _, data = connection.request(method, path, json.dumps(body) if body is not None else None,
                                                 {"Content-Type": "application/json"} if body is not None else {})
            return status, data
        finally:
            connection.close()

    def direct(self, method, path):
        """Past the interceptor."""
        return self.ask(APP, method, path)

    def status(self):
        status, data = self.ask(ADMIN, "GET", "/status")
        check(status == 200, "GET /status: %d %s", status, data)
        return json.loads(data)

    def start_app(self, checkpoint=None):
        offset, path = checkpoint or self.shelf.newest()

        def begin():
            self.started += 1
            self.app = self.bench.spawn(f"store-{self.name}", self.hosts.argv(self.i, [
                self.bench.build.path("store"), "--listen", f"{self.host}:{APP}", *(["--restore", path] if path else [])]))
            self.identity = f"store-{self.name}-{self.started}-{self.app.pid}"

        def attached():
            check(self.app.alive() and self.process.alive(), "%s: app or interceptor ended:\n%s\n%s", self.name, self.app.tail(), self.process.tail())
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.direct("GET", "/journal")
                status, data = self.ask(ADMIN, "POST", "/attach", {"identity": self.identity, "offset": offset, "upstream": f"{self.host}:{APP}"})
                check(status in (200, 202, 409), "POST /attach: %d %s", status, data)
                if b"start another" in data:  # it was given requests while it was taken for the one before
                    self.app.kill()
                    begin()
                return status != 409
            return False
        begin()
        wait_until(f"{self.name}'s app is attached", attached, 60, 0.01)

    def checkpoint(self, rng):
        token = f"t{rng.randrange(1 << 60):x}"
        status, data = self.ask(ADMIN, "POST", "/checkpoint", {"token": token, "lease_ms": 5000, "drain_ms": 3000})
        if status != 200:
            return False
        path = self.bench.path(f"saved-{token}")
        saved, _ = self.direct("POST", f"/save?file={path}")
        check(saved == 200, "POST /save: %d", saved)
        status, end = self.ask(ADMIN, "POST", "/resume", {"token": token})
        if status != 200 or not json.loads(end)["unbroken"]:
            return False
        self.shelf.put(json.loads(data)["offset"], path)
        return True

    def role(self, role):
        status, data = self.ask(ADMIN, "POST", f"/role?role={role}")
        check(status == 200, "POST /role: %d %s", status, data)

    def is_active(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.status()["state"] == "active"
        return False


class Clients:
    """Each does one operation after the other at a replica, and goes to another one when that fails. Everything is noted."""

    def __init__(self, replicas, n, seed):
        self.replicas, self.history, self.lock = replicas, [], threading.Lock()
        self.acked, self.refused, self.unknown, self.strange = set(), set(), set(), []
        self.begun, self.ended, self.numbers = time.monotonic(), threading.Event(), n
        self.answered = {r.name: 0 for r in replicas}
        self.threads = [threading.Thread(target=self.run, args=(k, random.Random(f"{seed}/{k}")), daemon=True) for k in range(n)]
        for thread in self.threads:
            thread.start()

    def choose(self, rng, seen, name):
        """(what is noted, method, path) of the next operation; `name`: its id, and as a number what it writes."""
        phase = int((time.monotonic() - self.begun) / PHASE)
        value = int(name.replace("-", "00000"))
        if rng.random() < 0.5:
            key = f"r{phase}-{rng.randrange(3)}"
            what = rng.choice(["get", "get", "put", "cas"])
            if what == "get":
                return {"op": "get", "key": key}, "GET", f"/reg/{key}"
            if what == "put":
                return {"op": "put", "key": key, "to": value}, "POST", f"/reg/{key}?id={name}&to={value}"
            last = seen.get(key, 0)
            return {"op": "cas", "key": key, "from": last, "to": value}, "POST", f"/reg/{key}?id={name}&from={last}&to={value}"
        key = f"q{phase}-{rng.randrange(2)}"
        what = rng.choice(["look", "push", "push", "pop"])
        if what == "look":
            return {"op": "look", "key": key}, "GET", f"/queue/{key}"
        if what == "push":
            return {"op": "push", "key": key, "to": value}, "POST", f"/queue/{key}?id={name}&push={value}"
        return {"op": "pop", "key": key}, "POST", f"/queue/{key}/pop?id={name}"

    def note(self, said, outcome, begun, client):
        said.update(client=client, call=begun, outcome=outcome)
        said["return"] = time.monotonic_ns()
        with self.lock:
            self.history.append(said)

    def run(self, k, rng):
        client, number, connection, seen, replica = k, 0, None, {}, None
        while not self.ended.is_set():
            number += 1
            name = f"{k + 1}-{number}"
            said, method, path = self.choose(rng, seen, name)
            write, sent = method == "POST", False
            begun = time.monotonic_ns()
            try:
                if connection is None:
                    replica = rng.choice(self.replicas)
                    connection = http.client.HTTPConnection(*replica.where, timeout=3)
                    connection.connect()
                sent = True
                connection.request(method, path)
                answer = connection.getresponse()
                body = answer.read()
                if answer.status == 503:
                    self.refused.add(name)
                    raise ConnectionRefusedError
                if answer.status != 200:
                    self.strange.append(f"{method} {path} at {replica.name}: {answer.status} {body[:200]}")
                    raise http.client.HTTPException
                told = json.loads(body)
                said.update((word, told[word]) for word in ("value", "length", "swapped") if word in told)
                self.note(said, "ok", begun, client)
                if "value" in told:
                    seen[said["key"]] = told["value"]
                if write:
                    self.acked.add(name)
                self.answered[replica.name] += 1
                time.sleep(rng.uniform(0, 0.02))
                if rng.random() < 0.02:  # nobody stays for ever where all is well
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException, ValueError) as e:
                if write and sent and not isinstance(e, ConnectionRefusedError):
                    self.unknown.add(name)
                    self.note(said, "unknown", begun, client)
                    with self.lock:  # who goes on is another one: this operation has no end
                        client, self.numbers = self.numbers, self.numbers + 1
                if connection is not None:
                    connection.close()
                connection = None
                time.sleep(0.01)
        if connection is not None:
            connection.close()

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join(90)
            check(not thread.is_alive(), "a client still waits for an answer")


class Storm(Chaos):
    """Faults of the log's servers, as in test_chaos.py, and those of the replicas."""

    def __init__(self, cluster, hosts, rng, replicas, shelf):
        super().__init__(cluster, hosts, rng)
        self.replicas, self.shelf = replicas, shelf
        self.kinds = [self.kill, self.kill_leader, self.freeze_leader, self.cut_off_leader, self.kill_all, self.minority, self.kill_app, self.kill_app,
                      self.kill_machine, self.kill_apps, self.freeze_interceptor, self.freeze_app, self.cut_off_replica, self.cut_off_replica, self.deaf_replica,
                      self.cut_off_clients, self.checkpoint, self.checkpoint, self.checkpoint, self.change_roles, self.migrate, self.migrate, self.promote]

    def one(self):
        return self.rng.choice(self.replicas)

    def bring_back(self, replica):
        replica.start_app(self.shelf.any(self.rng) if self.rng.random() < 0.3 else None)

    def kill_app(self):
        replica = self.one()
        replica.app.kill()
        self.wait(0, 0.6)
        self.bring_back(replica)

    def kill_apps(self):
        """All of them."""
        for replica in self.replicas:
            replica.app.kill()
        self.wait(0, 0.3)
        for replica in self.replicas:
            self.bring_back(replica)

    def kill_machine(self):
        replica = self.one()
        replica.process.kill()
        replica.app.kill()
        self.wait(0, 0.6)
        replica.start_interceptor()
        self.bring_back(replica)

    def freeze_interceptor(self):
        replica = self.one()
        replica.process.pause()
        self.wait(0.1, 2)
        replica.process.resume()

    def freeze_app(self):
        replica = self.one()
        replica.app.pause()
        self.wait(0.1, 2)
        replica.app.resume()

    def cut_off_replica(self):
        """From the log. Its clients still reach it; its app may die meanwhile."""
        replica = self.one()
        for i in (replica.i, *SERVERS):
            self.hosts.deaf(i, set(SERVERS) if i == replica.i else {replica.i})
        if self.rng.random() < 0.3:
            replica.app.kill()
            self.bring_back(replica)
        self.wait(0.5, 4)
        for i in (replica.i, *SERVERS):
            self.hosts.heal(i)

    def deaf_replica(self):
        """It speaks to the log and does not hear it."""
        i = self.one().i
        self.cut({i: set(SERVERS)})

    def cut_off_clients(self):
        i = self.one().i
        self.cut({i: {100}})

    def checkpoint(self):
        self.one().checkpoint(self.rng)

    def roles(self):
        """(those that take clients, standbys)"""
        found = {"active": [], "standby": []}
        for replica in self.replicas:
            found[replica.status()["role"]].append(replica)
        return found["active"], found["standby"]

    def change_roles(self):
        """At most one is a standby."""
        _, standbys = self.roles()
        for replica in standbys:
            replica.role("active")
        if not standbys:
            self.one().role("standby")

    def migrate(self):
        """Under faults: who has lost its app a moment ago cannot be moved to, and then the source goes on."""
        actives, standbys = self.roles()
        source = self.rng.choice(actives)
        if not standbys:
            standbys = [r for r in actives if r != source][:1]
            standbys[0].role("standby")
        if self.rng.random() < 0.3:
            standbys[0].app.kill()
            self.bring_back(standbys[0])
        self.cluster.bench.run("crsc-logctl", "migrate", f"{source.host}:{ADMIN}", f"{standbys[0].host}:{ADMIN}", "--output", "json", "--timeout", "3s", status=None)

    def promote(self):
        """The one that serves dies, and its standby takes clients at once."""
        actives, standbys = self.roles()
        victim = self.rng.choice(actives)
        victim.app.kill()
        for replica in standbys:
            replica.role("active")
        self.wait(0, 0.3)
        self.bring_back(victim)


def judge(bench, program, history, name):
    """The checker's exit status, and what it said."""
    path = bench.path(name)
    with open(path, "w") as f:
        f.writelines(json.dumps(o) + "\n" for o in history)
    done = subprocess.run([program, path, path + ".html"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    return done.returncode, done.stdout


def audit(replicas, clients):
    def same():
        with contextlib.suppress(OSError, http.client.HTTPException):
            found = {(r.status()["offsets"]["executed"], r.direct("GET", "/all")[1]) for r in replicas}
            return found if len(found) == 1 else None
        return None
    wait_until("all replicas have the same state", same, 60, 0.05)
    journal = replicas[0].direct("GET", "/journal")[1].decode().split()
    once = set(journal)
    check(len(once) == len(journal), "executed twice: %s", sorted(i for i in once if journal.count(i) > 1)[:10] if len(journal) < 20000 else "yes")
    check(clients.acked <= once, "acknowledged, and not executed: %s", sorted(clients.acked - once)[:10])
    check(not once & clients.refused, "refused, and executed: %s", sorted(once & clients.refused)[:10])
    stray = once - clients.acked - clients.unknown
    check(not stray, "executed, and its client knows nothing of it: %s", sorted(stray)[:10])
    return len(journal)


def made_wrong(history):
    """The history of one register, and of one queue, with an old answer behind everything else."""
    end = max(o["return"] for o in history) + 1
    for op, value in (("put", "to"), ("pop", "value")):
        parts = {}
        for o in history:
            parts.setdefault(o["key"], []).append(o)
        found = ((sum(o["outcome"] == "unknown" for o in part), part, o) for part in parts.values() for o in part
                 if o["op"] == op and o["outcome"] == "ok" and o[value] > 0)
        _, part, told = min(found, key=lambda f: f[0])  # the fewest unknown ones: quickly refuted
        yield part + [{"client": 0, "op": "get", "key": told["key"], "value": 0, "call": end, "return": end + 1, "outcome": "ok"} if op == "put" else
                      {**told, "client": 0, "call": end, "return": end + 1}]


def finish(bench):
    """While the namespaces are there. What was wrong with an end."""
    wrong = []
    for process in reversed(bench.processes):
        if process.name.startswith("store-"):
            process.kill()
        elif process.alive():
            process.resume()
            code = process.stop()
            if code != 0:
                wrong.append(f"{process.name} ended with {code} when it was asked to stop:\n{process.tail()}")
    return wrong


def run(bench, rng, hosts, seconds, program):
    cluster = Servers(bench, hosts).start()
    cluster.wait_leader()
    shelf = Shelf()
    replicas = [Replica(bench, hosts, cluster, shelf, i) for i in REPLICAS]
    for r in replicas:
        r.start_app()
    for r in replicas:
        wait_until(f"{r.name} is active", r.is_active, 60)
    clients = Clients(replicas, 9, rng.randrange(1 << 30))
    wait_until("a checkpoint", lambda: replicas[0].checkpoint(rng), 30, 0.05)  # whatever the dice say later
    storm = Storm(cluster, hosts, rng, replicas, shelf)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        storm.wait(0.1, 1)
        storm.strike()
        check(not clients.strange, "%s", clients.strange[:3])
        if rng.random() < 0.5:
            cluster.wait_leader()
    for process in cluster.running.values():
        process.wait_for("ready", 60)
    for r in replicas:
        r.role("active")
        wait_until(f"{r.name} is active after the last fault", r.is_active, 60, 0.02)
    before = dict(clients.answered)
    wait_until("every replica answers after the last fault", lambda: all(clients.answered[name] > n for name, n in before.items()), 60, 0.02)
    clients.stop()
    executed = audit(replicas, clients)
    check(not clients.strange, "%s", clients.strange[:3])
    status, verdict = judge(bench, program, clients.history, "history")
    check(status == 0, "the history has no explanation: %s (picture: %s)", verdict, bench.path("history.html"))
    kinds = {op: sum(o["op"] == op and o["outcome"] == "ok" for o in clients.history) for op in ("get", "put", "cas", "look", "push", "pop")}
    check(min(kinds.values()) > 10 and len(shelf.kept) > 1, "too little happened: %s, %d checkpoints", kinds, len(shelf.kept) - 1)
    for n, wrong in enumerate(made_wrong(clients.history)):
        status, said = judge(bench, program, wrong, f"wrong-{n}")
        check(status == 1 and "Illegal" in said, "the checker takes anything: %s", said)
    print(f"  {sum(storm.done.values())} faults {storm.done}; {kinds}, {len(clients.unknown)} unknown, {len(clients.refused)} refused, {executed} executed, "
          f"{len(shelf.kept) - 1} checkpoints; {verdict.strip()}; abandoned {[r.status()['requests']['abandoned'] for r in replicas]}", flush=True)


def skip_slow(bench):
    """Nine processes under sanitizers, on machines of two processors: what is C here runs so in `replicas` and `chaos`."""
    if bench.build.sanitized and not os.environ.get("CRSC_CHAOS_SECONDS"):
        raise Skip("not under sanitizers, unless CRSC_CHAOS_SECONDS is set")


def test_store(bench, rng):
    skip_slow(bench)
    program = checker(bench, "store")
    with Hosts(6, bench.directory) as hosts:
        try:
            run(bench, rng, hosts, float(os.environ.get("CRSC_CHAOS_SECONDS") or 60), program)
        finally:
            wrong = finish(bench)
        check(not wrong, "%s", "\n".join(wrong))


def test_stale_read(bench, rng):
    """One that may be old, and is: a replica with `--reads local` that hears nothing of the log. The checker must see it."""
    skip_slow(bench)
    program = checker(bench, "store")
    with Hosts(3, bench.directory) as hosts:
        try:
            cluster = Servers(bench, hosts, n=1).start()
            cluster.wait_leader()
            shelf = Shelf()
            a, local = (Replica(bench, hosts, cluster, shelf, i, flags) for i, flags in ((2, ()), (3, ("--reads", "local"))))
            for r in (a, local):
                r.start_app()
                wait_until(f"{r.name} is active", r.is_active, 60)
            history = []

            def do(replica, **words):
                path = f"/reg/x?id={words.get('to')}&to={words.get('to')}" if words["op"] == "put" else "/reg/x"
                begun = time.monotonic_ns()
                status, body = replica.ask(PORT, "POST" if words["op"] == "put" else "GET", path)
                check(status == 200, "%d %s", status, body)
                history.append({"client": 1, "key": "x", "value": json.loads(body)["value"], "call": begun, "return": time.monotonic_ns(), "outcome": "ok", **words})
                return history[-1]["value"]
            do(a, op="put", to=1)
            wait_until("it is followed", lambda: json.loads(local.direct("GET", "/reg/x")[1])["value"] == 1, 30)
            do(local, op="get")
            check(judge(bench, program, history, "before")[0] == 0, "nothing is wrong yet")
            hosts.deaf(3, {1})
            do(a, op="put", to=2)
            check(do(local, op="get") == 1, "it cannot know better")
            hosts.heal(3)
            status, said = judge(bench, program, history, "stale")
            check(status == 1 and "Illegal" in said, "the checker does not see a stale read: %s", said)
        finally:
            wrong = finish(bench)
        check(not wrong, "%s", "\n".join(wrong))


if __name__ == "__main__":
    main([test_store, test_stale_read])
