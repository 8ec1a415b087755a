#!/usr/bin/env python3
"""Protected pods on two real Kubernetes nodes, with clients that write all the time: the app killed, the pod deleted, the newest checkpoint damaged, the agent
killed, a node cut off, a node lost. After each the app's own list is compared with what clients were told. Writes build/cluster/figures.md.

    tests/cluster/test_cluster.py [--build TREE] [TEST...]

Exit status 77: no cluster can be brought up here, and the last line says why.
"""
import argparse
import json
import os
import signal
import sys
import time
import traceback

from cluster import LOGD, OUT, ROOT, Cluster, Failure, Skip, check, wait_until
from workload import Agent, Clients, Table, Workload, counter, manifest

STREAM = "test/default/deployment/counter"


class World:
    """The cluster with the counter on it, written to by clients, and a first checkpoint."""

    def __init__(self, cluster, table):
        self.cluster, self.table, self.n = cluster, table, 0
        self.workload = Workload(cluster, "counter")
        self.agents = {n.name: Agent(cluster.pki, n) for n in cluster.nodes}
        self.deploy()

    def clients(self):
        return Clients(self.workload)

    def deploy(self):
        self.cluster.apply(manifest("counter", STREAM, counter()))
        pod = self.workload.wait_ready(90)
        check(self.agent(pod).container(pod["metadata"]["name"]), "the pod is ready and its interceptor knows its app")

    def agent(self, pod=None):
        pod = pod or self.workload.wait_ready()
        return self.agents[pod["spec"]["nodeName"]]

    def app(self, pod=None):
        """The container of the app, once its agent tells of it."""
        def look():
            try:
                return self.agent(pod).container()
            except OSError:
                return None
        return wait_until("the app is known", look, 60, pause=0.1)

    def checkpoint(self):
        self.n += 1
        pod = self.workload.wait_ready()
        state = self.agent(pod).checkpoint(STREAM, f"c-{self.n}", "default", pod["metadata"]["name"])
        check(state["phase"] == "valid", "checkpoint: %s", state)
        return state

    def begin(self, before=300, tail=1000):
        """Clients, a checkpoint while they write, and a tail after it."""
        clients = self.clients()
        clients.wait(before)
        state = self.checkpoint()
        clients.wait(tail)
        return clients, state

    def snapshots(self):
        """The log's records of the stream."""
        pki = self.cluster.pki
        out = self.cluster.cp(self.cluster.build.path("crsc-logctl"), "--servers", LOGD, "--tls-ca", pki.at("ca.crt"), "--tls-cert", pki.at("admin.crt"),
                              "--tls-key", pki.at("admin.key"), "--output", "json", "snapshots", STREAM)
        found = json.loads(out)
        return found["snapshots"] if isinstance(found, dict) else found

    def answers(self, agent):
        try:
            return agent.ask("GET", "/healthz")[0] == 200
        except OSError:
            return False

    def layer(self, pod, state):
        """The digest of a checkpoint's one layer."""
        for here, _, files in os.walk(self.workload.node(pod).at("store", "images")):
            if state["digest"][7:] in files:
                with open(os.path.join(here, state["digest"][7:])) as f:
                    return json.load(f)["layers"][0]["digest"][7:]
        raise Failure(f"{state['id']} is not in its node's store")

    def rescheduled(self, old):
        """When a pod other than that of the container `old` is seen to have a node."""
        for pod in self.workload.pods():
            if pod["metadata"]["uid"] != old["pod_uid"] and "nodeName" in pod["spec"]:
                return time.time_ns() // 1000
        return None

    def served(self, old):
        """The container that follows `old`, when its interceptor serves."""
        for agent in self.agents.values():
            try:
                found = agent.container()
            except OSError:  # a lost node's
                continue
            status = found and found["interceptor"]
            if found and found["id"] != old["id"] and status and status["state"] == "active" and status["app"]["identity"] == found["identity"]:
                return found
        return None

    def recovered(self, clients, moment, old, case, timeout=90, same_pod=False):
        """Waits until another container of it is served, writes the row of the table, gives the container."""
        seen = None if same_pod else wait_until(f"{case}: another pod", lambda: self.rescheduled(old), timeout)
        c = wait_until(f"{case}: another container is served", lambda: self.served(old), timeout, pause=0.05)
        clients.wait(200)
        replay, times = c["interceptor"]["replay"], c["interceptor"]["times"]
        began = c["started_us"] - c["criu_us"]
        self.table.add(case, (began - moment[1]) / 1000, c["criu_us"] / 1000, (times["active_us"] - times["attached_us"]) / 1000,
                       (times["active_us"] - moment[1]) / 1000, (times["active_us"] - seen) / 1000 if seen else "", replay["done"] if replay else 0,
                       sum(t > moment[0] for t, _ in clients.errors))
        return c


