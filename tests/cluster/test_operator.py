#!/usr/bin/env python3
"""CRSC installed on two real Kubernetes nodes, and a Deployment annotated with kubectl: its app killed, its pod deleted, its node cut off and lost, operator, agents
and the log's leader killed during each step of a checkpoint and of a recovery, rollouts, a crash loop, and the end of protection. Clients write all the time;
after each case the app's own list is compared with what they were told. Writes build/cluster/figures-operator.md.

    tests/cluster/test_operator.py [--build TREE] [TEST...]      `annotate` comes first in any case, `end` and `uninstall` before `helm`

Exit status 77: no cluster can be brought up here, and the last line says why.
"""
import json
import os
import signal
import time

import test_cluster
from cluster import BIN, OUT, REGISTRY, ROOT, check, sh, wait_until
from installed import SPACE, Installed
from operator_apps import test_crash_loop, test_pushgateway, test_redirect, test_refused, test_replicas, test_tls
from operator_kubelet import test_kubelet_backend
from operator_standby import test_standby
from operator_world import STREAM, World, only_pod
from test_cluster import now

PHASES = ("draining", "dumping", "packing", "pushing", "recording")
ORDER = ("copying", *PHASES)


def test_annotate(w):
    """kubectl annotate, and nothing else: the Deployment is rolled out with the interceptor, its Service leads there, checkpoints are taken by themselves."""
    w.create_counter("counter")
    w.kubectl("expose deployment counter --port=80 --target-port=8080")
    w.workload.wait_ready(120)
    w.kubectl("annotate deployment/counter crsc.io/checkpoint-restore=true crsc.io/checkpoint-interval=2s")
    w.wait_phase("Protected")
    pod = only_pod(w.workload, True)
    check([c["name"] for c in pod["spec"]["initContainers"]] == ["crsc-interceptor"] and pod["spec"]["runtimeClassName"] == "crsc", "injected: %s", pod["spec"])
    wait_until("the Service leads to the interceptor", lambda: w.cluster.get("service", "counter")["spec"]["ports"][0]["targetPort"] == "crsc-data", 30, pause=0.2)
    clients = w.clients()
    clients.wait(200)
    w.wait_taken_then_rest("counter")
    told = clients.audit()
    print(w.kubectl("get protectedworkloads"), end="", flush=True)
    return f"{told} writes"


def test_kill_app(w):
    """kill -9 of the app: the kubelet's own restart restores it; no client sees an error."""
    clients, state = w.begin()
    pod = w.workload.wait_ready()
    old = w.app(pod)
    moment = now()
    os.kill(old["pid"], signal.SIGKILL)
    c = w.restored(clients, moment, old, "app killed", same_pod=True)
    check(c["snapshot"] == state["id"] and c["pod_uid"] == pod["metadata"]["uid"], "%s", c)
    told = clients.audit()
    check(not clients.refusals(), "clients saw errors: %s", clients.refusals()[:5])
    wait_until("it is noted", lambda: any(r.get("status", {}).get("checkpoint") == state["id"] for r in w.cluster.api.list("restores")), 30, pause=0.2)
    return f"{told} writes, checkpoint paused {state['pause_ms']} ms"


def test_delete_pod(w):
    clients, state = w.begin()
    pod = w.workload.wait_ready()
    old = w.app(pod)
    moment = now()
    w.cluster.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    check(w.restored(clients, moment, old, "pod deleted")["snapshot"] == state["id"], "the newest")
    return f"{clients.audit()} writes"


def test_damaged_newest(w):
    """The newest checkpoint is damaged on the node and in the registry: the one before it is taken, and the log is told."""
    clients, older = w.begin()
    newest = w.checkpoint()
    clients.wait(300)
    pod = w.workload.wait_ready()
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
    old = w.app(pod)
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
    pod = w.workload.wait_ready()
    old = w.app(pod)
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
    pod = w.workload.wait_ready()
    old = w.app(pod)
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
    old = w.app()
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
                if seen in ("valid", "failed") or (status == 200 and ORDER.index(seen) >= ORDER.index(phase)):
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
            old = w.app()
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
    old = w.app()
    moment = now()
    w.kubectl("rollout restart deployment/counter")
    w.restored(clients, moment, old, "rollout restart")
    clients.audit()
    w.checkpoint()
    old = w.app()
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
    old = w.app()
    moment = now()
    w.kubectl("set env deployment/counter VERSION=2")
    c = w.recovered(clients, moment, old, "another template", 150)
    check(c["began"] == "fresh" and "template" in c["reason"], "%s", c)
    return f"{clients.audit()} writes"


