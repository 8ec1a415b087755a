#!/usr/bin/env python3
"""The backend kubelet without operator and API server: one real kubelet with static pods as the webhook would make them, containerd, runc, CRIU, crsc-agent, a registry and three
crsc-logd. It needs a few of tests/cluster/build's programs only: tests/cluster/build runc containerd containerd-shim-runc-v2 kubelet

    tests/cluster/test_kubelet.py [--build TREE] [TEST...]

Exit status 77: it cannot be brought up here, and the last line says why.
"""
import http.client
import json
import os
import shutil
import signal
import ssl
import time

import cluster
import test_cluster
from cluster import BIN, LOGD, OUT, REGISTRY, Cluster, Node, check, sh, wait_until
from workload import Agent

STREAM = "demo/default/deployment/kept"


class Alone(Cluster):
    def __init__(self, build, say):
        super().__init__(build, 1, say=say)

    @staticmethod
    def why_not():
        return cluster.why_not(("kubelet", "containerd", "containerd-shim-runc-v2", "runc"))

    def up(self):
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(self.directory)
        self.make_criu()
        self.make_network()
        self.make_pki()
        for i in (1, 2, 3):
            self.start_logd(i)
        self.start_registry()
        self.wait_for("the registry", lambda: self.cp("curl", "-s", f"http://{REGISTRY}/v2/", check_status=False).strip() == "{}", 30)
        self.push_images()
        node = Node(self, 1)
        self.nodes.append(node)
        node.make()
        node.start_containerd()
        os.makedirs(node.at("static"))
        node.start_kubelet(alone=node.at("static"))
        return self


class World:
    """The pods of one stream on that node, and their one client."""

    def __init__(self, cluster, table):
        self.cluster, self.table, self.node, self.n = cluster, table, cluster.nodes[0], 0
        self.tls = self.node.at("tls")
        os.makedirs(self.tls)
        for name, of in (("ca.pem", "ca.crt"), ("tls.pem", "producer.crt"), ("tls.key", "producer.key")):
            shutil.copy(cluster.pki.at(of), os.path.join(self.tls, name))
            os.chmod(os.path.join(self.tls, name), 0o644)  # read by a pod's user
        cluster.wait_for("the kubelet", lambda: self.pods() is not None, 60)
        cluster.agent_flags = ["--kubelet", f"https://{self.node.address}:10250", "--kubelet-ca", cluster.pki.at("ca.crt")]
        self.node.start_agent()
        self.agent = Agent(cluster.pki, self.node)
        cluster.wait_for("the agent", lambda: "\"started\"" in self.node.parts["agent"].tail(50), 30)

    def pods(self):
        """As the kubelet has them; None while it does not answer."""
        context = ssl.create_default_context(cafile=self.cluster.pki.at("ca.crt"))
        try:
            connection = http.client.HTTPSConnection(self.node.address, 10250, context=context, timeout=5)
            connection.request("GET", "/pods")
            return json.loads(connection.getresponse().read())["items"] or []
        except OSError:
            return None

    def add_pod(self, name, image, checkpoint=None):
        words = {"crsc.io/stream": STREAM, "crsc.io/container": "counter", "crsc.io/upstream": "127.0.0.1:8080", "crsc.io/admin": "127.0.0.1:15021", "crsc.io/template-hash": "h",
                 "crsc.io/backend": "kubelet", **({"crsc.io/checkpoint": checkpoint} if checkpoint else {})}
        hardened = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "annotations": words}, "spec": {
            "terminationGracePeriodSeconds": 1, "securityContext": {"runAsNonRoot": True}, "volumes": [{"name": "tls", "hostPath": {"path": self.tls}}],
            "initContainers": [{"name": "crsc-interceptor", "image": f"{REGISTRY}/crsc-interceptor:1", "restartPolicy": "Always", "securityContext": hardened,
                                "args": ["--stream", STREAM, "--servers", LOGD, "--listen", "0.0.0.0:15020", "--admin-listen", "127.0.0.1:15021", "--log-tls-ca", "/tls/ca.pem",
                                         "--log-tls-cert", "/tls/tls.pem", "--log-tls-key", "/tls/tls.key"],
                                "volumeMounts": [{"name": "tls", "mountPath": "/tls", "readOnly": True}]}],
            "containers": [{"name": "counter", "image": image, "command": ["/counter"], "args": ["--listen", "0.0.0.0:8080"], "securityContext": hardened}]}}
        path = self.node.write(name + ".json", json.dumps(pod))
        os.rename(path, self.node.at("static", name + ".json"))

    def remove_pod(self, name):
        os.remove(self.node.at("static", name + ".json"))
        wait_until(f"{name} is gone", lambda: not [c for c in self.agent.get("/v1/containers")["containers"] if c["pod"] == name + "-n1"], 60)

    def served(self, name, other_than=None):
        """The container of that pod, when its interceptor serves and it is not that one."""
        def look():
            c = self.agent.container(name + "-n1")  # a static pod is called like its node besides
            return c if c and c["id"] != other_than and c["interceptor"]["state"] == "active" else None
        return wait_until(f"{name} is served", look, 60, pause=0.05)

    def ask(self, c, method, path):
        address = sh("nsenter", "-t", str(c["pid"]), "-n", "ip", "-4", "-o", "addr", "show", "eth0").split()[3].partition("/")[0]
        connection = http.client.HTTPConnection(address, 15020, timeout=20)
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        check(answer.status == 200, "%d %s", answer.status, body)
        return body

    def write(self, c, more):
        for _ in range(more):
            self.n += 1
            said = json.loads(self.ask(c, "POST", f"/add?id=w{self.n}"))
            check(said["n"] == self.n, "%s", said)

    def audit(self, c):
        found = self.ask(c, "GET", "/list").decode().split()
        check(found == [f"w{i}" for i in range(1, self.n + 1)], "%d writes are there, %d were answered", len(found), self.n)

    def checkpoint(self, name, pod):
        """(state, image that a pod begins with)"""
        state = self.agent.checkpoint(STREAM, name, "default", pod + "-n1")
        check(state["phase"] == "valid", "%s", state)
        left = os.listdir(self.node.at("kubelet", "checkpoints"))
        check(not left, "left in the kubelet's folder: %s", left)
        return state, state["image"].rpartition(":")[0] + "@" + state["digest"]


