"""The case of test_operator.py with crsc.io/backend: kubelet: the first node's containerd restores pods from images of checkpoints, the other one's does not."""
import json
import os
import signal

from cluster import REGISTRY, check, wait_until
from operator_world import PORT, only_pod
from test_cluster import now
from workload import Clients, Workload

NAME = "kept"


class OfKept(Clients):
    earlier = []


def container(w, pod):
    """What its agent says of it, when its interceptor serves; None."""
    try:
        c = w.agents[pod["spec"]["nodeName"]].container(pod["metadata"]["name"])
    except OSError:
        return None
    return c if c and c["interceptor"] and c["interceptor"]["state"] == "active" else None


def served(w, kept, other_than=(), timeout=180):
    """(pod, its container), of one that is served and is not one of those containers."""
    def look():
        for pod in kept.pods():
            c = container(w, pod) if pod["spec"].get("nodeName") else None
            if c and c["id"] not in other_than:
                return pod, c
        return None
    return wait_until(f"another container of {NAME} is served", look, timeout, pause=0.05)


def note(w, clients, moment, case, c):
    replay, times = c["interceptor"]["replay"], c["interceptor"]["times"]
    w.table.add(case, (c["started_us"] - moment[1]) / 1000, "", (times["active_us"] - times["attached_us"]) / 1000, (times["active_us"] - moment[1]) / 1000, "",
                replay["done"] if replay else 0, sum(t > moment[0] for t, _ in clients.errors))


def archives(w):
    """What is left of the kubelets' archives on the nodes."""
    return [name for n in w.cluster.nodes if os.path.isdir(n.at("kubelet", "checkpoints")) for name in os.listdir(n.at("kubelet", "checkpoints"))]


def image_of(pod):
    return next(c["image"] for c in pod["spec"]["containers"] if c["name"] != "crsc-interceptor")


def bind(w, node):
    """A rollout to that node; the template's hash stays."""
    w.kubectl(f"patch deployment {NAME} --type=merge -p " + json.dumps({"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": node}}}}}, separators=(",", ":")))


def test_kubelet_backend(w):
    """crsc.io/backend: kubelet, with agents that may ask their kubelets. Pods have the node's own handler; a checkpoint of the kubelet's is pushed, and nothing of it is left on the node; a pod
    that is made anew begins with it, and its container that is killed with the same again; dumped once more, as a restored one. On the node whose containerd restores nothing two are tried,
    then the whole log is replayed. Each time the list is what clients were told."""
    w.cluster.install_kubelet()
    w.create_counter(NAME, nodeSelector={"kubernetes.io/hostname": "n1"})
    w.kubectl(f"patch deployment {NAME} --type=merge -p " + '{"spec":{"strategy":{"type":"Recreate","rollingUpdate":null}}}')  # to another node: one pod at a time
    w.kubectl(f"annotate deployment/{NAME} crsc.io/checkpoint-restore=true crsc.io/checkpoint-interval=2s crsc.io/backend=kubelet")
    w.wait_phase("Protected", NAME)
    kept = Workload(w.cluster, NAME)
    pod = only_pod(kept, True)
    check("runtimeClassName" not in pod["spec"] and image_of(pod) == f"{REGISTRY}/counter:1", "%s", pod["spec"])
    clients = OfKept(kept, port=PORT)
    clients.wait(200)
    w.wait_taken_then_rest(NAME)
    wait_until("none is under way", lambda: all(c.get("status", {}).get("phase") in ("Valid", "Failed") for c in w.checkpoints().values() if c["spec"]["workload"] == NAME), 60)
    newest = max(w.taken(NAME), key=lambda c: c["status"]["offset"])
    status = newest["status"]
    print(f"  taken: {status}", flush=True)
    check(not archives(w), "left on the nodes: %s", archives(w))
    clients.wait(200)

    _, old = served(w, kept)
    check(old["began"] == "fresh", "%s", old)
    moment = now()
    w.cluster.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    pod, c = served(w, kept, {old["id"]})
    note(w, clients, moment, "backend kubelet: pod deleted", c)
    check((c["began"], c["snapshot"], c["offset"]) == ("restored", newest["metadata"]["name"], status["offset"]), "%s", c)
    check(image_of(pod) == status["image"].rpartition(":")[0] + "@" + status["digest"], "%s", image_of(pod))
    clients.wait(200)
    told = clients.audit()

    clients = OfKept(kept, port=PORT)
    clients.wait(200)
    moment = now()
    os.kill(c["pid"], signal.SIGKILL)
    _, again = served(w, kept, {c["id"]})
    note(w, clients, moment, "backend kubelet: app killed", again)
    check((again["began"], again["snapshot"], again["pod_uid"]) == ("restored", newest["metadata"]["name"], pod["metadata"]["uid"]), "%s", again)
    clients.wait(200)
    told += clients.audit()
    check(not clients.errors, "clients saw errors: %s", clients.errors[:5])

    clients = OfKept(kept, port=PORT)
    for name in ("kept-again", "kept-last"):
        clients.wait(100)
        w.wish("Checkpoint", name, {"workload": NAME})
        check(w.checkpoint_ended(name)["phase"] == "Valid", "%s: %s", name, w.checkpoints()[name])
    check(not archives(w), "left on the nodes: %s", archives(w))
    clients.wait(100)
    moment = now()
    bind(w, "n2")
    pod, c = served(w, kept, {again["id"]}, 300)
    note(w, clients, moment, "backend kubelet: to a node that restores nothing", c)
    check(c["began"] == "fresh" and pod["spec"]["nodeName"] == "n2" and image_of(pod) == f"{REGISTRY}/counter:1", "%s", c)
    clients.wait(100)
    told += clients.audit()
    refused = {n: o["status"] for n, o in w.checkpoints().items() if o.get("status", {}).get("unusableAt")}
    check(set(refused) == {"kept-again", "kept-last"} and all("disabled by configuration" in s["message"] for s in refused.values()), "%s", refused)
    said = next(x for x in w.record(NAME)["status"]["conditions"] if x["type"] == "CheckpointsUsable")
    check(said["status"] == "False" and "disabled by configuration" in said["message"], "%s", said)

    w.kubectl(f"annotate deployment/{NAME} crsc.io/checkpoint-restore- crsc.io/checkpoint-interval- crsc.io/backend-")
    w.wait_unprotected(NAME)
    only_pod(kept, False)
    w.delete(NAME)
    w.cluster.uninstall_kubelet()
    return f"{told} writes; a checkpoint of {status['sizeBytes']} bytes paused {status['pauseMilliseconds']} ms"
