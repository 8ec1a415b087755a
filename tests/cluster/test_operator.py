#!/usr/bin/env python3
"""CRSC installed on two real Kubernetes nodes, and a Deployment annotated with kubectl: its app killed, its pod deleted, its node cut off and lost, operator, agents
and the log's leader killed during each step of a checkpoint and of a recovery, rollouts, a crash loop, and the end of protection. Clients write all the time;
after each case the app's own list is compared with what they were told. Writes build/cluster/figures-operator.md.

    tests/cluster/test_operator.py [--build TREE] [TEST...]      `annotate` comes first in any case

Exit status 77: no cluster can be brought up here, and the last line says why.
"""
import http.client
import json
import os
import re
import signal
import threading
import time

import test_cluster
from cluster import OUT, REGISTRY, ROOT, check, wait_until
from installed import Installed
from test_cluster import now
from workload import Agent, Clients, Table, Workload

STREAM = "kubernetes/default/deployment/counter"
PORT = 15020  # the interceptor's: where the Service leads while it is protected
PHASES = ("draining", "dumping", "packing", "pushing", "recording")


class World(test_cluster.World):
    def __init__(self, cluster, table):
        self.cluster, self.table, self.n = cluster, table, 0
        self.workload = Workload(cluster, "counter")
        self.agents = {n.name: Agent(cluster.tls, n) for n in cluster.nodes}

    def kubectl(self, words, **more):
        return self.cluster.kubectl(*words.split(), **more)

    def clients(self):
        return Clients(self.workload, port=PORT)

    def record(self, name="counter"):
        return next((r for r in self.cluster.api.list("protectedworkloads") if r["metadata"]["name"] == name), {})

    def wait_phase(self, phase, name="counter", timeout=120):
        wait_until(f"{name} is {phase}", lambda: self.record(name).get("status", {}).get("phase") == phase, timeout, pause=0.1)

    def checkpoints(self):
        return {c["metadata"]["name"]: c for c in self.cluster.api.list("checkpoints")}

    def ask_checkpoint(self):
        self.n += 1
        name = f"c-{self.n}"
        status, answer = self.cluster.api.call("POST", "/apis/crsc.io/v1alpha1/namespaces/default/checkpoints", {
            "apiVersion": "crsc.io/v1alpha1", "kind": "Checkpoint", "metadata": {"name": name}, "spec": {"workload": "counter"}})
        check(status == 201, "%d %s", status, answer)  # not by kubectl: tests are there while it is being taken
        return name

    def checkpoint_ended(self, name, timeout=120):
        status = wait_until(f"checkpoint {name} ends", lambda: next((s for s in [self.checkpoints()[name].get("status", {})]
                                                                    if s.get("phase") in ("Valid", "Failed")), None), timeout, pause=0.1)
        return {"id": name, "offset": status.get("offset", 0), "pause_ms": status.get("pauseMilliseconds", 0), "digest": status.get("digest", ""), **status}

    def checkpoint(self):
        state = self.checkpoint_ended(self.ask_checkpoint())
        check(state["phase"] == "Valid", "checkpoint: %s", state)
        return state

    def wish(self, kind, name, spec):
        self.cluster.apply({"apiVersion": "crsc.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})

    def wished(self, kinds, name):
        """How it ended."""
        return wait_until(f"{name} ends", lambda: next((o["status"] for o in self.cluster.api.list(kinds) if o["metadata"]["name"] == name
                                                       and o.get("status", {}).get("phase") in ("Done", "Failed")), None), 60, pause=0.2)

    def snapshots(self):
        found = json.loads(self.cluster.logctl("snapshots", STREAM))
        return found["snapshots"] if isinstance(found, dict) else found

    def store(self, node):
        return f"/proc/{node.parts['view'].pid}/root/var/lib/crsc/images"

    def restored(self, clients, moment, old, case, **more):
        """A recovery from a checkpoint, audited."""
        c = self.recovered(clients, moment, old, case, 150, **more)
        check(c["began"] == "restored", "%s: %s", case, c)
        return c


def test_annotate(w):
    """kubectl annotate, and nothing else: the Deployment is rolled out with the interceptor, its Service leads there, checkpoints are taken by themselves."""
    w.kubectl(f"create deployment counter --image={REGISTRY}/counter:1 --port=8080 -- /counter --listen 0.0.0.0:8080")
    w.kubectl("patch deployment counter --type=merge -p "
              + json.dumps({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 2}}}}, separators=(",", ":")))
    w.kubectl("expose deployment counter --port=80 --target-port=8080")
    w.workload.wait_ready(120)
    w.kubectl("annotate deployment/counter crsc.io/checkpoint-restore=true crsc.io/checkpoint-interval=2s")
    w.wait_phase("Protected")
    pod = wait_until("only the new pod is left", lambda: (lambda all: all[0] if len(all) == 1 else None)(w.workload.pods()), 90, pause=0.2)
    check([c["name"] for c in pod["spec"]["initContainers"]] == ["crsc-interceptor"] and pod["spec"]["runtimeClassName"] == "crsc", "injected: %s", pod["spec"])
    wait_until("the Service leads to the interceptor", lambda: w.cluster.get("service", "counter")["spec"]["ports"][0]["targetPort"] == "crsc-data", 30, pause=0.2)
    clients = w.clients()
    clients.wait(200)
    wait_until("a checkpoint is taken", lambda: any(c.get("status", {}).get("phase") == "Valid" for c in w.checkpoints().values()), 90, pause=0.2)
    w.kubectl("annotate deployment/counter --overwrite crsc.io/checkpoint-interval=1h")
    told = clients.audit()
    print(w.kubectl("get protectedworkloads"), end="", flush=True)
    return f"{told} writes"


