"""What the cases of test_operator.py and operator_apps.py share: the cluster with CRSC installed, asked and told with kubectl as anybody would."""
import json
import os
import signal

import test_cluster
from cluster import REGISTRY, check, wait_until
from workload import Agent, Clients, Workload

STREAM = "kubernetes/default/deployment/counter"
PORT = 15020  # the interceptor's: where the Service leads while it is protected


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

    def taken(self, workload):
        """The valid checkpoints of it."""
        return [c for c in self.checkpoints().values() if c["spec"]["workload"] == workload and c.get("status", {}).get("phase") == "Valid"]

    def wait_taken_then_rest(self, workload):
        """A checkpoint is taken by the interval of the annotation, and from then on only when one is asked for."""
        wait_until(f"a checkpoint of {workload} is taken", lambda: self.taken(workload), 90, pause=0.2)
        self.kubectl(f"annotate deployment/{workload} --overwrite crsc.io/checkpoint-interval=1h")

    def kill_app(self, pod):
        """kill -9 of the app in that pod: its container once it is served again, which has to have been restored."""
        agent = self.agents[pod["spec"]["nodeName"]]
        old = agent.container(pod["metadata"]["name"])
        os.kill(old["pid"], signal.SIGKILL)

        def served():
            try:
                found = agent.container(pod["metadata"]["name"])
            except OSError:  # it takes its time
                return None
            return found if found and found["id"] != old["id"] and found["interceptor"]["state"] == "active" else None
        c = wait_until("another container is served", served, 90, pause=0.05)
        check(c["began"] == "restored", "%s", c)
        return c

    def create_counter(self, name, more="", **pod):
        """A Deployment of the counter; `pod`: more of its pods' spec."""
        self.kubectl(f"create deployment {name} --image={REGISTRY}/counter:1 --port=8080 {more} -- /counter --listen 0.0.0.0:8080")
        patch = {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 2, **pod}}}}
        self.kubectl(f"patch deployment {name} --type=merge -p " + json.dumps(patch, separators=(",", ":")))

    def wait_unprotected(self, name, timeout=120):
        wait_until(f"nothing of ours is left of {name}", lambda: not self.record(name), timeout, pause=0.2)

    def delete(self, name, kinds="deployment"):
        self.kubectl(f"delete {kinds} {name}")
        wait_until(f"nothing is left of {name}", lambda: not self.record(name) and not self.cluster.get("pods", "-l", f"app={name}")["items"], 120, pause=0.2)

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


def is_injected(pod):
    return any(c["name"] == "crsc-interceptor" for c in pod["spec"].get("initContainers", []))


def only_pod(workload, injected):
    """Its pod, when no other is left; with an interceptor or without."""
    def look():
        pods = workload.pods()
        return pods[0] if len(pods) == 1 and is_injected(pods[0]) is injected and workload.ready() else None
    return wait_until(f"only a pod of {workload.name} {'with' if injected else 'without'} an interceptor is left", look, 120, pause=0.2)
