"""A protected app on the cluster, its clients, and the agents' API, for the tests. Pods are written by hand here: what the webhook would inject."""
import http.client
import json
import os
import ssl
import threading
import time

from cluster import LOGD, REGISTRY, Failure, check, wait_until

ADMIN, DATA, APP = "127.0.0.1:15021", 8080, 9000


def manifest(name, stream, app, template="1", annotations=None, node=None, replicas=1):
    """A Deployment whose pods are protected. `app`: the app's container (a dict without name)."""
    hardened = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    pod = {
        "runtimeClassName": "crsc", "terminationGracePeriodSeconds": 2, "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        # a lost node's pods are replaced as soon as its loss is noticed
        "tolerations": [{"key": f"node.kubernetes.io/{k}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}
                        for k in ("unreachable", "not-ready")],
        "initContainers": [{
            "name": "crsc-interceptor", "image": f"{REGISTRY}/crsc-interceptor:1", "restartPolicy": "Always", "securityContext": hardened,
            "args": ["--stream", stream, "--servers", LOGD, "--listen", f"0.0.0.0:{DATA}", "--admin-listen", ADMIN,
                     "--log-tls-ca", "/tls/ca.pem", "--log-tls-cert", "/tls/tls.pem", "--log-tls-key", "/tls/tls.key"],
            "volumeMounts": [{"name": "crsc-log", "mountPath": "/tls", "readOnly": True}],
            "readinessProbe": {"httpGet": {"path": "/count", "port": DATA}, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 2}}],
        "volumes": [{"name": "crsc-log", "secret": {"secretName": "crsc-log"}}],
        "containers": [{"name": "app", "securityContext": hardened, **app}],
        **({"nodeName": node} if node else {}),
    }
    words = {"crsc.io/stream": stream, "crsc.io/container": "app", "crsc.io/upstream": f"127.0.0.1:{APP}", "crsc.io/admin": ADMIN,
             "crsc.io/template-hash": template, **(annotations or {})}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": replicas, "strategy": {"type": "Recreate"}, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}, "annotations": words}, "spec": pod}}}


def counter():
    return {"image": f"{REGISTRY}/counter:1", "args": ["--listen", f"127.0.0.1:{APP}"]}


class Agent:
    """An agent's API, as the operator would call it."""

    def __init__(self, pki, node, client="operator"):
        self.node = node
        self.context = ssl.create_default_context(cafile=pki.at("ca.crt"))
        if client:
            self.context.load_cert_chain(pki.at(client + ".crt"), pki.at(client + ".key"))

    def ask(self, method, path, body=None, timeout=30):
        """(status, answer)"""
        connection = http.client.HTTPSConnection(self.node.address, 7443, context=self.context, timeout=timeout)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            data = answer.read()
            return answer.status, json.loads(data) if data[:1] in b"{[" and data else data
        finally:
            connection.close()

    def get(self, path, timeout=30):
        status, answer = self.ask("GET", path, timeout=timeout)
        check(status == 200, "GET %s: %d %s", path, status, answer)
        return answer

    def container(self, pod=None):
        """The protected container of that pod (or the only one) that its interceptor knows; None."""
        for c in self.get("/v1/containers", timeout=1)["containers"]:
            if (pod is None or c["pod"] == pod) and c["attached"]:
                return c
        return None

    def checkpoint(self, stream, name, namespace, pod, wait=True, **more):
        status, answer = self.ask("PUT", f"/v1/checkpoints/{name}?stream={stream}", {"namespace": namespace, "pod": pod, **more})
        check(status in (200, 202), "checkpoint %s: %d %s", name, status, answer)
        return self.ended(stream, name) if wait else answer

    def ended(self, stream, name):
        def look():
            state = self.get(f"/v1/checkpoints/{name}?stream={stream}")
            return state if state["phase"] in ("valid", "failed") else None
        return wait_until(f"checkpoint {name} ends", look, 60, pause=0.02)


class Workload:
    """Where the pods of a Deployment are."""

    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name

    def pods(self):
        return [p for p in self.cluster.get("pods", "-l", f"app={self.name}")["items"] if "deletionTimestamp" not in p["metadata"]]

    def ready(self, other_than=()):
        """The ready pod, or None."""
        for pod in self.pods():
            conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}
            if pod["metadata"]["uid"] not in other_than and conditions.get("Ready") == "True" and pod["status"].get("podIP"):
                return pod
        return None

    def wait_ready(self, timeout=60, other_than=()):
        return wait_until(f"a pod of {self.name} is ready", lambda: self.ready(other_than), timeout, pause=0.1)

    def node(self, pod):
        return next(n for n in self.cluster.nodes if n.name == pod["spec"]["nodeName"])