def test_kill_app(w):
    """kill -9 of the app: the kubelet's own restart restores it; no client sees an error."""
    clients, state = w.begin()
    pod = w.workload.ready()
    old = w.agent(pod).container()
    moment = now()
    os.kill(old["pid"], signal.SIGKILL)
    c = w.restored(clients, moment, old, "app killed", same_pod=True)
    check(c["snapshot"] == state["id"] and c["pod_uid"] == pod["metadata"]["uid"], "%s", c)
    told = clients.audit()
    check(not clients.errors, "clients saw errors: %s", clients.errors[:5])
    wait_until("it is noted", lambda: any(r.get("status", {}).get("checkpoint") == state["id"] for r in w.cluster.api.list("restores")), 30, pause=0.2)
    return f"{told} writes, checkpoint paused {state['pause_ms']} ms"


def test_delete_pod(w):
    clients, state = w.begin()
    pod = w.workload.ready()
    old = w.agent(pod).container()
    moment = now()
    w.cluster.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    check(w.restored(clients, moment, old, "pod deleted")["snapshot"] == state["id"], "the newest")
    return f"{clients.audit()} writes"


def test_damaged_newest(w):
    """The newest checkpoint is damaged on the node and in the registry: the one before it is taken, and the log is told."""
    clients, older = w.begin()
    newest = w.checkpoint()
    clients.wait(300)
    pod = w.workload.ready()
    damaged = 0
    digest = newest["digest"][7:]
    blobs = os.path.join(w.cluster.at("registry"), "docker", "registry", "v2", "blobs", "sha256")
    with open(os.path.join(blobs, digest[:2], digest, "data")) as f:
        layer = json.load(f)["layers"][0]["digest"][7:]
    for top in (w.store(w.workload.node(pod)), blobs):
        for here, _, files in os.walk(top):
            path = os.path.join(here, layer) if layer in files else os.path.join(here, "data") if here.endswith(layer) and "data" in files else None
            if path:
                with open(path, "r+b") as f:
                    f.seek(os.path.getsize(path) // 2)
                    byte = f.read(1)
                    f.seek(-1, os.SEEK_CUR)
                    f.write(bytes([byte[0] ^ 1]))
                damaged += 1
    check(damaged == 2, "a byte is changed here and there: %d", damaged)
    old = w.agent(pod).container()
    moment = now()
    w.cluster.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    check(w.restored(clients, moment, old, "newest damaged")["snapshot"] == older["id"], "the one before")
    told = clients.audit()
    states = {s["id"]: s["state"] for s in w.snapshots()}
    check(states[newest["id"]] == "failed" and states[older["id"]] == "valid", "%s", states)
    return f"{told} writes"


def test_no_operator(w):
    """The pod deleted while there is no operator: its replacement starts without an interceptor. Once an operator is there again, it is made anew, and restored."""
    clients, state = w.begin()
    pod = w.workload.ready()
    old = w.agent(pod).container()
    w.kubectl("scale deployment/crsc-operator -n crsc-system --replicas=0")
    wait_until("no operator is left", lambda: not w.cluster.programs("crsc-operator"), 60, pause=0.2)
    moment = now()
    w.cluster.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    wait_until("a pod without an interceptor", lambda: [p for p in w.workload.pods() if "initContainers" not in p["spec"]], 60, pause=0.2)
    w.kubectl("scale deployment/crsc-operator -n crsc-system --replicas=2")
    check(w.restored(clients, moment, old, "pod deleted, no operator")["snapshot"] == state["id"], "the newest")
    w.cluster.wait_ready()
    return f"{clients.audit()} writes"


def test_by_hand(w):
    """A Migration to the other node, then a Restore of a checkpoint that is not the newest: both are carried out, and the state is complete."""
    clients, older = w.begin()
    pod = w.workload.ready()
    old = w.agent(pod).container()
    to = next(n.name for n in w.cluster.nodes if n.name != pod["spec"]["nodeName"])
    moment = now()
    w.wish("Migration", "to-there", {"workload": "counter", "node": to})
    c = w.restored(clients, moment, old, "migration")
    check(c["offset"] >= older["offset"] and w.wished("migrations", "to-there")["phase"] == "Done", "%s", c)
    check(w.workload.wait_ready()["spec"]["nodeName"] == to, "it is there")
    clients.audit()
    clients = w.clients()
    clients.wait(100)
    w.checkpoint()
    old = w.agent().container()
    moment = now()
    w.wish("Restore", "back", {"workload": "counter", "checkpoint": older["id"]})
    check(w.restored(clients, moment, old, "restore by hand")["snapshot"] == older["id"], "the one that was asked for")
    check(w.wished("restores", "back")["phase"] == "Done", "it is noted")
    return f"{clients.audit()} writes"


VICTIMS = ("operator", "agent", "logd")


def test_killed_in_checkpoints(w):
    """The leading operator, the agents, the log's leader killed in each step of a checkpoint: it ends one way or the other, requests go on, the next one is valid."""
    clients = w.clients()
    clients.wait(200)
    ended = {}
    for victim in VICTIMS:
        for phase in PHASES:
            pod = w.workload.wait_ready()
            name = w.ask_checkpoint()
            deadline, seen = time.monotonic() + 30, "none"
            while time.monotonic() < deadline:
                try:
                    status, state = w.agent(pod).ask("GET", f"/v1/checkpoints/{name}?stream={STREAM}", timeout=2)
                except OSError:
                    continue
                seen = state["phase"] if status == 200 else "none"
                if seen in ("valid", "failed") or (status == 200 and PHASES.index(seen) >= PHASES.index(phase)):
                    break
            w.cluster.kill_leader(victim)
            clients.wait(50, 90)
            how = w.checkpoint_ended(name, 240)["phase"]
            ended[f"{victim} killed while {seen}: {how}"] = ended.get(f"{victim} killed while {seen}: {how}", 0) + 1
            print(f"  {victim} killed while {seen}: {how}", flush=True)
        wait_until("an agent answers", lambda: w.answers(w.agent()), 60, pause=0.2)
        wait_until("no checkpoint is left half-way", lambda: not [s for s in w.snapshots() if s["state"] == "taking"], 60, pause=0.2)
        w.checkpoint()
    return f"{clients.audit()} writes; {len(ended)} outcomes"


def test_killed_in_recoveries(w):
    """The app and, at once or a moment later, the leading operator, the agents, or the log's leader are killed: its state comes back."""
    clients, _ = w.begin()
    for victim in VICTIMS:
        for pause in (0.0, 0.7):
            wait_until(f"there is a {victim} to be killed", lambda: w.cluster.victims(victim), 60, pause=0.2)
            old = wait_until("the app is known", lambda: w.agent().container(), 60, pause=0.1)
            moment = now()
            os.kill(old["pid"], signal.SIGKILL)
            time.sleep(pause)
            w.cluster.kill_leader(victim)
            w.recovered(clients, moment, old, f"app killed, {victim} {pause:g} s later", 150, same_pod=True)
            wait_until("an agent answers", lambda: w.answers(w.agent()), 60, pause=0.2)
    return f"{clients.audit()} writes"


def test_rollout(w):
    """kubectl rollout restart keeps the state; scaled to none and back it is there; another template gets the whole log."""
    clients, _ = w.begin()
    old = w.agent().container()
    moment = now()
    w.kubectl("rollout restart deployment/counter")
    w.restored(clients, moment, old, "rollout restart")
    clients.audit()
    w.checkpoint()
    old = w.agent().container()
    w.kubectl("scale deployment/counter --replicas=0")
    wait_until("no pod is left", lambda: not w.cluster.get("pods", "-l", "app=counter")["items"], 60, pause=0.2)
    moment = now()
    w.kubectl("scale deployment/counter --replicas=1")
    w.workload.wait_ready(120)
    clients = w.clients()
    w.restored(clients, moment, old, "scaled to 0 and to 1", same_pod=True)
    clients.audit()
    clients = w.clients()
    clients.wait(100)
    old = w.agent().container()
    moment = now()
    w.kubectl("set env deployment/counter VERSION=2")
    c = w.recovered(clients, moment, old, "another template", 150)
    check(c["began"] == "fresh" and "template" in c["reason"], "%s", c)
    return f"{clients.audit()} writes"


def test_upgrade(w):
    """New images of operator and agents, the objects applied again: requests go on, the protected pod keeps its interceptor, and is restored by the new agent."""
    clients, state = w.begin()
    pod = w.workload.ready()
    w.cluster.push_programs("0.1.1")
    w.cluster.install("0.1.1")
    w.cluster.wait_ready("0.1.1")
    check(w.workload.ready()["metadata"]["uid"] == pod["metadata"]["uid"] and not clients.errors, "nobody noticed: %s", clients.errors[:3])
    old = wait_until("the new agent knows the app", lambda: w.agent().container(), 60, pause=0.2)
    moment = now()
    os.kill(old["pid"], signal.SIGKILL)
    check(w.restored(clients, moment, old, "upgraded, then app killed", same_pod=True)["snapshot"] == state["id"], "the newest")
    return f"{clients.audit()} writes"


class Pusher(threading.Thread):
    """Pushes a value after the other to a Pushgateway at that address; each must be answered, in the end."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self.address, self.ended, self.pushed, self.errors = address, threading.Event(), 0, []
        self.start()

    def run(self):
        connection = http.client.HTTPConnection(self.address, PORT, timeout=60)
        while not self.ended.is_set():
            n = self.pushed + 1
            try:
                connection.request("PUT", f"/metrics/job/demo/instance/{n}", f"demo_value {n}\n")
                answer = connection.getresponse()
                answer.read()
                if answer.status in (200, 202):  # 202: it does not check what was pushed
                    self.pushed = n
                else:
                    self.errors.append(str(answer.status))
            except (OSError, http.client.HTTPException) as e:
                self.errors.append(f"{n}: {e}")
                connection.close()

    def stop(self):
        self.ended.set()
        self.join(60)
        check(not self.is_alive(), "a push still waits for its answer")
        return self.pushed


def test_pushgateway(w):
    """An app of others, Prometheus' Pushgateway: its container killed under load comes back with all that was pushed to it, each once."""
    w.cluster.cp(os.path.join(ROOT, "deploy", "images", "all"), "--push", f"http://{REGISTRY}", "--tag", "1", "pushgateway")
    w.kubectl(f"create deployment pushgateway --image={REGISTRY}/pushgateway:1 --port=9091 -- /usr/bin/prometheus-pushgateway --web.listen-address=0.0.0.0:9091 "
              "--push.disable-consistency-check --log.level=error")
    w.kubectl("annotate deployment/pushgateway crsc.io/checkpoint-restore=true crsc.io/checkpoint-interval=2s")
    w.wait_phase("Protected", "pushgateway")
    there = Workload(w.cluster, "pushgateway")
    pod = wait_until("only the new pod is left", lambda: (lambda all: all[0] if len(all) == 1 else None)(there.pods()), 90, pause=0.2)
    pusher = Pusher(there.wait_ready(60)["status"]["podIP"])
    wait_until("a checkpoint is taken", lambda: any(c["spec"]["workload"] == "pushgateway" and c.get("status", {}).get("phase") == "Valid"
                                                    for c in w.checkpoints().values()), 90, pause=0.2)
    w.kubectl("annotate deployment/pushgateway --overwrite crsc.io/checkpoint-interval=1h")
    wait_until("500 more pushes", lambda before=pusher.pushed: pusher.pushed >= before + 500, 60)
    agent = w.agents[pod["spec"]["nodeName"]]
    old = agent.container(pod["metadata"]["name"])
    os.kill(old["pid"], signal.SIGKILL)

    def served():
        found = agent.container(pod["metadata"]["name"])
        return found if found and found["id"] != old["id"] and found["interceptor"]["state"] == "active" else None
    c = wait_until("another container is served", served, 90, pause=0.05)
    check(c["began"] == "restored", "%s", c)
    wait_until("pushes go on", lambda before=pusher.pushed: pusher.pushed > before + 50, 60)
    pushed = pusher.stop()
    check(not pusher.errors, "%s", pusher.errors[:3])
    connection = http.client.HTTPConnection(pusher.address, PORT, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = dict(re.findall(r'^demo_value\{instance="(\d+)",job="demo"\} (\d+)$', text, re.M))
    check(found == {str(n): str(n) for n in range(1, pushed + 1)}, "%d of %d values are there", len(found), pushed)
    count = re.search(r'^pushgateway_http_push_duration_seconds_count\{method="put"\} (\d+)$', text, re.M)
    check(int(count[1]) == pushed, "%s pushes were executed, of %d", count[1], pushed)
    w.kubectl("delete deployment pushgateway")
    wait_until("nothing is left of it", lambda: not w.record("pushgateway") and not w.cluster.get("pods", "-l", "app=pushgateway")["items"], 120, pause=0.2)
    replay, times = c["interceptor"]["replay"], c["interceptor"]["times"]
    return f"{pushed} pushes, {replay['done']} of them replayed; answering again {(times['active_us'] - times['lost_us']) / 1000:.0f} ms after its death was seen"


class OfItsOwn(Clients):
    """Of an app that the clients of the other cases do not know."""

    earlier = []


def only_pod(workload, injected):
    """Its pod, when no other is left; with an interceptor or without."""
    def look():
        pods = workload.pods()
        return pods[0] if len(pods) == 1 and ("initContainers" in pods[0]["spec"]) is injected and workload.ready() else None
    return wait_until(f"only a pod of {workload.name} {'with' if injected else 'without'} an interceptor is left", look, 120, pause=0.2)


def test_redirect(w):
    """crsc.io/traffic: redirect: whoever calls the pod at the app's own port is served by the interceptor, through the death of the app too; the kubelet's probe goes
    past it, the Service stays as it is; undone with the annotation."""
    app = {"name": "app", "image": f"{REGISTRY}/counter:1", "args": ["--listen", "0.0.0.0:8080"], "ports": [{"containerPort": 8080}],
           "livenessProbe": {"httpGet": {"path": "/count", "port": 8080}, "periodSeconds": 1}}
    service = [{"port": 80, "protocol": "TCP", "targetPort": 8080}]
    w.cluster.apply(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "led"}, "spec": {
            "selector": {"matchLabels": {"app": "led"}},
            "template": {"metadata": {"labels": {"app": "led"}}, "spec": {"terminationGracePeriodSeconds": 2, "containers": [app]}}}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "led"}, "spec": {"selector": {"app": "led"}, "ports": service}})
    w.kubectl("annotate deployment/led crsc.io/checkpoint-restore=true crsc.io/checkpoint-interval=2s crsc.io/traffic=redirect")
    w.wait_phase("Protected", "led")
    led = Workload(w.cluster, "led")
    pod = only_pod(led, True)
    agent = w.agents[pod["spec"]["nodeName"]]
    clients = OfItsOwn(led, port=8080)
    clients.wait(300)
    wait_until("a checkpoint is taken", lambda: any(c["spec"]["workload"] == "led" and c.get("status", {}).get("phase") == "Valid"
                                                    for c in w.checkpoints().values()), 90, pause=0.2)
    w.kubectl("annotate deployment/led --overwrite crsc.io/checkpoint-interval=1h")
    clients.wait(300)
    old = agent.container(pod["metadata"]["name"])
    os.kill(old["pid"], signal.SIGKILL)

    def served():
        found = agent.container(pod["metadata"]["name"])
        return found if found and found["id"] != old["id"] and found["interceptor"]["state"] == "active" else None
    c = wait_until("another container is served", served, 90, pause=0.05)
    check(c["began"] == "restored", "%s", c)
    clients.wait(200)
    told = clients.audit()
    check(not clients.errors, "clients saw errors: %s", clients.errors[:5])
    check(agent.container(pod["metadata"]["name"])["interceptor"]["offsets"]["executed"] >= told, "every one of them is in the log")
    connection = http.client.HTTPConnection(clients.address, 15023, timeout=10)
    connection.request("GET", "/count")
    check(connection.getresponse().status == 200, "past the interceptor")
    connection.close()
    now_there = only_pod(led, True)
    restarts = [s["restartCount"] for s in now_there["status"]["containerStatuses"] if s["name"] == "app"]
    check(now_there["metadata"]["uid"] == pod["metadata"]["uid"] and restarts == [1], "the probe has not killed it: %s", restarts)
    check([{k: p[k] for k in service[0]} for p in w.cluster.get("service", "led")["spec"]["ports"]] == service, "the Service was touched")
    w.kubectl("annotate deployment/led crsc.io/checkpoint-restore- crsc.io/checkpoint-interval- crsc.io/traffic-")
    wait_until("nothing of ours is left of it", lambda: not w.record("led"), 120, pause=0.2)
    pod = only_pod(led, False)
    check(not w.cluster.get("deployment", "led")["spec"]["template"]["spec"].get("schedulingGates"), "the template is as it was")
    connection = http.client.HTTPConnection(pod["status"]["podIP"], 8080, timeout=10)
    connection.request("GET", "/list")
    answer = connection.getresponse()
    check(answer.status == 200 and not answer.read(), "its own app answers, and knows nothing")
    connection.close()
    w.kubectl("delete deployment,service led")
    wait_until("it is gone", lambda: not w.cluster.get("pods", "-l", "app=led")["items"], 60, pause=0.2)
    return f"{told} writes through port 8080"