def now():
    return time.monotonic(), time.time_ns() // 1000


def test_kill_app(w):
    """kill -9 of the app: the kubelet's own restart restores it; no client sees an error."""
    clients, state = w.begin()
    pod = w.workload.wait_ready()
    old = w.app(pod)
    moment = now()
    os.kill(old["pid"], signal.SIGKILL)
    c = w.recovered(clients, moment, old, "app killed", same_pod=True)
    check(c["began"] == "restored" and c["snapshot"] == state["id"] and c["offset"] == state["offset"], "%s", c)
    check(w.workload.wait_ready()["metadata"]["uid"] == pod["metadata"]["uid"], "it is the same pod")
    told = clients.audit()
    check(not clients.refusals(), "clients saw errors: %s", clients.refusals()[:5])
    return f"{told} writes, checkpoint paused {state['pause_ms']:.0f} ms (dump {state['dump_ms']:.0f}), pushed in {state['push_ms']:.0f} ms"


def test_delete_pod(w):
    """The pod deleted: its replacement, on any node, begins with the checkpoint."""
    clients, state = w.begin()
    pod = w.workload.wait_ready()
    old = w.app(pod)
    moment = now()
    w.cluster.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    c = w.recovered(clients, moment, old, "pod deleted")
    check(c["began"] == "restored" and c["snapshot"] == state["id"], "%s", c)
    return f"{clients.audit()} writes"