def test_upgrade(w):
    """New images of operator and agents, the objects applied again: requests go on, the protected pod keeps its interceptor, and is restored by the new agent."""
    clients, state = w.begin()
    pod = w.workload.wait_ready()
    w.cluster.push_programs("0.1.1")
    w.cluster.install("0.1.1")
    w.cluster.wait_ready("0.1.1")
    check(w.workload.wait_ready()["metadata"]["uid"] == pod["metadata"]["uid"] and not clients.errors, "nobody noticed: %s", clients.errors[:3])
    old = w.app()
    moment = now()
    os.kill(old["pid"], signal.SIGKILL)
    check(w.restored(clients, moment, old, "upgraded, then app killed", same_pod=True)["snapshot"] == state["id"], "the newest")
    return f"{clients.audit()} writes"


def test_cut_node(w):
    """The node of the pod is cut off and comes back: the replacement goes on, the old one is fenced and ends."""
    clients, state = w.begin()
    pod = w.workload.wait_ready()
    node = w.workload.node(pod)
    old = w.app(pod)
    moment = now()
    node.cut()
    try:
        check(w.restored(clients, moment, old, "node cut off")["snapshot"] == state["id"], "the newest")
    finally:
        node.mend()
    old_uid = pod["metadata"]["uid"]
    wait_until("the old pod is gone", lambda: old_uid not in [p["metadata"]["uid"] for p in w.cluster.get("pods", "-l", "app=counter")["items"]], 90, pause=0.2)
    return f"{clients.audit()} writes"


def test_lost_node(w):
    """The node of the pod is lost for good: the replacement on the other node begins with the checkpoint from the registry."""
    clients, state = w.begin()
    pod = w.workload.wait_ready()
    old = w.app(pod)
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
    check_nothing_left(w)
    check(w.workload.wait_ready()["metadata"]["uid"] == app["metadata"]["uid"], "the app was touched")
    return "nothing left"


def check_nothing_left(w):
    left = w.kubectl("get all,secrets,serviceaccounts,leases -n crsc-system -o name", check_status=False).split()
    left += [line for line in w.kubectl("get crds,clusterroles,clusterrolebindings,mutatingwebhookconfigurations,runtimeclasses,namespaces -o name").split() if "crsc" in line]
    check(not left, "left: %s", left)


def test_helm(w):
    """The chart, on a cluster that has nothing of ours: it renders what the kustomize base says, `helm install` makes operators that come to work with the rights that it
    gives them, `helm upgrade` changes how many, `helm uninstall` and docs/KUBERNETES.md's other steps leave nothing."""
    chart = os.path.join(ROOT, "deploy", "helm", "crsc")

    def helm(words):
        return w.cluster.cp(f"{BIN}/helm", f"--kubeconfig={w.cluster.pki.at('admin.kubeconfig')}", *words.split())

    def operators(n):
        w.kubectl(f"rollout status deployment/crsc-operator -n {SPACE} --timeout=120s")
        wait_until(f"{n} operators are ready", lambda: w.cluster.get("deployment", "crsc-operator", "-n", SPACE)["status"].get("readyReplicas") == n, pause=0.2)
    sh(os.path.join(ROOT, "scripts", "render-kustomize"), "--check", env={**os.environ, "HELM": f"{BIN}/helm"})
    helm(f"lint --strict {chart}")
    w.kubectl(f"create namespace {SPACE}")
    # without agents: as the chart has them they would take this machine for their node
    settings = f"{chart} --namespace {SPACE} --set images.registry={REGISTRY} --set agent.nodeSelector.agent=none"
    helm(f"install crsc {settings}")
    w.cluster.wait_secret("crsc-logd-tls")
    operators(2)
    base = {(o["kind"], o["metadata"]["name"]) for o in w.cluster.base} - {("Namespace", SPACE)}
    there = set()
    for kind in {kind for kind, _ in base}:
        there |= {(kind, o["metadata"]["name"]) for o in w.cluster.get(kind, "-n", SPACE)["items"]}
    check(base <= there, "helm did not install %s", sorted(base - there))
    helm(f"upgrade crsc {settings} --set operator.replicas=1")
    operators(1)
    helm(f"uninstall crsc --namespace {SPACE} --wait")
    w.kubectl(f"delete -k {os.path.join(ROOT, 'deploy', 'crds')} --ignore-not-found")
    w.kubectl(f"delete namespace {SPACE}")
    check_nothing_left(w)
    return f"{len(base)} objects"


# a node's loss comes late: it does not come back
TESTS = [test_annotate, test_kill_app, test_delete_pod, test_damaged_newest, test_no_operator, test_by_hand, test_killed_in_checkpoints, test_killed_in_recoveries, test_rollout,
         test_upgrade, test_pushgateway, test_redirect, test_refused, test_tls, test_replicas, test_standby, test_kubelet_backend, test_crash_loop, test_cut_node, test_lost_node, test_end, test_uninstall, test_helm]


def with_needed(wanted):
    """All begin with the annotation, and helm where nothing of ours is left."""
    needed = {test_annotate, *wanted, *((test_end, test_uninstall) if test_helm in wanted else ())}
    return [test for test in TESTS if test in needed]


if __name__ == "__main__":
    test_cluster.main(__doc__, TESTS, lambda build, say: Installed(build, 2, say=say), World, os.path.join(OUT, "figures-operator.md"), with_needed)