def test_crash_loop(w):
    """A request that kills the app, and so does each replay of it: the workload comes to say CrashLoop, and its pods are not replaced for ever."""
    w.kubectl(f"create deployment doomed --image={REGISTRY}/counter:1 --port=8080 -- /counter --listen 0.0.0.0:8080")
    w.kubectl("annotate deployment/doomed crsc.io/checkpoint-restore=true")
    w.wait_phase("Protected", "doomed")
    doomed = Workload(w.cluster, "doomed")
    wait_until("only the new pod is left", lambda: (lambda all: len(all) == 1 and "initContainers" in all[0]["spec"])(doomed.pods()), 90, pause=0.2)
    connection = http.client.HTTPConnection(doomed.wait_ready(60)["status"]["podIP"], PORT, timeout=5)
    try:
        connection.request("POST", "/crash")
        connection.getresponse()
    except OSError:
        pass
    w.wait_phase("CrashLoop", "doomed", 240)
    conditions = {c["type"]: c for c in w.record("doomed")["status"]["conditions"]}
    check(conditions["CrashLoop"]["status"] == "True" and conditions["Ready"]["status"] == "False", "%s", conditions)
    replaced = len(w.record("doomed")["status"]["replacedAt"])
    check(replaced == 3, "%d pods were replaced", replaced)
    print(w.kubectl("get protectedworkloads"), end="", flush=True)
    w.kubectl("delete deployment doomed")
    wait_until("nothing is left of it", lambda: not w.record("doomed"), 120, pause=0.2)
    return "3 pods replaced, then CrashLoop"