def test_damaged_newest(w):
    """The newest checkpoint is damaged, on the node and in the registry: the one before it is taken, and the log is told."""
    clients, older = w.begin()
    newest = w.checkpoint()
    clients.wait(300)
    pod = w.workload.wait_ready()
    name, layers = w.layer(pod, newest), 0
    for top in (w.workload.node(pod).at("store", "images"), w.cluster.at("registry")):
        for here, _, files in os.walk(top):  # the store has a file of that name, the registry a folder with "data"
            path = os.path.join(here, name) if name in files else os.path.join(here, "data") if here.endswith(name) and "data" in files else None
            if path:
                with open(path, "r+b") as f:
                    f.seek(os.path.getsize(path) // 2)
                    byte = f.read(1)
                    f.seek(-1, os.SEEK_CUR)
                    f.write(bytes([byte[0] ^ 1]))
                layers += 1
    check(layers == 2, "a byte of the newest is changed here and there: %d", layers)
    check(w.agent(pod).ask("POST", f"/v1/checkpoints/{newest['id']}/verify?stream={STREAM}")[1]["ok"] is False, "verify sees it")
    old = w.app(pod)
    moment = now()
    w.cluster.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    c = w.recovered(clients, moment, old, "newest damaged")
    check(c["began"] == "restored" and c["snapshot"] == older["id"], "%s", c)
    told = clients.audit()
    states = {s["id"]: s["state"] for s in w.snapshots()}
    check(states[newest["id"]] == "failed" and states[older["id"]] == "valid", "%s", states)
    return f"{told} writes"


def test_kill_agent(w):
    """The agent killed in each phase of a checkpoint: requests go on, and the next checkpoint and restore work; the app killed while the agent is away starts
    fresh, and the whole log is replayed."""
    clients = w.clients()
    clients.wait(300)
    pod = w.workload.wait_ready()
    node = w.workload.node(pod)
    for phase in ("draining", "dumping", "packing", "recording"):
        w.n += 1
        name = f"c-{w.n}"
        w.agent(pod).checkpoint(STREAM, name, "default", pod["metadata"]["name"], wait=False)
        deadline = time.monotonic() + 2
        while w.agent(pod).get(f"/v1/checkpoints/{name}?stream={STREAM}")["phase"] != phase and time.monotonic() < deadline:
            pass
        node.parts.pop("agent").end(signal.SIGKILL)
        node.start_agent()
        wait_until("the agent is back", lambda: w.answers(w.agent(pod)), 20)
        clients.wait(100)
    wait_until("no checkpoint is left half-way", lambda: not [s for s in w.snapshots() if s["state"] == "taking"], 30, pause=0.2)
    w.checkpoint()
    old = w.app(pod)
    node.parts.pop("agent").end(signal.SIGKILL)
    moment = now()
    os.kill(old["pid"], signal.SIGKILL)
    wait_until("the kubelet has started it again", lambda: any(
        s["restartCount"] > 0 and "running" in s["state"] for p in w.workload.pods() for s in p["status"].get("containerStatuses", [])
        if s["name"] == "app" and old["id"] not in s.get("containerID", "")), 90, pause=0.2)
    node.start_agent()
    c = w.recovered(clients, moment, old, "app killed, agent away", same_pod=True)
    check(c["began"] == "fresh" and c["offset"] == 0, "%s", c)
    return f"{clients.audit()} writes"


def test_api(w):
    """Who may do what; idempotence; what is refused."""
    agent = w.agent()
    pod = w.workload.wait_ready()["metadata"]["name"]
    check(agent.get("/v1/node")["backend"] == "runtime", "%s", agent.get("/v1/node"))
    check(Agent(w.cluster.pki, agent.node, None).ask("GET", "/healthz")[0] == 200, "health needs no certificate")
    check(Agent(w.cluster.pki, agent.node, None).ask("GET", "/v1/containers")[0] == 403, "the rest does")
    check(Agent(w.cluster.pki, agent.node, "agent-n1").ask("GET", "/v1/containers")[0] == 403, "an agent is no operator")
    check(Agent(w.cluster.pki, agent.node, "admin").ask("PUT", f"/v1/checkpoints/x?stream={STREAM}", {"namespace": "default", "pod": pod})[0] == 403, "nor is a stranger")
    for body, status in (({"namespace": "default", "pod": "nobody"}, 404), ({"namespace": "default"}, 400),
                         ({"namespace": "default", "pod": pod, "pod_uid": "other"}, 409)):
        check(agent.ask("PUT", f"/v1/checkpoints/y?stream={STREAM}", body)[0] == status, "%s", body)
    check(agent.ask("PUT", f"/v1/checkpoints/A_B?stream={STREAM}", {"namespace": "default", "pod": pod})[0] == 400, "no id")
    state = w.checkpoint()
    again = agent.ask("PUT", f"/v1/checkpoints/{state['id']}?stream={STREAM}", {"namespace": "default", "pod": pod})
    check(again[0] == 200 and again[1]["digest"] == state["digest"], "the same again: %s", again)
    check(agent.ask("POST", f"/v1/checkpoints/{state['id']}/verify?stream={STREAM}")[1] == {"ok": True}, "it is whole")
    # a peer has it without the registry
    peer = next(a for a in w.agents.values() if a is not agent)
    asked = {"stream": STREAM, "id": state["id"], "image": "", "digest": state["digest"], "from": [f"https://{agent.node.address}:7443"]}
    check(peer.ask("POST", "/v1/prefetch", asked)[0] == 202, "prefetch")
    check(peer.ended(STREAM, state["id"])["digest"] == state["digest"], "fetched from the peer")
    check(peer.ask("POST", f"/v1/checkpoints/{state['id']}/verify?stream={STREAM}")[1] == {"ok": True}, "and whole there")
    path = f"/v1/checkpoints/{state['id']}?stream={STREAM}"
    check(peer.ask("DELETE", path)[0] == 200 and peer.ask("GET", path)[0] == 404, "removed")
    return "certificates, ids, peers"


def test_template_changed(w):
    """A rollout: no old checkpoint; the new pods begin with the log alone."""
    clients, _ = w.begin(tail=100)
    old = w.app()
    moment = now()
    w.cluster.apply(manifest("counter", STREAM, counter(), template=f"t{w.n}"))
    c = w.recovered(clients, moment, old, "template changed")
    check(c["began"] == "fresh" and "template" in c["reason"], "%s", c)
    return f"{clients.audit()} writes"


def test_cut_node(w):
    """The node of the pod is cut off and comes back: the replacement goes on, the old one is fenced."""
    clients, state = w.begin()
    pod = w.workload.wait_ready()
    node = w.workload.node(pod)
    old = w.app(pod)
    moment = now()
    node.cut()
    try:
        c = w.recovered(clients, moment, old, "node cut off", 120)
        check(c["snapshot"] == state["id"] and c["began"] == "restored", "%s", c)
    finally:
        node.mend()
    wait_until("the old pod is gone", lambda: not [p for p in w.cluster.get("pods", "-l", "app=counter")["items"]
                                                  if p["metadata"]["uid"] == pod["metadata"]["uid"]], 90, pause=0.2)
    return f"{clients.audit()} writes"


def test_lost_node(w):
    """The node of the pod is lost for good, kubelet, containers and agent: the replacement on the other node begins with the checkpoint from the registry."""
    clients, state = w.begin()
    pod = w.workload.wait_ready()
    old = w.app(pod)
    moment = now()
    w.workload.node(pod).lose()
    c = w.recovered(clients, moment, old, "node lost", 120)
    check(c["began"] == "restored" and c["snapshot"] == state["id"], "%s", c)
    return f"{clients.audit()} writes"


# the node's loss is last: it does not come back
TESTS = [test_kill_app, test_delete_pod, test_damaged_newest, test_kill_agent, test_api, test_template_changed, test_cut_node, test_lost_node]


def main(text, tests, make_cluster, make_world, figures, order=lambda wanted: wanted):
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=os.environ.get("CRSC_BUILD", os.path.join(ROOT, "build", "release")))
    parser.add_argument("test", nargs="*", help="only these: " + " ".join(t.__name__.removeprefix("test_") for t in tests))
    args = parser.parse_args()
    wanted = [t for t in tests if not args.test or t.__name__.removeprefix("test_") in args.test]
    if not wanted:
        print("none of its tests is called that")
        sys.exit(0)
    wanted = order(wanted)

    def stop(number, frame):
        raise SystemExit(128 + number)
    signal.signal(signal.SIGTERM, stop)
    failed, table = 0, Table()
    try:
        with make_cluster(args.build, lambda said: print(said, flush=True)) as cluster:
            cluster.enter()
            world = make_world(cluster, table)
            for test in wanted:
                name, begun = test.__name__.removeprefix("test_"), time.monotonic()
                try:
                    said = test(world)
                    print(f"ok      {name}  {time.monotonic() - begun:.1f} s: {said}", flush=True)
                except Exception as why:  # a failure, or something that the case itself did not expect
                    failed += 1
                    print(f"FAILED  {name}  {time.monotonic() - begun:.1f} s: {why if isinstance(why, Failure) else repr(why)}", flush=True)
                    traceback.print_exc(file=sys.stdout)
                    cluster.keep_logs()
                    break  # what follows would begin with a broken world
    except Skip as why:
        print(f"skipped: {why}")
        sys.exit(77)
    table.write(figures)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main(__doc__, TESTS, lambda build, say: Cluster(build, 2, say=say), World, os.path.join(OUT, "figures.md"))
