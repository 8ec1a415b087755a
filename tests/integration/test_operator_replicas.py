#!/usr/bin/env python3
"""Several replicas of one app, each in a runc container, with its interceptor (`--replication log`) in a network namespace of its own, and one operator for all of them: checkpoints rotate, each replica is restored from the newest of any, a standby is promoted,
one that has diverged is rebuilt. Clients write and read through any replica all the time; at the end all lists are equal, each acknowledged write
is in them once and where its client was told, and no read was stale."""
import contextlib
import http.client
import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
import time

from harness import ROOT, Cluster, Http, Skip, check, containers, main, wait_until
from stack import CRIU, containers_work, criu_works
from test_replicas import Clients, audit

STREAM = "test/default/workload/counter"
PORT, ADMIN, APP = 8080, 8081, 9000  # in its own network namespace every replica has the same


def ip(*words):
    done = subprocess.run(["ip", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    check(done.returncode == 0, "ip %s: %s", " ".join(words), done.stdout)


class Place:
    """A network namespace with a cable to this machine's."""
    made = itertools.count()

    def __init__(self):
        k = next(self.made)
        self.name = f"cr{os.getpid()}-{k}"
        self.here, self.address = (f"198.18.{os.getpid() % 256}.{k * 8 + i}" for i in (1, 2))  # of the block for benchmarks: nobody's

    def make(self):
        ip("netns", "add", self.name)
        ip("link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("address", "add", self.here + "/30", "dev", self.name)
        ip("link", "set", self.name, "up")
        ip("-n", self.name, "address", "add", self.address + "/30", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", self.name, "link", "set", device, "up")
        ip("-n", self.name, "route", "add", "default", "via", self.here)

    def remove(self):
        subprocess.run(["ip", "netns", "delete", self.name], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "link", "delete", self.name], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Replica:
    def __init__(self, group, k, standby, spare=False):
        self.group, self.standby, self.spare, self.place = group, standby, spare, Place()
        self.name = f"app{'abcde'[k]}{os.getpid()}"  # a container's name is its cgroup's too: another run on this machine has others
        self.bundle = group.bench.path(f"bundle-{self.name}")
        self.where = self.place.address, PORT
        self.process = None

    def http(self, port=PORT, timeout=60):
        return Http(port, timeout=timeout, host=self.place.address)

    def make_bundle(self):
        done = subprocess.run([os.path.join(ROOT, "scripts", "make-bundle"), "--binary", self.group.bench.build.path("counter"), "--out", self.bundle,
                               "--", "/counter", "--listen", f"0.0.0.0:{APP}", *self.group.app_flags],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        check(done.returncode == 0, "the bundle: %s", done.stdout)
        path = os.path.join(self.bundle, "config.json")
        with open(path) as f:
            words = json.load(f)
        words["linux"]["namespaces"].append({"type": "network", "path": f"/run/netns/{self.place.name}"})
        with open(path, "w") as f:
            json.dump(words, f)

    def start_interceptor(self, replication="log"):
        flags = ["--replication", "log", "--producer", self.name, "--replicas", str(len(self.group.replicas)),
                 *(["--role", "standby"] if self.standby or self.spare else [])] if replication == "log" else []
        self.process = self.group.bench.spawn(f"interceptor-{self.name}", [
            "nsenter", f"--net=/run/netns/{self.place.name}", self.group.bench.build.path("crsc-interceptor"),
            "--listen", f"{self.place.address}:{PORT}", "--admin-listen", f"{self.place.address}:{ADMIN}",
            "--servers", self.group.cluster.servers, "--stream", STREAM, *flags])

    def workload(self, interval):
        words = {"name": self.name, "stream": STREAM, "bundle": self.bundle, "upstream": f"127.0.0.1:{APP}",
                 "interceptor": f"{self.place.address}:{ADMIN}", "checkpoint-interval": interval, "mode": "criu",
                 "standby": "true" if self.standby else "false", "spare": "true" if self.spare else "false"}
        return "".join(f"{word}: {value}\n" for word, value in words.items())

    def status(self):
        connection = self.http(ADMIN)
        try:
            return connection.json("GET", "/status")
        finally:
            connection.close()

    def is_active(self):
        with contextlib.suppress(OSError, ValueError):
            return self.status()["state"] == "active"
        return False

    def role(self):
        return self.status()["role"]

    def direct(self, method, path):
        """Past the interceptor."""
        connection = self.http(APP)
        try:
            return connection.request(method, path)[2]
        finally:
            connection.close()

    def list(self):
        return self.direct("GET", "/list").decode().split()

    def pid(self):
        for name in containers(self.group.runc_root):
            if not name.startswith(self.name + "-"):
                continue
            done = subprocess.run(["runc", "--root", self.group.runc_root, "state", name], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True)
            with contextlib.suppress(ValueError):
                state = json.loads(done.stdout)
                if state["status"] in ("running", "paused") and state["pid"] > 0:
                    return state["pid"]
        return None

    def kill_app(self, wait=True):
        """`wait`: for there to be one; not where nobody starts it."""
        pid = wait_until(f"a container of {self.name}", self.pid, 60) if wait else self.pid()
        with contextlib.suppress(ProcessLookupError):
            if pid:
                os.kill(pid, signal.SIGKILL)


class Group:
    def __init__(self, bench, n=3, standbys=0, interval="700ms", spares=0, app_flags=()):
        why = containers_work() or criu_works()[1] or (None if shutil.which("ip") else "there is no ip(8)")
        if why:
            raise Skip(why)
        self.bench, self.interval, self.app_flags = bench, interval, app_flags
        self.state = bench.path("operator")
        self.runc_root = os.path.join(self.state, "runc")
        bench.runc_roots.append(self.runc_root)
        self.operator = None
        self.replicas = []
        self.replicas += [Replica(self, k, n - standbys <= k < n, k >= n) for k in range(n + spares)]
        for r in self.replicas:
            bench.at_end.append(r.place.remove)
            r.place.make()
            r.make_bundle()
        self.cluster = Cluster(bench, host=self.replicas[0].place.here)
        self.cluster.start()
        self.cluster.wait_leader()

    def start(self, replication="log"):
        for r in self.replicas:
            r.start_interceptor(replication)
        self.start_operator()

    def start_operator(self):
        folder = self.bench.path("workloads")
        os.makedirs(folder, exist_ok=True)
        for r in self.replicas:
            with open(os.path.join(folder, r.name + ".yaml"), "w") as f:
                f.write(r.workload(self.interval))
        self.operator = self.bench.spawn("operator", [
            "crsc-operator", "--servers", self.cluster.servers, "--state-dir", self.state, "--workload", folder,
            "--criu", CRIU if os.path.exists(CRIU) else "criu", "--stop-containers", "--metrics-listen", "127.0.0.1:0"])

    def migrate(self, to, *flags, status=0):
        """What `crsc-operator migrate` said: its last line, or on stderr."""
        out, err = self.bench.run("crsc-operator", "migrate", "--state-dir", self.state, "--json", "--timeout", "3m", *flags, to.name, status=status, timeout=200)
        return json.loads(out.splitlines()[-1]) if out else err

    def wait_away(self, replica):
        """Nothing of it runs, and its interceptor refuses clients."""
        def away():
            with contextlib.suppress(OSError):  # its interceptor may not listen yet
                return replica.pid() is None and not replica.is_active() and replica.role() == "standby"
            return False
        wait_until(f"{replica.name} is a spare", away, 60, 0.05)

    def metrics(self):
        """{name and labels: value}"""
        port = int(self.operator.wait_for("ready", 60)["metrics"].rsplit(":", 1)[1])
        connection = Http(port)
        try:
            status, _, text = connection.request("GET", "/metrics")
        finally:
            connection.close()
        check(status == 200, "GET /metrics: %d", status)
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.decode().splitlines() if not line.startswith("#")}

    def clients(self, n, rng):
        clients = Clients(self.replicas, n=n, seed=rng.randrange(1 << 30))
        self.bench.at_end.append(clients.ended.set)
        return clients

    def wait_active(self, timeout=60):
        for r in self.replicas:
            wait_until(f"{r.name} is active", r.is_active, timeout, 0.02)

    def by_role(self):
        """(those that serve, standbys)"""
        roles = [(r, r.role()) for r in self.replicas]
        return [r for r, role in roles if role == "active"], [r for r, role in roles if role == "standby"]

    def snapshots(self):
        found = json.loads(self.cluster.logctl("snapshots", STREAM))
        return found["snapshots"] if isinstance(found, dict) else found

    def said(self, msg):
        return [e for e in self.operator.events() if e.get("msg") == msg]

    def check_restores(self, *events):
        """What the operator said of recoveries is in the log, and `crsc-logctl restores` shows it."""
        def look():
            found = json.loads(self.cluster.logctl("restores", STREAM))["restores"]
            return found if all(any(is_of(r, e) for r in found) for e in events) else None

        def is_of(record, event):
            same = all(record[key] == event[key] for key in ("workload", "snapshot", "offset", "replayed"))
            return same and all(abs((record[key] or 0) - event[key]) < 0.06 for key in ("reaction_ms", "repair_ms", "recovery_ms", "outage_ms", "restore_ms"))
        found = wait_until("the recoveries are in the log", look, 60, 0.1)
        times = [r["finished_us"] for r in found]
        check(all(r["cause"] and 0 < r["availability"] <= 1 for r in found) and len(set(times)) == len(times), "%s", found)
        check('"beyond_snapshots": true' in self.cluster.logctl("retention", "get", STREAM + "/restores"), "no policy")
        newest = json.loads(self.cluster.logctl("restores", STREAM, "-n", "1"))
        check(newest["restores"] == found[-1:] and newest["availability"] == found[-1]["availability"], "%s", newest)
        return found

    def next_checkpoint(self, timeout=60):
        """The first that is begun from now on, when it is valid."""
        now = time.time() * 1e6

        def look():
            begun = {s["id"]: s["started_us"] for s in self.snapshots()}
            return next((e for e in self.said("checkpoint valid") if begun.get(e["snapshot"], 0) > now), None)
        return wait_until("another checkpoint", look, timeout, 0.05)

    def check_checkpoints(self):
        """One at a time, and no more kept than `retain` and what each replica runs from."""
        def few():  # the one that is too many goes when the newest one is there
            found = self.snapshots()
            return found if sum(s["state"] == "valid" for s in found) <= 3 + len(self.replicas) else None
        found = wait_until("no more valid checkpoints are kept than are needed", few, pause=0.1)
        check(len({s["id"] for s in found}) == len(found), "twice: %s", found)
        times = sorted((s["started_us"], s["finished_us"], s["id"]) for s in found if s["state"] != "taking" and s.get("finished_us"))
        check(len(times) > 1, "%s", found)
        for before, after in zip(times, times[1:]):
            check(before[1] <= after[0], "two checkpoints at once: %s %s", before, after)


def test_rotation(bench, rng):
    """Apps killed at random under load: each comes back from the newest checkpoint of any replica, and they take turns to be checkpointed."""
    group = Group(bench)
    group.start()
    group.wait_active()
    clients = group.clients(4, rng)
    begun, foreign, rounds = time.monotonic(), 0, 0
    while rounds < (3 if bench.build.sanitized else 8) or (foreign == 0 and rounds < 40):  # the dice may have each restored from its own, a few times
        rounds += 1
        seen = len(group.operator.events())
        group.operator.wait_for("checkpoint valid", 60, seen)
        time.sleep(rng.uniform(0, 0.5))
        victim, seen = rng.choice(group.replicas), len(group.operator.events())
        calm = all(r.is_active() for r in group.replicas if r is not victim)
        victim.kill_app()
        event = group.operator.wait_for("recovered", 60, seen, workload=victim.name)
        takers = {e["snapshot"]: e["workload"] for e in group.said("checkpoint valid")}
        check(event["offset"] > 0 and event["snapshot"] in takers, "not from a checkpoint: %s", event)
        foreign += takers[event["snapshot"]] != victim.name
        check(event["outage_ms"] == 0 or not calm, "the others went on all the time: %s", event)
        if rng.random() < 0.5:
            continue  # the next one may be another's, still replaying
        group.wait_active()
        check(not clients.wrong, "not linearizable: %s", clients.wrong[:3])
    wait_until("each of them had its turn", lambda: len({e["workload"] for e in group.said("checkpoint valid")}) == 3, 60, 0.1)
    group.wait_active()
    clients.stop()
    total = audit(group.replicas, clients)
    group.check_checkpoints()
    check(foreign > 0, "no replica was restored from another one's checkpoint")
    causes = {r["cause"] for r in group.check_restores(*group.said("recovered"))}
    either = {"its process ended", "it dropped a request: nobody knows whether it executed it"}  # whichever is seen first
    check(causes and causes <= either, "%s", causes)
    print(f"  {rounds} kills, {foreign} restored from another one's checkpoint, {len(group.said('checkpoint valid'))} checkpoints, {total} executed in "
          f"{time.monotonic() - begun:.0f} s, {clients.reads} reads, {clients.moves} times a client moved", flush=True)


def test_operator_killed(bench, rng):
    """The operator too: the next one goes on with what it sees, and takes nobody's checkpoint for its own."""
    group = Group(bench, interval="300ms")
    group.start()
    group.wait_active()
    clients = group.clients(3, rng)
    group.operator.wait_for("checkpoint valid", 60)
    for _ in range(2 if bench.build.sanitized else 6):
        time.sleep(rng.uniform(0, 0.6))
        if rng.random() < 0.6:
            rng.choice(group.replicas).kill_app()
            time.sleep(rng.uniform(0, 0.2))
        group.operator.kill()
        if rng.random() < 0.5:
            rng.choice(group.replicas).kill_app(wait=False)
        group.start_operator()
        group.wait_active()
    group.operator.wait_for("checkpoint valid", 60, len(group.operator.events()))
    clients.stop()
    audit(group.replicas, clients)
    found = group.snapshots()
    check(sum(s["state"] == "taking" for s in found) <= 1, "left in taking: %s", found)


class Probe:
    """Asks every replica without a pause, and remembers when one answered: the longest time in which none did."""

    def __init__(self, replicas):
        self.ended, self.times = threading.Event(), []
        self.threads = [threading.Thread(target=self.run, args=(r,), daemon=True) for r in replicas]
        for thread in self.threads:
            thread.start()

    def run(self, replica):
        while not self.ended.is_set():
            connection = replica.http(timeout=1)
            with contextlib.suppress(OSError, http.client.HTTPException):
                while not self.ended.is_set() and connection.request("GET", "/count")[0] == 200:
                    self.times.append(time.monotonic())
            connection.close()
            time.sleep(0.002)

    def longest(self, since, until):
        times = [since] + sorted(t for t in self.times if since < t < until)
        return max((b - a for a, b in zip(times, times[1:])), default=until - since)

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join(30)


def test_standby(bench, rng):
    """One serves, one follows: the standby is the one that is checkpointed, and takes over at once; the one that was lost comes back as the standby."""
    group = Group(bench, n=2, standbys=1)
    group.start()
    group.wait_active()
    wait_until("one of each", lambda: [len(x) for x in group.by_role()] == [1, 1], 60)
    clients = group.clients(3, rng)
    took, outages, gaps = [], [], []
    for k in range(2 if bench.build.sanitized else 6):
        (active,), (standby,) = group.by_role()
        event = group.next_checkpoint()  # one of another only where the standby could not be dumped
        check(event["workload"] == standby.name or group.said("checkpoint failed"), "the one that serves was dumped: %s", event)
        time.sleep(rng.uniform(0, 0.4))
        probe = Probe(group.replicas)
        bench.at_end.append(probe.ended.set)
        wait_until("the probe is answered", lambda: len(probe.times) > 20, 30)
        seen, now = len(group.operator.events()), time.monotonic()
        if k % 3 == 2:  # all of it, as when its machine is lost
            active.process.kill()
        active.kill_app()
        took.append(group.operator.wait_for("promoted", 60, seen, workload=standby.name)["took_ms"])
        if k % 3 == 2:
            active.start_interceptor()
        event = group.operator.wait_for("recovered", 60, seen, workload=active.name)
        outages.append(event["outage_ms"])
        wait_until("the one that was lost is the standby", lambda a=active, s=standby: a.role() == "standby" and s.role() == "active", 60)
        probe.stop()
        gaps.append(round(probe.longest(now, now + 0.3) * 1000))
        group.wait_active()
        check(not clients.wrong, "not linearizable: %s", clients.wrong[:3])
        check(0 < event["availability"] <= 1 and event["repair_ms"] > 0, "%s", event)
    clients.stop()
    audit(group.replicas, clients)
    group.check_checkpoints()
    group.check_restores(*group.said("recovered"))

    def total(name):
        return sum(value for key, value in metrics.items() if key.startswith(name + "{"))
    metrics = group.metrics()
    check(total("crsc_operator_promotions_total") >= len(took) and total("crsc_operator_recoveries_total") >= len(took), "%s", metrics)

    def one_of_each():
        nonlocal metrics
        metrics = group.metrics()
        return total("crsc_operator_serving") == 1 and total("crsc_operator_standby") == 1
    wait_until("the metrics have one that serves and one standby", one_of_each, pause=0.1)
    check(0 < metrics[f'crsc_operator_availability{{stream="{STREAM}"}}'] <= 1, "%s", metrics)
    check(total("crsc_operator_checkpoints_total") >= len(took), "%s", metrics)
    print(f"  promoted within {took} ms; outages as the operator saw them {outages} ms; longest time without an answer {gaps} ms", flush=True)


def test_migration(bench, rng):
    """The app moves between three "machines", one of which is always the spare, while clients write and read: from the newest checkpoint, which is there
    already. Nothing is lost, doubled or stale, and there is no moment in which nobody answers but that of the switch."""
    group = Group(bench, n=1, spares=2)
    group.start()
    a, b, c = group.replicas
    wait_until("the app serves", a.is_active, 60, 0.02)
    group.wait_away(b)
    clients = group.clients(3, rng)
    group.operator.wait_for("checkpoint valid", 60)
    check("it runs already" in group.migrate(a, status=1), "to itself")
    check("there is no workload" in bench.run("crsc-operator", "migrate", "--state-dir", group.state, "nobody", status=1)[1], "to nobody")
    gaps, switches = [], []
    path = [b, c, a, b]
    for source, target in zip([a] + path, path[:2 if bench.build.sanitized else 4]):
        probe = Probe(group.replicas)
        bench.at_end.append(probe.ended.set)
        wait_until("the probe is answered", lambda: len(probe.times) > 20, 30)
        said = group.migrate(target)
        now = time.monotonic()
        probe.stop()
        check(said["step"] == "done" and said["from"] == source.name and said["snapshot"], "%s", said)
        gaps.append(round(probe.longest(now - (said["switch_ms"] + said["drain_ms"]) / 1000 - 0.5, now) * 1000))  # not a dump before it
        switches.append(said["switch_ms"])
        group.wait_away(source)
        check(target.role() == "active", "%s", target.status())
        wait_until("the target serves, if it is not being dumped", target.is_active, 60, 0.02)
        check(not clients.wrong, "not linearizable: %s", clients.wrong[:3])
        if rng.random() < 0.5:  # it stays where it is, whatever the files said
            group.operator.kill()
            group.start_operator()
            wait_until("it is protected again", lambda t=target: t.is_active() and group.snapshots(), 60, 0.05)
        group.next_checkpoint()
    victim = path[len(gaps) - 1]
    seen = len(group.operator.events())  # a move to it says "recovered", too
    victim.kill_app()
    group.operator.wait_for("recovered", 60, seen, workload=victim.name)
    clients.stop()
    audit([victim], clients)
    group.check_restores()
    print(f"  {len(gaps)} moves; longest time without an answer {gaps} ms (Oh & Kim 2018: 576.61 ms), from promotion to step back {switches} ms", flush=True)


def test_migration_given_up(bench, rng):
    """The target, who asked, or the operator is killed at some moment of the move: it is moved in the end, or the source goes on serving."""
    group = Group(bench, n=1, spares=1)
    group.start()
    here, there = group.replicas
    wait_until("the app serves", here.is_active, 60, 0.02)
    clients = group.clients(3, rng)
    group.operator.wait_for("checkpoint valid", 60)
    became = {}
    for step in (("follow", "asker"), ("start", "target"), ("switch", "target"), ("drain", "target"), ("yield", "operator"),
                 ("start", "asker"))[:3 if bench.build.sanitized else 6]:
        when, victim = step
        if not asked_and_killed(group, there, when, victim):
            when = "never"
        serving = wait_until("one serves and the other is the spare", lambda: settled(group), 90, 0.05)
        became[step] = ("moved" if serving is there else "stayed") + (", and that step was not seen" if when == "never" else "")
        if serving is there:
            here, there = there, here
        check(not clients.wrong, "not linearizable: %s", clients.wrong[:3])
        group.next_checkpoint()
    check(group.migrate(there)["step"] == "done", "it cannot be moved any more")
    clients.stop()
    audit([there], clients)
    print("  " + "; ".join(f"{victim} killed in {when}: {what}" for (when, victim), what in became.items()), flush=True)


def asked_and_killed(group, there, when, victim):
    """Asks for a move, and kills somebody when it gets to that step. False: it was over before."""
    asker = subprocess.Popen([group.bench.build.path("crsc-operator"), "migrate", "--state-dir", group.state, "--json", "--timeout", "1m", there.name],
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    group.bench.at_end.append(asker.kill)
    seen, events = False, len(group.operator.events())
    for line in asker.stdout:
        if seen or f'"step":"{when}"' not in line:
            continue
        seen = True
        if victim == "asker":
            asker.kill()
        elif victim == "target":
            until = time.monotonic() + 5  # when it is to be started it may not be there yet
            while not there.pid() and time.monotonic() < until:
                time.sleep(0.01)
            there.kill_app(wait=False)
        else:
            group.operator.kill()
            group.start_operator()
    asker.wait()
    if victim != "operator" or not seen:
        wait_until("the move ends", lambda: any(e.get("msg") in ("moved", "not moved: the app stays where it was") for e in group.operator.events()[events:]), 90, 0.02)
    return seen


def settled(group):
    """The one that serves, when the other one is the spare."""
    with contextlib.suppress(OSError, ValueError):
        for one, other in (group.replicas, group.replicas[::-1]):
            if one.is_active() and one.role() == "active" and other.role() == "standby" and other.pid() is None:
                return one
    return None


def test_diverged(bench, rng):
    """An app whose state was changed behind the log's back: killed, and rebuilt from a checkpoint that it did not take since."""
    group = Group(bench, interval="400ms")
    group.start()
    group.wait_active()
    a, b, c = group.replicas
    a.http().json("POST", "/add?id=first")
    group.operator.wait_for("checkpoint valid", 60)
    c.direct("POST", "/add?id=rogue")
    rogue, spoilt = time.time() * 1e6, None

    def begun(event):  # of what is in the log still
        return next((s["started_us"] for s in group.snapshots() if s["id"] == event["snapshot"]), 0)

    for _ in range(9):
        seen = len(group.operator.events())
        check(a.http().request("POST", "/echo", "x")[0] == 200, "the log grows, and no answer shows what is wrong")
        spoilt = group.operator.wait_for("checkpoint valid", 60, seen)
        if spoilt["workload"] == c.name and begun(spoilt) > rogue:
            break
    check(spoilt["workload"] == c.name and begun(spoilt) > rogue, "the rogue one never had its turn")
    seen = len(group.operator.events())
    a.http().json("POST", "/add?id=second")
    event = group.operator.wait_for("recovered", 60, seen, workload=c.name)
    kill = group.operator.find("kill", seen, workload=c.name)
    check(kill and "diverged" in kill["reason"], "%s", kill)
    takers = {e["snapshot"]: e["workload"] for e in group.said("checkpoint valid")}
    check(event["snapshot"] != spoilt["snapshot"] and (takers.get(event["snapshot"], "") != c.name or begun(event) < rogue), "restored from its own: %s", event)
    record = next((s for s in group.snapshots() if s["id"] == spoilt["snapshot"]), {"state": "deleted"})
    check(record["state"] in ("failed", "deleted"), "%s", record)
    wait_until("it serves", c.is_active, 60, 0.02)
    c.http().json("POST", "/add?id=third")
    wait_until("all are the same", lambda: a.list() == b.list() == c.list() == ["first", "second", "third"], 30)
    check(not c.status()["app"]["diverged"], "%s", c.status())
    check(any("diverged" in r["cause"] for r in group.check_restores(event)), "the cause is not noted")


def test_disagreement(bench, rng):
    """Two against each other: nobody is killed, and the operator says so aloud."""
    group = Group(bench, n=2)
    group.start()
    group.wait_active()
    a, b = group.replicas
    b.direct("POST", "/add?id=rogue")
    a.http().json("POST", "/add?id=first")
    event = group.operator.wait_for("ALARM: replicas disagree, and no majority says which is right", 60)
    check(event["level"] == "error" and event["offset"] > 0, "%s", event)
    check(not group.said("kill"), "%s", group.said("kill"))
    wait_until("both say so", lambda: [value for key, value in group.metrics().items() if key.startswith("crsc_operator_disagreement{")] == [1, 1], 60, 0.1)


def test_refused(bench, rng):
    """Two of one stream whose interceptors know nothing of each other: neither is given an app."""
    group = Group(bench, n=2)
    group.start(replication="none")
    for r in group.replicas:
        group.operator.wait_for("the interceptor of one of several replicas must run with --replication log", 60, workload=r.name)
    time.sleep(0.5)
    for r in group.replicas:
        check(r.status()["app"]["identity"] is None, "%s", r.status())


if __name__ == "__main__":
    main([test_rotation, test_operator_killed, test_standby, test_migration, test_migration_given_up, test_diverged, test_disagreement, test_refused])