def test_cut_node(w):
    """The node of the pod is cut off and comes back: the replacement goes on, the old one is fenced and ends."""
    clients, state = w.begin()
    pod = w.workload.ready()
    node = w.workload.node(pod)
    old = w.agent(pod).container()
    moment = now()
    node.cut()
    try:
        check(w.restored(clients, moment, old, "node cut off")["snapshot"] == state["id"], "the newest")
    finally:
        node.mend()
    wait_until("the old pod is gone", lambda: not [p for p in w.cluster.get("pods", "-l", "app=counter")["items"]
                                                  if p["metadata"]["uid"] == pod["metadata"]["uid"]], 90, pause=0.2)
    return f"{clients.audit()} writes"


def test_lost_node(w):
    """The node of the pod is lost for good: the replacement on the other node begins with the checkpoint from the registry."""
    clients, state = w.begin()
    pod = w.workload.ready()
    old = w.agent(pod).container()
    moment = now()
    w.workload.node(pod).lose()
    check(w.restored(clients, moment, old, "node lost")["snapshot"] == state["id"], "the newest")
    return f"{clients.audit()} writes"


def test_end(w):
    """The annotation taken away: the pods lose the interceptor, the Service leads back, checkpoints and their images go, nothing of ours is left."""
    w.kubectl("annotate deployment/counter crsc.io/checkpoint-restore- crsc.io/checkpoint-interval-")
    wait_until("nothing of ours is left", lambda: not w.cluster.api.list("protectedworkloads") and not w.checkpoints(), 180, pause=0.2)
    check(w.cluster.get("service", "counter")["spec"]["ports"][0]["targetPort"] == 8080, "the Service leads to the app")
    template = w.cluster.get("deployment", "counter")["spec"]["template"]
    check(not [a for a in template["metadata"].get("annotations", {}) if a.startswith("crsc.io/")], "%s", template["metadata"])
    wait_until("only a pod without an interceptor is left", lambda: w.workload.ready() and not [p for p in w.workload.pods() if "initContainers" in p["spec"]],
               90, pause=0.2)
    tags = os.path.join(w.cluster.at("registry"), "docker", "registry", "v2", "repositories", "checkpoints", STREAM, "_manifests", "tags")
    left = [t for t in (os.listdir(tags) if os.path.isdir(tags) else []) if os.path.exists(os.path.join(tags, t, "current", "link"))]
    return f"tags left in the registry: {len(left)}"