class Clients:
    """Clients that keep writing to wherever the app is, and note what they were told. A client whose connection ends does not know whether its write was executed:
    it may be in the list once, or not."""

    earlier = []  # all of this run: the app has their writes too
    moves_on = False  # who is refused asks another one, as there are several

    def __init__(self, workload, n=4, pause=0.0, port=DATA):
        self.workload, self.pause, self.port, self.run = workload, pause, port, len(self.earlier)
        self.earlier.append(self)
        pod = workload.ready()
        self.address = pod["status"]["podIP"] if pod else None
        self.acked = [[] for _ in range(n)]  # (id, position, when)
        self.unknown, self.errors = set(), []
        self.ended, self.lock, self.looked = threading.Event(), threading.Lock(), 0.0
        self.threads = [threading.Thread(target=self.write, args=(k,), daemon=True) for k in range(n)]
        for t in self.threads:
            t.start()

    def connect(self, address, timeout):
        return http.client.HTTPConnection(address, self.port, timeout=timeout)

    def look(self, bad):
        """Where is it now? Asked once for all, as a Service would tell."""
        with self.lock:
            if self.address != bad or time.monotonic() - self.looked < 0.1:
                return
            self.looked = time.monotonic()
            try:
                pod = self.workload.ready()
            except Failure:  # the API server is busy: next time
                return
            if pod:
                self.address = pod["status"]["podIP"]

    def write(self, k):
        number = 0
        connection, to = None, None
        while not self.ended.is_set():
            number += 1
            name = f"{self.run}.{k}.{number}"
            try:
                if connection is None or to != self.address:
                    to = self.address
                    connection = self.connect(to, 5)
                connection.request("POST", f"/add?id={name}")
                answer = connection.getresponse()
                body = answer.read()
                if answer.status == 503:  # refused: it is not in the log
                    self.errors.append((time.monotonic(), "503"))
                    time.sleep(0.05)
                    if self.moves_on:
                        self.look(to)
                    continue
                said = json.loads(body)
                if answer.status != 200 or said["id"] != name:
                    raise OSError(f"{answer.status} {body[:100]}")
                self.acked[k].append((name, said["n"], time.monotonic()))
            except (OSError, http.client.HTTPException, ValueError) as e:
                self.unknown.add(name)
                self.errors.append((time.monotonic(), f"{name}: {type(e).__name__}: {e}"))
                connection = None
                self.look(to)
                time.sleep(0.02)
            if self.pause:
                time.sleep(self.pause)

    def total(self):
        return sum(map(len, self.acked))

    def wait(self, more, timeout=60):
        want = self.total() + more
        wait_until(f"{more} more writes", lambda: self.total() >= want, timeout)

    def stop(self):
        self.ended.set()
        for t in self.threads:
            t.join(60)
            check(not t.is_alive(), "a client still waits for an answer")

    def refusals(self):
        """What clients were told instead of an answer. That one waited longer than he had patience is none: a busy machine may take its time."""
        return [error for error in self.errors if "TimeoutError" not in error[1]]

    def audit(self):
        """The app's list against what clients were told. How many acknowledged writes it has."""
        self.stop()
        pod = self.workload.wait_ready()
        connection = self.connect(pod["status"]["podIP"], 60)
        connection.request("GET", "/list")
        found = connection.getresponse().read().decode().split()
        connection.close()
        check(len(set(found)) == len(found), "%d writes were executed twice", len(found) - len(set(found)))
        known = set()
        for clients in self.earlier:
            for acked in clients.acked:
                positions = [n for _, n, _ in acked]
                check(positions == sorted(positions), "a client's writes changed their order")
                for name, n, _ in acked:
                    check(n <= len(found) and found[n - 1] == name, "%s was answered with position %d, where the list has %s", name, n,
                          found[n - 1] if n <= len(found) else "nothing")
                    known.add(name)
        strange = set(found) - known - {name for clients in self.earlier for name in clients.unknown}
        check(not strange, "in the list and asked for by nobody: %s", sorted(strange)[:5])
        return self.total()


class Table:
    """The figures of a run. detect: from the fault until crsc-runtime is asked to create the next container (Kubernetes' own time); restore: CRIU's; replay:
    until the interceptor serves again; rescheduled to served: from when the replacing pod was seen to have a node."""

    COLUMNS = ("case", "detect", "restore", "replay", "total", "rescheduled to served", "replayed", "client errors")

    def __init__(self):
        self.rows = []

    def add(self, *row):
        self.rows.append([f"{v:.0f} ms" if isinstance(v, float) else str(v) for v in row])
        print("  " + "  ".join(f"{c} {v}" for c, v in zip(self.COLUMNS, self.rows[-1])), flush=True)

    def write(self, path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write("| " + " | ".join(self.COLUMNS) + " |\n|" + "---|" * len(self.COLUMNS) + "\n")
            for row in self.rows:
                f.write("| " + " | ".join(row) + " |\n")
        with open(path) as f:
            print(f.read())