def test_restores(w):
    """A checkpoint by the kubelet; a pod of its image begins there, and again when its container is killed; dumped once more as a restored one, and restored from that. Each time the list
    is what the client was told."""
    check(w.agent.get("/v1/node")["backends"]["kubelet"] == {"ok": True}, "%s", w.agent.get("/v1/node"))
    w.add_pod("kept-1", f"{REGISTRY}/counter:1")
    c = w.served("kept-1")
    check((c["began"], c["offset"], c["container"]) == ("fresh", 0, "counter"), "%s", c)
    w.write(c, 50)
    first, image = w.checkpoint("c-1", "kept-1")
    w.write(c, 30)
    w.audit(c)
    w.remove_pod("kept-1")

    begun = time.monotonic()
    w.add_pod("kept-2", image, "c-1")
    c = w.served("kept-2")
    made = time.monotonic() - begun
    check((c["began"], c["snapshot"], c["offset"], c["container"]) == ("restored", "c-1", first["offset"], "counter"), "%s", c)
    check(c["interceptor"]["replay"]["done"] == 30, "only what came after is replayed: %s", c["interceptor"])
    w.audit(c)
    w.write(c, 20)

    begun = time.monotonic()
    os.kill(c["pid"], signal.SIGKILL)
    again = w.served("kept-2", c["id"])
    killed = time.monotonic() - begun
    check((again["began"], again["snapshot"], again["offset"]) == ("restored", "c-1", first["offset"]), "%s", again)
    check(again["interceptor"]["replay"]["done"] == 50, "it began where its pod did: %s", again["interceptor"])
    w.audit(again)
    w.write(again, 10)

    second, image = w.checkpoint("c-2", "kept-2")
    w.write(again, 10)
    w.remove_pod("kept-2")
    w.add_pod("kept-3", image, "c-2")
    c = w.served("kept-3")
    check((c["began"], c["snapshot"], c["offset"]) == ("restored", "c-2", second["offset"]), "%s", c)
    w.audit(c)
    w.remove_pod("kept-3")
    return (f"{w.n} writes; {first['size']} bytes, paused {first['pause_ms']:.0f} and {second['pause_ms']:.0f} ms; a pod made until served {made:.1f} s, its container killed until served "
            f"{killed:.1f} s")


def test_switched_off(w):
    """A containerd that restores nothing, as is its default: the pod says so, and nothing is attached."""
    name, state = next((s["id"], s) for s in w.agent.get("/v1/checkpoints")["checkpoints"] if s["phase"] == "valid")
    w.node.parts.pop("containerd").end()
    with open(w.node.at("containerd.toml")) as f:
        text = f.read()
    w.node.write("containerd.toml", text.replace("enable_experimental_restore_via_create = true", "enable_experimental_restore_via_create = false"))
    w.node.start("containerd", [f"{BIN}/containerd", "-c", w.node.at("containerd.toml")])
    w.add_pod("kept-4", f"{REGISTRY}/checkpoints/{STREAM}@{state['digest']}", name)

    def says():
        for pod in w.pods() or []:
            for s in pod["status"].get("containerStatuses", []) if pod["metadata"]["name"] == "kept-4-n1" else []:
                waits = s["state"].get("waiting", {})
                if waits.get("reason") == "CreateContainerError":
                    return waits["message"]
        return None
    said = wait_until("the kubelet says why", says, 60)
    check("disabled by configuration" in said, "%s", said)
    check(not w.agent.get("/v1/containers")["containers"], "nothing runs")
    return said


if __name__ == "__main__":
    test_cluster.main(__doc__, [test_restores, test_switched_off], Alone, World, os.path.join(OUT, "figures-kubelet.md"),
                      lambda wanted: [t for t in (test_restores, test_switched_off) if t is test_restores or t in wanted])