def test_uninstall(w):
    """Everything of ours is deleted, as docs/KUBERNETES.md says: nothing is left in the cluster, and the app goes on."""
    app = w.workload.wait_ready()
    for node in w.cluster.get("nodes")["items"]:  # one that is lost for good, with pods that nobody else can end
        if not any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"]):
            w.kubectl(f"delete node {node['metadata']['name']}")
    w.cluster.uninstall()
    w.kubectl("delete secret crsc-log --ignore-not-found")
    left = w.kubectl("get all,secrets,serviceaccounts,leases -n crsc-system -o name", check_status=False).split()
    left += [line for line in w.kubectl("get crds,clusterroles,clusterrolebindings,mutatingwebhookconfigurations,runtimeclasses,namespaces -o name").split() if "crsc" in line]
    check(not left, "left: %s", left)
    check(w.workload.ready()["metadata"]["uid"] == app["metadata"]["uid"], "the app was touched")
    return "nothing left"


# a node's loss comes late: it does not come back
TESTS = [test_annotate, test_kill_app, test_delete_pod, test_damaged_newest, test_no_operator, test_by_hand, test_killed_in_checkpoints, test_killed_in_recoveries, test_rollout,
         test_upgrade, test_pushgateway, test_redirect, test_crash_loop, test_cut_node, test_lost_node, test_end, test_uninstall]


def first(wanted):
    return wanted if wanted[:1] == [test_annotate] else [test_annotate, *wanted]


if __name__ == "__main__":
    test_cluster.main(__doc__, TESTS, lambda build, say: Installed(build, 2, say=say), World, os.path.join(OUT, "figures-operator.md"), first)
