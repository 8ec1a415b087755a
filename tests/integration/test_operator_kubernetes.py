#!/usr/bin/env python3
"""crsc-operator kubernetes against a small API server (fake_kube.py), an agent that plays its part of docs/AGENT.md, and a real crsc-logd:
annotate, inject, switch, checkpoint, recover, undo; and what a bad network and a kill at any moment do to it. Replicas are real interceptors and apps."""
import base64
import copy
import http.client
import json
import os
import random
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from fake_kube import QuietServer, Refused, Server, json_patch
from harness import HANGS, Cluster, Failure, Http, Skip, check, free_ports, main, wait_until
from test_replicas import Replica

SPACE = "crsc-system"


class Agent:
    """One for all nodes with its address. Checkpoints become valid when `hold` is not set; while `stuck` is, none is begun and no answer comes."""

    def __init__(self, port, ca, cert, key, directory, host="127.0.0.1"):
        self.rng = random.Random(1)
        self.containers, self.checkpoints, self.deleted, self.puts, self.hold, self.fail_next = {}, {}, [], [], False, False
        self.lock = threading.Lock()
        self.changed, self.version, self.said = threading.Condition(self.lock), int(time.time() * 1e6), None
        self.lists = 0  # answered
        self.asked = 0
        self.stuck, self.waiting = threading.Event(), 0
        self.plain = False  # as agents were that had to be asked again and again
        self.kubelet = ""    # why it takes no checkpoints by the kubelet
        names = [os.path.join(directory, n) for n in ("agent.ca", "agent.crt", "agent.key")]
        for name, text in zip(names, (ca, cert, key)):
            with open(name, "w") as f:
                f.write(text)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(names[1], names[2])
        context.load_verify_locations(names[0])
        context.verify_mode = ssl.CERT_REQUIRED
        agent = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                code, value = agent.handle(self.command, self.path, body)
                text = json.dumps(value).encode()
                try:
                    self.send_response(code)
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)
                except OSError:  # who asked is gone
                    self.close_connection = True

            do_GET = do_PUT = do_DELETE = do_POST = answer

        self.http = QuietServer((host, port), Handler)
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()

    def follow(self, uid, replica):
        """Hears of each change, as the real one does."""
        while self.containers.get(uid, {}).get("replica") is replica:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", replica.admin_port, timeout=5)
                connection.request("GET", "/watch")
                for _ in connection.getresponse():
                    with self.lock:
                        self.changed.notify_all()
            except (OSError, http.client.HTTPException):
                pass
            with self.lock:
                self.changed.notify_all()
            time.sleep(0.02)

    def list_containers(self):
        found = []
        for c in self.containers.values():
            if not c.get("replica"):
                found.append(c)
                continue
            try:
                now = c["replica"].status(strict=False)
            except http.client.HTTPException:
                now = None
            c["words"] = now or c.get("words")
            found.append({**c, "interceptor": c["words"], "silent": now is None, "replica": None, "words": None})
        return found

    def wait_containers(self, after, wait_ms):
        until = time.monotonic() + wait_ms / 1000
        with self.lock:
            while True:
                found = self.list_containers()
                if self.plain:
                    return 200, {"containers": found}
                matters = [(c["id"], c["attached"], c.get("silent"), *((c["interceptor"] or {}).get(k) for k in ("state", "fenced", "leaving")),
                            json.dumps((c["interceptor"] or {}).get("app"))) for c in found]
                if matters != self.said:
                    self.version, self.said = self.version + 1, matters
                left = until - time.monotonic()
                if after != self.version or left <= 0:
                    self.lists += 1
                    return 200, {"version": self.version, "kubelet": self.kubelet, "containers": found}
                self.changed.wait(left)

    def handle(self, method, path, body):
        path, _, query = path.partition("?")
        self.asked += 1
        if path == "/v1/containers":
            words = parse_qs(query)
            return self.wait_containers(int(words.get("after", ["0"])[0]), int(words.get("wait_ms", ["0"])[0]))
        if method == "PUT" and self.stuck.is_set():
            self.waiting += 1
            wait_until("the agent goes on", lambda: not self.stuck.is_set(), 120)
        with self.lock:
            if path == "/v1/checkpoints":
                for c in self.checkpoints.values():
                    if c["phase"] == "dumping" and not self.hold:
                        c["phase"] = "failed" if self.fail_next else "valid"
                        c["error"] = "CRIU: no" if self.fail_next else ""
                        self.fail_next = False
                        c["finished_us"] = int(time.time() * 1e6)
                return 200, {"checkpoints": list(self.checkpoints.values())}
            name = path.rpartition("/")[2]
            if name == "replicas" and method == "POST":
                found = self.containers.get(path.split("/")[3])
                return (found["replica"].admin("POST", f"/replicas?{query}")[0], {}) if found else (404, {"error": "gone", "code": "not-found"})
            stream = parse_qs(query).get("stream", [""])[0]
            if not stream:
                return 400, {"error": "whose?", "code": "invalid"}
            if method == "PUT":
                container = next(c for c in self.containers.values() if c["pod_uid"] == body["pod_uid"])
                if stream != container["stream"]:
                    return 409, {"error": "another stream", "code": "conflict"}
                self.puts.append(name)
                taken = not container.get("replica") or container["replica"].checkpoint(self.rng)
                self.checkpoints.setdefault(name, {
                    "id": name, "stream": container["stream"], "phase": "dumping" if taken else "failed", "image": f"reg/x:{name}",
                    "offset": container["replica"].shelf[-1][0] if container.get("replica") else container["interceptor"]["offsets"]["executed"],
                    "digest": "sha256:" + "0" * 64, "size": 4096, "template_hash": container["template_hash"], "error": "", "started_us": 1,
                    "finished_us": 0, "pause_ms": 1.5, "dump_ms": 1.0, "push_ms": 1.0})
                return 202, self.checkpoints[name]
            if method == "DELETE":
                self.deleted.append(name)
                return (200, {}) if self.checkpoints.pop(name, None) else (404, {"error": "gone", "code": "not-found"})
            return 404, {"error": "no such path", "code": "not-found"}

    def run_replica(self, pod, replica):
        """The same of one whose interceptor and app are real."""
        self.run(pod, 0)
        with self.lock:
            self.containers[pod["metadata"]["uid"]]["replica"] = replica
        threading.Thread(target=self.follow, args=(pod["metadata"]["uid"], replica), daemon=True).start()

    def gone(self, pod):
        with self.lock:
            self.containers.pop(pod["metadata"]["uid"], None)

    def run(self, pod, executed, began="fresh", replayed=0, snapshot=""):
        """The container of a pod runs and is attached."""
        head = pod["metadata"]
        now = int(time.time() * 1e6)
        with self.lock:
            self.containers[head["uid"]] = {
                "id": head["uid"], "namespace": "default", "pod": head["name"], "pod_uid": head["uid"], "container": "app",
                "stream": head["annotations"]["crsc.io/stream"], "template_hash": head["annotations"]["crsc.io/template-hash"], "pid": 1,
                "identity": f"1:{now}", "began": began, "snapshot": snapshot, "offset": executed - replayed, "reason": "", "attached": True,
                "started_us": now, "restored_us": now, "attached_us": now,
                "interceptor": {"state": "active", "offsets": {"executed": executed, "last": executed}, "replay": {"done": replayed},
                                "times": {"lost_us": now - 300000, "attached_us": now - 100000, "active_us": now}}}


DEPLOYMENT = {
    "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "counter", "labels": {"app": "counter"}},
    "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "counter"}},
             "template": {"metadata": {"labels": {"app": "counter"}},
                          "spec": {"containers": [{"name": "app", "image": "app:1", "ports": [{"name": "http", "containerPort": 8080}],
                                                   "livenessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 2}}]}}}}
SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "counter"},
           "spec": {"selector": {"app": "counter"}, "ports": [{"name": "web", "port": 80, "targetPort": "http", "protocol": "TCP"},
                                                              {"name": "other", "port": 99, "targetPort": 9999, "protocol": "TCP"}]}}
WEBHOOK = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": {"name": "crsc-webhook"},
           "webhooks": [{"name": "pods.crsc.io", "clientConfig": {"service": {"name": "crsc-webhook", "namespace": SPACE}}}]}


def node(name, ready="True", address="127.0.0.1"):
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"addresses": [{"type": "InternalIP", "address": address}],
                       "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}


class World:
    """The cluster of a test: API server, log, operator, agent, and what Kubernetes' own controllers would do."""

    def __init__(self, bench, **options):
        self.bench = bench
        self.log = Cluster(bench, 1).start()
        self.server = Server(bench.directory, **options)
        self.kube = self.server.kube
        self.webhook_port, self.agent_port = free_ports(2)
        self.agent, self.agents = None, []
        self.operator = None
        self.poll = "50ms"
        self.kube.put("nodes", node("n1"), "")
        self.kube.put("nodes", node("n2"), "")
        self.kube.put("mutatingwebhookconfigurations", WEBHOOK, "")

    def __enter__(self):
        return self

    def __exit__(self, *args):
        for agent in self.agents:
            agent.close()
        self.server.__exit__()

    def start(self, name="operator", port=None, elect=False, env=None):
        process = self.bench.spawn(name, ["crsc-operator", "kubernetes", "--servers", self.log.servers, "--kubeconfig", self.server.kubeconfig,
                                          "--webhook-listen", f"127.0.0.1:{port or self.webhook_port}", "--webhook-names", "localhost,127.0.0.1", "--agent-port",
                                          str(self.agent_port), "--agent-poll", self.poll, "--node-grace", "0s", "--identity", name, "--leader-elect",
                                          "true" if elect else "false", "--log-level", "debug", "--log-tls", "false"], env)
        process.wait_for("certificates are here", 120)
        return process

    def begin(self, hosts=("127.0.0.1",), **options):
        self.operator = self.start(**options)
        secret = wait_until("the agents' certificate", lambda: self.kube.get("secrets", "crsc-agent-tls", SPACE))
        ca, cert, key = (base64.b64decode(secret["data"][k]).decode() for k in ("ca.crt", "tls.crt", "tls.key"))
        self.agents = [Agent(self.agent_port, ca, cert, key, self.bench.directory, host) for host in hosts]
        self.agent = self.agents[0]
        return self

    def add_node(self, name, address):
        """And the operator knows: a pod on a node that is not there would be taken for one on a lost node."""
        start = len(self.operator.events())
        self.kube.put("nodes", node(name, address=address), "")
        self.operator.wait_for("a node is there", start=start, node=name)

    def bundle(self):
        """Whom the API server would believe to be the webhook; None as long as nobody has said so."""
        return self.kube.get("mutatingwebhookconfigurations", "crsc-webhook", "")["webhooks"][0]["clientConfig"].get("caBundle")

    def connect(self):
        bundle = wait_until("our CA in the webhook configuration", self.bundle)
        context = ssl.create_default_context(cadata=base64.b64decode(bundle).decode())
        return http.client.HTTPSConnection("127.0.0.1", self.webhook_port, context=context, timeout=60)

    def metrics(self, name):
        connection = self.connect()
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(name + " "))

    def review(self, pod, space="default"):
        """What the webhook says of a pod: (patched pod, warnings)."""
        connection = self.connect()
        body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u-1", "namespace": space, "object": pod}})
        connection.request("POST", "/mutate?timeout=5s", body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())["response"]
        connection.close()
        check(answer["uid"] == "u-1" and answer["allowed"] is True, "not allowed: %s", answer)
        if "patch" in answer:
            pod = json_patch(copy.deepcopy(pod), json.loads(base64.b64decode(answer["patch"])))
        return pod, answer.get("warnings", [])

    def admit(self, name, node_name="n1", workload="deployments/counter", ready="True", labels=None):
        """What the Deployment's controller, the scheduler and a kubelet do: a pod of the template, admitted, running, ready."""
        return self.kube.put("pods", self.admitted(name, node_name, workload, ready, labels))

    def admitted(self, name, node_name="n1", workload="deployments/counter", ready="True", labels=None):
        """The same pod, which is not there yet."""
        plural, _, owner = workload.partition("/")
        template = self.kube.get(plural, owner)["spec"]["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **copy.deepcopy(template["metadata"])}, "spec": copy.deepcopy(template["spec"])}
        pod["metadata"]["labels"].update(labels or {})
        pod, _ = self.review(pod)
        pod["spec"]["nodeName"] = node_name
        pod["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}],
                         "containerStatuses": [{"name": "app", "restartCount": 0, "state": {"running": {}}}]}
        return pod

    def annotate(self, **annotations):
        patch = {"crsc.io/" + k.replace("_", "-"): v for k, v in annotations.items()}
        self.kube.change("deployments", "counter", {"metadata": {"annotations": patch}})

    def template(self):
        return self.kube.get("deployments", "counter")["spec"]["template"]["metadata"].get("annotations", {})

    def status(self, name="counter"):
        return (self.kube.get("protectedworkloads", name) or {}).get("status", {})

    def wait_phase(self, phase):
        try:
            wait_until(f"phase {phase}", lambda: self.status().get("phase") == phase, 60)
        except Failure as e:
            raise Failure(f"{e}; it is {self.status()}") from None

    def valid(self):
        return [c for c in self.kube.all("checkpoints") if c.get("status", {}).get("phase") == "Valid"]

    def protect(self, **annotations):
        """Annotated, injected, running, with a first valid checkpoint."""
        self.kube.put("deployments", DEPLOYMENT)
        self.kube.put("services", SERVICE)
        self.annotate(checkpoint_restore="true", checkpoint_interval="1s", **annotations)
        wait_until("the template is annotated", lambda: self.template().get("crsc.io/workload"), 60)
        pod = self.admit("counter-1")
        self.agent.run(pod, 7)
        wait_until("a valid checkpoint", self.valid, 60)
        self.wait_phase("Protected")
        return pod


def undone(w, originals):
    """Nothing is left of us but the Restore objects, which Kubernetes collects with their owner."""
    check(w.kube.get("protectedworkloads", "counter") is None, "the record is there still")
    check(not w.kube.all("checkpoints"), "checkpoints are left: %s", w.kube.all("checkpoints"))
    deployment, service = w.kube.get("deployments", "counter"), w.kube.get("services", "counter")
    check(deployment["spec"] == originals[0]["spec"], "the Deployment is not as it was: %s", deployment["spec"])
    check(service["spec"]["ports"] == originals[1]["spec"]["ports"], "the Service is not as it was: %s", service["spec"])
    check(service["spec"]["selector"] == originals[1]["spec"]["selector"], "the Service chooses otherwise than it did: %s", service["spec"])
    check("crsc.io/original-ports" not in service["metadata"].get("annotations", {}), "an annotation is left on the Service")
    check(not service["spec"].get("publishNotReadyAddresses"), "the Service publishes addresses that are not ready")


def end(w):
    w.kube.change("deployments", "counter", {"metadata": {"annotations": {"crsc.io/checkpoint-restore": None, "crsc.io/checkpoint-interval": None}}})
    wait_until("the end of protection", lambda: w.kube.get("protectedworkloads", "counter") is None)
    wait_until("the template is as it was", lambda: not w.template())


def test_protects_and_undoes(bench, rng):
    with World(bench) as w:
        w.begin()
        pod = w.protect()
        check(pod["metadata"]["annotations"]["crsc.io/stream"] == "kubernetes/default/deployment/counter", "%s", pod["metadata"])
        check(pod["spec"]["runtimeClassName"] == "crsc", "no runtime class")
        sidecar = pod["spec"]["initContainers"][0]
        check(sidecar["restartPolicy"] == "Always" and w.log.servers in sidecar["args"], "%s", sidecar)
        ports = wait_until("the Service is switched", lambda: [p["targetPort"] for p in w.kube.get("services", "counter")["spec"]["ports"]] == ["crsc-data", 9999])
        check(ports, "the Service leads elsewhere")
        first = w.valid()[0]
        check(first["status"]["offset"] == 7 and first["status"]["node"] == "n1", "%s", first["status"])
        check(first["metadata"]["name"] in w.agent.puts, "the agent was not asked for it")
        count = len(w.agent.puts)
        time.sleep(0)  # an idle app: no further checkpoint; shown by the next one having the new offset
        w.agent.run(pod, 9)
        wait_until("a checkpoint of the new offset", lambda: any(c["status"]["offset"] == 9 for c in w.valid()))
        check(len(w.agent.puts) == count + 1, "checkpoints of an idle app were taken: %s", w.agent.puts)
        for offset in range(10, 14):
            w.agent.run(pod, offset)
            wait_until("the next checkpoint", lambda: any(c["status"]["offset"] == offset for c in w.valid()))
        wait_until("the oldest go", lambda: sorted(c["status"]["offset"] for c in w.valid()) == [11, 12, 13])
        wait_until("its image is removed", lambda: first["metadata"]["name"] in w.agent.deleted)
        w.agent.run(pod, 15, began="restored", replayed=2, snapshot="c-1")
        restore = wait_until("the recovery is noted", lambda: [r for r in w.kube.all("restores") if r.get("status")])[0]
        check(restore["status"]["replayed"] == 2 and restore["status"]["totalMilliseconds"] == 300, "%s", restore["status"])
        end(w)
        undone(w, (DEPLOYMENT, SERVICE))
        wanted = {"Protecting", "Protected", "ServiceSwitched", "Recovered", "Unprotecting", "ServiceRestored"}
        wait_until("events tell of it all", lambda: wanted <= {e["reason"] for e in w.kube.all("events")})


def next_pod(w, old, name, executed):
    """What a rollout does: another pod of the present template, then the old one goes."""
    pod = w.admit(name)
    w.agent.run(pod, executed)
    w.kube.delete("pods", old["metadata"]["name"])
    return pod


def leads_to(w):
    return w.kube.get("services", "counter")["spec"]["ports"][0]["targetPort"]


def gates(w):
    return w.kube.get("deployments", "counter")["spec"]["template"]["spec"].get("schedulingGates")


def test_redirect(bench, rng):
    """crsc.io/traffic: redirect: the pods carry the rules and the Service is left alone; changed while it is protected, in both directions, and undone."""
    with World(bench) as w:
        w.begin()
        pod = w.protect(traffic="redirect")
        check(w.template()["crsc.io/traffic"] == "redirect" and gates(w) == [{"name": "crsc.io/injection"}], "%s %s", w.template(), gates(w))
        check(not pod["spec"]["schedulingGates"], "the webhook has it scheduled")
        check(pod["metadata"]["annotations"]["crsc.io/redirect"] == "8080=15020,15023=8080", "%s", pod["metadata"])
        probe = pod["spec"]["containers"][0]["livenessProbe"]
        check(probe["httpGet"]["port"] == 15023, "the kubelet asks the app past the interceptor: %s", probe)
        check(w.kube.get("services", "counter")["spec"] == SERVICE["spec"], "the Service was touched")
        w.annotate(traffic="service")
        wait_until("the template follows", lambda: "crsc.io/traffic" not in w.template() and not gates(w), 60)
        pod = next_pod(w, pod, "counter-2", 20)
        check("crsc.io/redirect" not in pod["metadata"]["annotations"], "%s", pod["metadata"])
        check(pod["spec"]["containers"][0]["livenessProbe"]["httpGet"]["port"] == 8080, "%s", pod["spec"])
        wait_until("the Service leads to the interceptor", lambda: leads_to(w) == "crsc-data", 60)
        w.annotate(traffic="redirect")
        wait_until("the template follows", lambda: w.template().get("crsc.io/traffic") == "redirect", 60)
        w.agent.run(pod, 30)
        wait_until("a checkpoint of it", lambda: any(c["status"]["offset"] == 30 for c in w.valid()), 60)
        check(leads_to(w) == "crsc-data", "the old pod does not redirect: the Service still leads to its interceptor")
        next_pod(w, pod, "counter-3", 40)
        wait_until("the Service leads to the app's port", lambda: leads_to(w) == "http", 60)
        wait_until("a checkpoint of it", lambda: any(c["status"]["offset"] == 40 for c in w.valid()), 60)
        end(w)
        undone(w, (DEPLOYMENT, SERVICE))


TLS = {"app_pipeline": "64", "upgrade": "pass", "tls_secret": "shop-tls", "tls_client_ca": "configmap/trust/bundle.pem"}


def test_interceptor_options(bench, rng):
    """What the interceptor is told by annotation: each value that we let through is one that it takes; a wrong one changes nothing; a change is a rollout; undone."""
    with World(bench) as w:
        w.begin()
        pod = w.protect(**TLS)
        for name, value in TLS.items():
            check(w.template()["crsc.io/" + name.replace("_", "-")] == value, "%s: %s", name, w.template())
        spec = w.kube.get("protectedworkloads", "counter")["spec"]
        check((spec["appPipeline"], spec["upgrade"], spec["tlsSecret"], spec["tlsClientCa"]) == (64, "pass", "shop-tls", "configmap/trust/bundle.pem"), "%s", spec)
        sidecar = pod["spec"]["initContainers"][0]
        out, _ = bench.run("crsc-interceptor", *sidecar["args"], "--dump-config")
        for line in ("app-pipeline: 64", "upgrade: pass", "tls-cert: /etc/crsc/data-tls/tls.crt", "tls-key: /etc/crsc/data-tls/tls.key", "tls-client-ca: /etc/crsc/data-tls/client-ca.crt"):
            check(line in out.replace('"', "").splitlines(), "%s is not in:\n%s", line, out)
        check({"name": "crsc-data-tls", "mountPath": "/etc/crsc/data-tls", "readOnly": True} in sidecar["volumeMounts"], "%s", sidecar)
        volume = next(v for v in pod["spec"]["volumes"] if v["name"] == "crsc-data-tls")
        check([next(iter(s.values()))["name"] for s in volume["projected"]["sources"]] == ["shop-tls", "trust"], "%s", volume)
        check("volumeMounts" not in pod["spec"]["containers"][0], "the app has the key too: %s", pod["spec"]["containers"])
        check("scheme" not in pod["spec"]["containers"][0]["livenessProbe"]["httpGet"], "the app itself speaks no TLS: %s", pod["spec"]["containers"])

        before = w.template()
        for wrong, word in (({"tls_secret": None}, "tls-secret"), ({"tls_secret": "shop/tls"}, "tls-secret"), ({"tls_client_ca": "trust"}, "tls-client-ca"),
                            ({"upgrade": "yes"}, "upgrade"), ({"app_pipeline": "65"}, "app-pipeline")):
            w.annotate(**wrong)
            w.wait_phase("Invalid")
            condition = next(c for c in w.status()["conditions"] if c["type"] == "PolicyValid")
            check(word in condition["message"], "%s: %s", wrong, condition)
            check(w.template() == before and w.kube.get("protectedworkloads", "counter")["spec"] == spec, "%s changed something: %s", wrong, w.template())
            w.annotate(**TLS)
            w.wait_phase("Protected")

        w.annotate(tls_secret=None, tls_client_ca=None, upgrade=None, app_pipeline="8")
        wait_until("the template follows", lambda: w.template().get("crsc.io/app-pipeline") == "8" and not {"crsc.io/upgrade", "crsc.io/tls-secret", "crsc.io/tls-client-ca"} & set(w.template()), 60)
        pod = next_pod(w, pod, "counter-2", 20)
        check(not any(a.startswith("--tls") or a == "--upgrade" for a in pod["spec"]["initContainers"][0]["args"]), "%s", pod["spec"])
        check(not any(v["name"] == "crsc-data-tls" for v in pod["spec"].get("volumes", [])), "%s", pod["spec"])
        w.wait_phase("Protected")
        end(w)
        undone(w, (DEPLOYMENT, SERVICE))


def ago(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds))


def waits(w, pod, reason, message, seconds=25, **more):
    """The kubelet's word for a container that does not come to run, for so long."""
    w.kube.change("pods", pod["metadata"]["name"], {"metadata": {"creationTimestamp": ago(seconds)}})
    status = {"name": "app", "restartCount": 0, "state": {"waiting": {"reason": reason, "message": message}}, **more}
    w.kube.change("pods", pod["metadata"]["name"], {"status": {"conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [status]}})


def test_kubelet(bench, rng):
    """crsc.io/backend: kubelet. Pods have no RuntimeClass and begin with the newest checkpoint's image; one that cannot, for a while, is replaced, and that checkpoint is passed over: the
    next one begins with the one before, and after two in vain with the app's own image, if the log has everything. No crash loop, and the reasons are told. Undone."""
    with World(bench) as w:
        w.begin()
        pod = w.protect(backend="kubelet")
        check(w.template()["crsc.io/backend"] == "kubelet" and w.kube.get("protectedworkloads", "counter")["spec"]["backend"] == "kubelet", "%s", w.template())
        check("runtimeClassName" not in pod["spec"] and pod["metadata"]["annotations"]["crsc.io/backend"] == "kubelet", "%s", pod)
        check(pod["spec"]["containers"][0]["image"] == "app:1" and "crsc.io/checkpoint" not in pod["metadata"]["annotations"], "%s", pod)
        before = w.template()
        for wrong in ({"traffic": "redirect"}, {"replication": "log"}, {"image_registry": "-"}, {"backend": "podman"}):
            w.annotate(**wrong)
            w.wait_phase("Invalid")
            check("backend" in condition(w, "PolicyValid")["message"] and w.template() == before, "%s: %s %s", wrong, condition(w, "PolicyValid"), w.template())
            w.annotate(**{k: None for k in wrong} | {"backend": "kubelet"})
            w.wait_phase("Protected")
        w.agent.run(pod, 8)
        wait_until("a second checkpoint", lambda: len(w.valid()) == 2)
        w.agent.run(pod, 9)
        newest = [c["metadata"]["name"] for c in sorted(wait_until("a third one", lambda: (lambda v: v if len(v) == 3 else None)(w.valid())), key=lambda c: -c["status"]["offset"])]
        w.annotate(checkpoint_interval="3600s")
        wait_until("no more by themselves", lambda: w.kube.get("protectedworkloads", "counter")["spec"]["checkpointInterval"] == "3600s")

        # a pod that is made now begins with the newest, and with that of a Restore; another template with none
        w.kube.delete("pods", "counter-1")
        w.agent.gone(pod)
        pod = w.admit("counter-2")
        check(pod["spec"]["containers"][0]["image"] == "reg/x@sha256:" + "0" * 64 and pod["metadata"]["annotations"]["crsc.io/checkpoint"] == newest[0], "%s", pod)
        check(w.valid()[0]["status"]["templateHash"] == pod["metadata"]["annotations"]["crsc.io/template-hash"], "the hash is of the app's image")
        other = copy.deepcopy(pod)
        other["spec"] = copy.deepcopy(w.kube.get("deployments", "counter")["spec"]["template"]["spec"])
        other["spec"]["containers"][0]["image"] = "app:2"
        other["metadata"]["annotations"] = {k: v for k, v in w.template().items()}
        check(w.review(other)[0]["spec"]["containers"][0]["image"] == "app:2", "a rollout begins with nothing old")
        other["metadata"]["annotations"]["crsc.io/restore"] = "fresh"
        other["spec"]["containers"][0]["image"] = "app:1"
        check(w.review(other)[0]["spec"]["containers"][0]["image"] == "app:1", "fresh is fresh")
        w.agent.run(pod, 9, began="restored", snapshot=newest[0])
        w.wait_phase("Protected")

        # restores that nodes refuse: the next older one, then none
        w.agent.gone(pod)
        reasons = (("CreateContainerError", "checkpoint restore via CreateContainer is disabled by configuration"), ("StartError", "criu failed"))
        for i, (reason, words) in enumerate(reasons):
            if reason == "StartError":
                waits(w, pod, "CrashLoopBackOff", "back-off 10s", restartCount=2, lastState={"terminated": {"reason": reason, "message": words, "exitCode": 128}})
            else:
                waits(w, pod, reason, words)
            wait_until("the pod is replaced", lambda: w.kube.get("pods", pod["metadata"]["name"]) is None, 30)
            status = w.kube.get("checkpoints", newest[i])["status"]
            check(status["phase"] == "Valid" and status["unusableAt"] and status["logFirstOffset"] == 1 and words in status["message"] and pod["metadata"]["name"] in status["message"], "%s", status)
            check(words in wait_until("the condition", lambda: (lambda c: c["message"] if c["status"] == "False" and newest[i] in c["message"] else None)(condition(w, "CheckpointsUsable"))), "why")
            pod = w.admit(f"counter-{i + 3}")
            begins = pod["metadata"]["annotations"].get("crsc.io/checkpoint")
            check(begins == (newest[1] if i == 0 else None) and (pod["spec"]["containers"][0]["image"] == "app:1") == (i == 1), "%s", pod)
        check(len(w.valid()) == 3 and condition(w, "CrashLoop")["status"] == "False", "all are there still, and no loop: %s", w.status())
        w.agent.run(pod, 9, replayed=9)
        w.wait_phase("Protected")
        told = {"CheckpointUnusable", "PodReplaced"}
        wait_until("events tell of it", lambda: told <= {e["reason"] for e in w.kube.all("events")})

        def other(name, **more):
            """Another pod, with one of the checkpoints: changed before it is seen."""
            p = copy.deepcopy(pod)
            p["metadata"].update(name=name, uid=name, creationTimestamp=ago(more.pop("age", 0)))
            p["metadata"]["annotations"].update(more.pop("annotations", {}))
            p["status"]["containerStatuses"] = [{"name": "app", "restartCount": 0, **more}]
            return w.kube.put("pods", p)

        def begun(name):
            return w.admitted(name)["metadata"]["annotations"].get("crsc.io/checkpoint")

        # without its beginning the log is no way out: what was in vain is tried again, the longest ago first; later the newest
        def passed(*seconds, first=5):
            for name, s in zip(newest, seconds):
                w.kube.change("checkpoints", name, {"status": {"unusableAt": s and ago(s), "logFirstOffset": first}})
        passed(100, 200, None)
        wait_until("the one that was not tried", lambda: begun("x") == newest[2])
        passed(100, 200, 300)
        wait_until("the one that was tried first", lambda: begun("x") == newest[2])
        passed(300, 200, 100)
        wait_until("the one that was tried first", lambda: begun("x") == newest[0])
        passed(300, 200, 100, first=1)
        wait_until("none", lambda: begun("x") is None)
        passed(1200, 200, None, first=1)
        wait_until("the newest, after a while", lambda: begun("x") == newest[0])

        # what another image would not mend, or not yet: nothing follows
        for name, reason, age in (("config", "CreateContainerConfigError", 3000), ("pull", "ErrImagePull", 3000), ("making", "ContainerCreating", 3000), ("young", "ImagePullBackOff", 30),
                                  ("younger", "CreateContainerError", 5)):
            other("counter-" + name, age=age, annotations={"crsc.io/checkpoint": newest[2]}, state={"waiting": {"reason": reason, "message": "words"}})
        other("counter-old", age=70, annotations={"crsc.io/checkpoint": newest[2]}, state={"waiting": {"reason": "ErrImageNeverPull", "message": "not present"}})
        wait_until("the old one is replaced", lambda: w.kube.get("pods", "counter-old") is None, 30)
        check("not present" in w.kube.get("checkpoints", newest[2])["status"]["message"], "%s", w.kube.get("checkpoints", newest[2]))
        for name in ("config", "pull", "making", "young", "younger"):
            check(w.kube.get("pods", "counter-" + name) is not None, "%s: the other ones are waited for", name)
            w.kube.delete("pods", "counter-" + name)

        # in vain again, long after that: it is the checkpoint, and not the moment
        other("counter-again", age=30, annotations={"crsc.io/checkpoint": newest[0]}, state={"waiting": {"reason": "CreateContainerError", "message": "criu failed again"}})
        wait_until("it is replaced", lambda: w.kube.get("pods", "counter-again") is None, 30)
        wait_until("and the checkpoint has failed", lambda: w.kube.get("checkpoints", newest[0])["status"]["phase"] == "Failed")
        check("again" in w.kube.get("checkpoints", newest[0])["status"]["message"], "%s", w.kube.get("checkpoints", newest[0]))

        # who does not know what its container began with, or does not find it, or may take no checkpoints, is heard of; the first is replaced as if it had died
        def hindered(words):
            wait_until("the condition", lambda: (lambda c: c["status"] == "False" and words in c["message"])(condition(w, "BackendReady")), 30)
        check(condition(w, "BackendReady")["status"] == "True", "%s", w.status())
        w.agent.kubelet = "its feature gate ContainerCheckpoint is off"
        hindered("ContainerCheckpoint is off")
        other("counter-unseen", age=60, state={"running": {"startedAt": ago(20)}})
        hindered("does not find its container")
        w.kube.delete("pods", "counter-unseen")
        # begun again from its pod's image, where the log does not begin any more: a new pod is the only way
        p = other("counter-gap", restartCount=1, state={"running": {}})
        w.agent.run(p, 0)
        with w.agent.lock:
            w.agent.containers["counter-gap"]["interceptor"].update(state="waiting", app={"suspect": True}, detail="the log begins at offset 5, 1 is needed")
        wait_until("it is replaced", lambda: w.kube.get("pods", "counter-gap") is None, 30)
        w.agent.gone(p)
        before = len(w.status()["replacedAt"])
        for name, checkpoint in (("doubt", newest[1]), ("doubt-too", None)):
            p = other("counter-" + name, annotations={"crsc.io/checkpoint": checkpoint} if checkpoint else {}, state={"running": {}})
            w.agent.run(p, 0, began="unknown")
            with w.agent.lock:
                w.agent.containers[p["metadata"]["uid"]].update(attached=False, reason="the handler wants container_annotations")
            wait_until("it is replaced", lambda: w.kube.get("pods", p["metadata"]["name"]) is None, 30)
            w.agent.gone(p)
        check(len(w.status()["replacedAt"]) == before + 2, "they are counted: %s", w.status())
        wait_until("why", lambda: any("container_annotations" in e["message"] for e in w.kube.all("events") if e["reason"] == "BackendHindered"))
        w.agent.kubelet = ""
        wait_until("all is well", lambda: condition(w, "BackendReady")["status"] == "True", 30)

        # back to the default
        w.annotate(backend=None)
        wait_until("the template follows", lambda: "crsc.io/backend" not in w.template(), 60)
        fresh = w.admit("counter-9")
        check(fresh["spec"]["runtimeClassName"] == "crsc" and fresh["spec"]["containers"][0]["image"] == "app:1", "%s", fresh)
        end(w)
        undone(w, (DEPLOYMENT, SERVICE))


class PodReplica(Replica):
    """A pod's interceptor, with the arguments that the webhook gave it but for its addresses, and its app. The shelf is what agents read of the log and the registry."""

    def __init__(self, w, pod, shelf, app_flags=()):
        self.w, self.pod = w, pod
        super().__init__(w.bench, w.log, pod["metadata"]["name"], shelf, stream=pod["metadata"]["annotations"]["crsc.io/stream"], app_flags=app_flags)
        self.start_app()
        w.agent.run_replica(pod, self)
        self.wait_active()

    def start_interceptor(self):
        sidecar = self.pod["spec"]["initContainers"][0]
        check(sidecar["env"] == [{"name": "CRSC_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}], "%s", sidecar)
        ports = {"--listen": self.port, "--admin-listen": self.admin_port}
        args = dict(zip(sidecar["args"][::2], sidecar["args"][1::2]))
        args.update({name: f"127.0.0.1:{port}" for name, port in ports.items()})
        del args["--probe-listen"]
        words = [word.replace("$(CRSC_POD)", self.name) for pair in args.items() for word in pair]
        self.process = self.bench.spawn(f"interceptor-{self.name}", ["crsc-interceptor", *words])
        wait_until("the admin interface", lambda: self.status(strict=False), 30)

    def end(self):
        self.w.agent.gone(self.pod)
        self.process.kill()
        self.app.kill()


def condition(w, kind):
    return next((c for c in w.status().get("conditions", []) if c["type"] == kind), {"status": "", "message": ""})


def counted(replicas, n):
    wait_until(f"each is told that there are {n}", lambda: {r.status()["replicas"] for r in replicas} == {n}, 30)


def same_lists(replicas):
    wait_until("all apps have executed the same", lambda: len({tuple(r.list()) for r in replicas}) == 1, 30)


def none_under_way(w):
    wait_until("no checkpoint is under way", lambda: all(o.get("status", {}).get("phase") in ("Valid", "Failed") for o in w.kube.all("checkpoints")))


def begin_three(w):
    """A Deployment of three replicas, and its Service."""
    deployment = copy.deepcopy(DEPLOYMENT)
    deployment["spec"]["replicas"] = 3
    w.begin()
    w.kube.put("deployments", deployment)
    w.kube.put("services", SERVICE)
    return deployment


def test_replicas(bench, rng):
    """crsc.io/replication: log: what it needs is said; pods begin with each other's checkpoints, which are taken in turns; a lost node, a diverged app, a rollout and a
    scale-down are their own affair, and no sibling is fenced."""
    with World(bench) as w:
        deployment = begin_three(w)
        w.agent.plain = True
        w.annotate(checkpoint_restore="true", checkpoint_interval="1s")
        for annotations, word in (({}, "crsc.io/replication=log"), ({"replication": "log", "ordering": "concurrent"}, "ordering: serial"),
                                  ({"ordering": "serial", "upgrade": "pass"}, "upgrade: pass")):
            w.annotate(**annotations)
            wait_until(f"it says {word}", lambda word=word: word in condition(w, "PolicyValid")["message"], 60)
            w.wait_phase("Invalid")
            check(not w.template(), "nothing is changed: %s", w.template())
        w.annotate(upgrade=None)
        wait_until("the template is annotated", lambda: w.template().get("crsc.io/replication") == "log", 60)

        shelf = [(0, None)]
        a, b, c = (PodReplica(w, w.admit(f"counter-{k}", where), shelf) for k, where in (("a", "n1"), ("b", "n1"), ("c", "n2")))
        w.wait_phase("Protected")
        counted((a, b, c), 3)
        wait_until("the Service leads to the interceptors", lambda: leads_to(w) == "crsc-data", 60)
        check(not w.kube.get("services", "counter")["spec"]["publishNotReadyAddresses"], "one that is not ready refuses clients: another one can answer")
        n = 0

        def write(replica):
            nonlocal n
            n += 1
            check(Http(replica.port).json("POST", f"/add?id=w{n}")["n"] == n, "the write of %s", replica.name)

        def takers():
            write(rng.choice((a, b, c)))
            time.sleep(0.05)
            return {o["spec"]["pod"] for o in w.valid()} >= {"counter-a", "counter-b", "counter-c"}
        wait_until("each had its turn", takers, 60)
        same_lists((a, b, c))
        wait_until("they agree", lambda: condition(w, "ReplicasAgree")["status"] == "True")

        # one that differs: what it took is no way back, its pod goes, and the next one is like the others
        w.annotate(checkpoint_interval="3600s")
        wait_until("no more by themselves", lambda: w.kube.get("protectedworkloads", "counter")["spec"]["checkpointInterval"] == "3600s")
        none_under_way(w)
        check(c.direct("POST", "/add?id=rogue")[0] == 200, "the app by itself")
        w.kube.put("checkpoints", {"apiVersion": "crsc.io/v1alpha1", "kind": "Checkpoint", "metadata": {"name": "rogue"}, "spec": {"workload": "counter", "pod": "counter-c"}})
        wait_until("a checkpoint of it", lambda: (w.kube.get("checkpoints", "rogue") or {}).get("status", {}).get("phase") == "Valid", 30)
        bad = shelf[-1]
        write(a)
        wait_until("it is found out", lambda: c.status(strict=False) and c.status()["app"]["diverged"] > 0, 20)
        wait_until("its pod is deleted", lambda: w.kube.get("pods", "counter-c") is None, 60)
        spoilt = w.kube.get("checkpoints", "rogue")["status"]
        check(spoilt["phase"] == "Failed" and "diverged" in spoilt["message"], "%s", spoilt)
        check(any(o["spec"]["pod"] != "counter-c" for o in w.valid()), "what others took stays: %s", w.valid())
        wait_until("an event tells of it", lambda: any(e["reason"] == "PodReplaced" and "diverged" in e["message"] for e in w.kube.all("events")))
        c.end()
        shelf.remove(bad)
        d = PodReplica(w, w.admit("counter-d", "n2"), shelf)
        write(d)
        same_lists((a, b, d))
        wait_until("they agree again", lambda: condition(w, "ReplicasAgree")["status"] == "True", 30)

        # a lost node: its pod is removed, and nobody is fenced, not even the one that comes back
        epochs = {r.name: r.status()["epoch"] for r in (a, b, d)}
        w.kube.change("nodes", "n2", {"status": {"conditions": [{"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}, "")
        wait_until("the pod of the lost node is removed", lambda: w.kube.get("pods", "counter-d") is None)
        e = PodReplica(w, w.admit("counter-e", "n1"), shelf)
        for r in (a, b, d, e):
            write(r)
        same_lists((a, b, d, e))
        check(epochs == {r.name: r.status()["epoch"] for r in (a, b, d)}, "somebody had to open the stream again: %s", epochs)
        check(w.operator.find("fenced") is None, "the operator fenced a producer")
        d.end()
        w.kube.put("nodes", node("n2"), "")
        counted((a, b, e), 3)

        # a rollout to a version that answers otherwise, old requests too: neither is wrong for that, and within each a liar would be
        env = [{"name": "VERSION", "value": "2"}]
        containers = w.kube.get("deployments", "counter")["spec"]["template"]["spec"]["containers"]
        w.kube.change("deployments", "counter", {"spec": {"template": {"spec": {"containers": [{**containers[0], "env": env}]}}}})
        f, g = (PodReplica(w, w.admit(f"counter-{k}", "n2"), [(0, None)], ("--version", "2")) for k in "fg")  # of another template: the whole log, the dispute about the rogue in it
        counted((a, b, e), 3)
        counted((f, g), 2)
        for r in (a, f):
            write(r)
        same_lists((a, b, e, f, g))
        check(all(not r.status()["app"]["diverged"] and not r.status()["app"]["disagreement"] for r in (a, b, e, f, g)), "somebody is taken for wrong")
        check(f.status()["requests"]["digest_mismatches"] > 0, "version 2 answers otherwise: %s", f.status())
        for r in (a, b, e):
            w.kube.delete("pods", r.name)
            r.end()
        counted((f, g), 3)

        # scaled down to one: there is nobody to be compared with; what goes on is the same app
        w.kube.change("deployments", "counter", {"spec": {"replicas": 1, "template": {"spec": {"containers": containers}}}})
        w.kube.delete("pods", "counter-f")
        f.end()
        counted((g,), 0)
        write(g)

        wish(w, "restores", "back", checkpoint=w.valid()[0]["metadata"]["name"])
        check("not for replicas" in wished(w, "restores", "back", "Failed")["status"]["message"], "said so")
        w.annotate(replication=None)
        wait_until("the template follows", lambda: "crsc.io/replication" not in w.template(), 60)
        w.kube.delete("pods", "counter-g")
        alone = w.admit("counter-h")
        w.agent.run(alone, 1000)
        wait_until("the Service holds clients again", lambda: w.kube.get("services", "counter")["spec"]["publishNotReadyAddresses"], 60)
        end(w)
        deployment["spec"]["replicas"] = 1
        undone(w, (deployment, SERVICE))


def roles(w):
    """Which pods have which role: {"serving": {names}, "standby": {names}}; "" for those without."""
    found = {"serving": set(), "standby": set(), "": set()}
    for pod in w.kube.all("pods"):
        found.setdefault(pod["metadata"]["labels"].get("crsc.io/role", ""), set()).add(pod["metadata"]["name"])
    return found


COST = "controller.kubernetes.io/pod-deletion-cost"


def costs(w):
    return {pod["metadata"]["name"]: pod["metadata"].get("annotations", {}).get(COST) for pod in w.kube.all("pods")}


def test_standby(bench, rng):
    """crsc.io/standby: so many replicas take no clients, and are those that are dumped; when one that serves is lost, one of them is promoted. All of it is undone."""
    with World(bench) as w:
        w.poll = "1s"  # as it is when nobody says otherwise: what is seen sooner was told
        deployment = begin_three(w)
        patches = []

        def note(method, path):
            if method == "PATCH" and "/pods/" in path:
                patches.append((time.monotonic(), path.partition("?")[0].rpartition("/")[2]))

        def told(what, begun, spare):
            print(f"{what}: the standby's role was written {1000 * min(at - begun for at, name in patches if name == spare and at >= begun):.0f} ms later")
        w.kube.faults.append(note)
        w.annotate(checkpoint_restore="true", checkpoint_interval="1s", standby="1")
        for annotations, word in (({}, "standby wants"), ({"replication": "log", "traffic": "redirect"}, "traffic: redirect")):
            w.annotate(**annotations)
            wait_until(f"it says {word}", lambda word=word: word in condition(w, "PolicyValid")["message"], 60)
        w.annotate(traffic=None)
        wait_until("the template is annotated", lambda: w.template().get("crsc.io/replication") == "log", 60)
        check("crsc.io/standby" not in w.template(), "another number of standbys is no rollout")
        shelf, pods = [(0, None)], {}

        def is_ready(name):
            w.kube.change("pods", name, {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})

        def add(name):
            pod = w.admit(name, ready="False")
            check(pod["metadata"]["labels"].get("crsc.io/role") == "serving", "born to serve, for the time without an operator: %s", pod["metadata"])
            pods[name] = PodReplica(w, pod, shelf)
            is_ready(name)

        def comes_back(name):
            pods[name].start_app()
            w.agent.run_replica(pods[name].pod, pods[name])
            pods[name].wait_active()

        def chooses():
            return w.kube.get("services", "counter")["spec"]["selector"] == {"app": "counter", "crsc.io/role": "serving"}

        def settled(serving, standby):
            wait_until(f"{serving} serve, {standby} stand by", lambda: [len(roles(w)[k]) for k in ("serving", "standby", "")] == [serving, standby, 0], 60)
            return roles(w)
        for name in ("counter-a", "counter-b", "counter-c"):
            add(name)
        w.wait_phase("Protected")
        now = settled(2, 1)
        wait_until("the Service leads to those that serve", lambda: leads_to(w) == "crsc-data" and chooses(), 60)

        # dumped are standbys; "at last also another one" is for ten intervals without any
        before, n = {o["metadata"]["name"] for o in w.kube.all("checkpoints")}, 0
        def taken():
            nonlocal n
            n += 1
            check(Http(pods[min(now["serving"])].port).json("POST", f"/add?id=w{n}")["n"] == n, "a write")
            time.sleep(0.05)
            return len({o["metadata"]["name"] for o in w.valid()} - before) >= 2
        wait_until("checkpoints", taken, 60)
        none_under_way(w)
        of = {o["spec"]["pod"] for o in w.kube.all("checkpoints") if o["metadata"]["name"] not in before}
        failed = any(o["status"]["phase"] == "Failed" for o in w.kube.all("checkpoints"))  # then another one's turn comes
        check(of == now["standby"] or failed, "of %s, and the standby is %s", of, now["standby"])
        w.annotate(checkpoint_interval="3600s")

        # the app of one that serves dies: its interceptor says so before any kubelet does
        check([costs(w)[k] for k in (min(now["standby"]), min(now["serving"]))] == ["-1000", None], "a scale-down would take others: %s", costs(w))
        victim, spare = min(now["serving"]), min(now["standby"])
        begun = time.monotonic()
        pods[victim].app.kill()
        wait_until("they have changed roles", lambda: spare in roles(w)["serving"] and roles(w)["standby"] == {victim}, 30)
        told("its app was killed", begun, spare)
        check([costs(w)[k] for k in (victim, spare)] == ["-1000", None], "%s", costs(w))
        def promotion():  # the event follows the label
            return next((e["message"] for e in w.kube.all("events") if e["reason"] == "StandbyPromoted" and spare in e["message"]), None)
        print(wait_until("an event tells of it", promotion))
        comes_back(victim)

        # an interceptor dies, and nobody says that its pod is not ready
        lost, spare = min(roles(w)["serving"]), victim
        begun = time.monotonic()
        pods[lost].process.kill()
        wait_until("the standby takes over", lambda: spare in roles(w)["serving"] and lost in roles(w)["standby"], 30)
        told("its interceptor was killed", begun, spare)
        w.kube.delete("pods", lost)
        pods.pop(lost).end()
        add("counter-d")
        now = settled(2, 1)

        # a pod is deleted: its successor is born serving, so that one of three steps back
        lost, spare = min(now["serving"]), min(now["standby"])
        begun = time.monotonic()
        w.kube.delete("pods", lost)
        wait_until("the standby takes over", lambda: spare in roles(w)["serving"], 30)
        told("its pod was deleted", begun, spare)
        pods.pop(lost).end()
        add("counter-e")
        now = settled(2, 1)
        same_lists(pods.values())

        # requests are no reason to look at roles: the agents tell of them each second, and roles are looked at when a status is written (each 4 s, seen twice), or after 5 s
        def looks():
            return w.metrics("crsc_operator_reconciles_total"), w.metrics("crsc_operator_role_reconciles_total")
        begun, before, lists = time.monotonic(), looks(), w.agent.lists
        for i in range(10000):
            Http(pods[min(now["serving"])].port).json("POST", f"/add?id=m{i}")
            time.sleep(0.05)
            if w.agent.lists >= lists + 12:
                break
        after, took = looks(), time.monotonic() - begun
        print(f"in {took:.1f} s of requests: {after[0] - before[0]} looks, {after[1] - before[1]} of them at roles")
        check(after[1] - before[1] <= 5 + 0.6 * took, "%s looks at roles", after[1] - before[1])

        # an agent hangs, in a checkpoint: that is no reason to wait
        w.agent.stuck.set()
        lost, spare = min(now["serving"]), min(now["standby"])
        w.kube.put("checkpoints", {"apiVersion": "crsc.io/v1alpha1", "kind": "Checkpoint", "metadata": {"name": "hangs"}, "spec": {"workload": "counter", "pod": spare}})
        wait_until("the agent hangs", lambda: w.agent.waiting, 30)
        begun = time.monotonic()
        pods[lost].app.kill()
        wait_until("the standby takes over", lambda: spare in roles(w)["serving"] and lost in roles(w)["standby"], 30)
        told("its app was killed, and an agent hung", begun, spare)
        check(w.operator.find("action failed", action="start-checkpoint") is None, "only when the agent had been given up")
        w.agent.stuck.clear()
        wait_until("the checkpoint ends", lambda: w.kube.get("checkpoints", "hangs").get("status", {}).get("phase") in ("Valid", "Failed"), 60)
        comes_back(lost)

        # a node goes silent, of which Kubernetes says nothing yet: its pod is ready, and its role another one's
        lost, spare = min(roles(w)["serving"]), lost
        w.add_node("n3", "127.0.0.9")
        begun = time.monotonic()
        w.kube.change("pods", lost, {"spec": {"nodeName": "n3"}})
        wait_until("the standby takes over", lambda: spare in roles(w)["serving"] and lost in roles(w)["standby"], 30)
        told("its node went silent", begun, spare)
        w.kube.change("pods", lost, {"spec": {"nodeName": "n1"}})
        now = settled(2, 1)

        # a rollout: the new pod is a standby while it cannot serve, and serves then, though enough of the old ones do
        new = w.admit("counter-new", ready="False", labels={"pod-template-hash": "new"})
        pods["counter-new"] = PodReplica(w, new, shelf)
        wait_until("it is no hindrance", lambda: "counter-new" in roles(w)["standby"], 30)

        def looked_again():
            """One whole look at the roles, and the next one has begun: an annotation of a pod hastens both."""
            for i in range(3):
                w.kube.change("pods", "counter-new", {"metadata": {"annotations": {"looks": str(i)}}})
                time.sleep(0.3)

        def app_status(restarts, ready):
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            w.kube.change("pods", "counter-new", {"status": {
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": ready or now}],
                "containerStatuses": [{"name": "app", "restartCount": restarts, "state": {"running": {"startedAt": ready or now}}}]}})
        w.kube.change("deployments", "counter", {"spec": {"minReadySeconds": 3600}})
        app_status(0, None)
        looked_again()
        check("counter-new" in roles(w)["standby"], "clients were handed over to a pod that is ready since just now")
        w.kube.change("deployments", "counter", {"spec": {"minReadySeconds": None}})
        app_status(1, "2026-01-01T00:00:00Z")
        looked_again()
        check("counter-new" in roles(w)["standby"], "clients were handed over to a pod whose app died already")
        app_status(0, None)  # as if it had not
        wait_until("it takes clients over", lambda: "counter-new" in roles(w)["serving"] and len(roles(w)["serving"]) == 2, 30)
        old = min(roles(w)["standby"])
        w.kube.delete("pods", old)
        pods.pop(old).end()
        now = settled(2, 1)

        # the standby's pod is made anew under its name, in the moment in which it is promoted: that is another one
        lost, spare = min(now["serving"]), min(now["standby"])
        made = []
        def made_anew(method, path):
            if method == "PATCH" and path.split("?")[0].endswith("/pods/" + spare) and not made:
                another = copy.deepcopy(pods[spare].pod)
                for key in ("uid", "resourceVersion", "creationTimestamp"):
                    another["metadata"].pop(key, None)
                made.append(another)
                w.kube.delete("pods", spare)
                made.append(w.kube.put("pods", another))
        w.kube.faults.append(made_anew)
        pods[lost].app.kill()
        wait_until("it was another one", lambda: ("pods", spare) in w.kube.mistaken, 30)
        wait_until("it looks again", lambda: w.operator.find("not now; looking again", action="promote"), 30)
        check(w.operator.find("action failed", action="promote") is None, "that is no failure")
        w.agent.gone(pods[spare].pod)
        pods[spare].pod = made[1]
        w.agent.run_replica(made[1], pods[spare])
        is_ready(spare)
        wait_until("that one serves", lambda: spare in roles(w)["serving"] and lost in roles(w)["standby"], 30)
        w.kube.faults.remove(made_anew)
        comes_back(lost)
        same_lists(pods.values())

        theirs = now["serving"]
        for name in pods:  # what somebody else says of that is theirs
            w.kube.change("pods", name, {"metadata": {"annotations": {COST: "7"}}} if name in theirs else {})

        # an operator that is killed finds it as it is; more standbys, less replicas: one serves in any case
        w.operator.kill()
        w.operator = w.start()
        w.annotate(standby="5")
        now = settled(1, 2)

        # one is to be promoted, and the API server refuses the one of two that would be best: the other one is, then
        lost, refused = min(now["serving"]), []
        def refuse_one(method, path):
            name = path.partition("?")[0].rpartition("/")[2]
            if method != "PATCH" or "/pods/" not in path or name == lost or (refused and name != refused[0]):
                return None
            refused.append(name)
            return Refused(500, "InternalError")
        w.kube.faults.append(refuse_one)
        pods[lost].app.kill()
        other = wait_until("another one is promoted", lambda: roles(w)["serving"] - {lost}, 30)
        check(refused and refused[0] not in other, "of two it was not the one that could be: %s %s", refused, other)
        wait_until("it has changed roles with the one that was lost", lambda: roles(w)["serving"] == other, 30)
        w.kube.faults.remove(refuse_one)
        comes_back(lost)
        now = settled(1, 2)

        # of two that are to be promoted the API server refuses one, again and again: the other one is all the same, and nobody steps back meanwhile
        lost, refused = min(now["serving"]), []
        def refuse_first(method, path):
            name = path.partition("?")[0].rpartition("/")[2]
            if method != "PATCH" or "/pods/" not in path or name == lost:
                return None
            refused.append(name)
            return Refused(500, "InternalError") if name == refused[0] else None
        w.kube.faults.append(refuse_first)
        w.annotate(standby="1")
        wait_until("it is refused", lambda: refused, 30)
        pods[lost].app.kill()
        other = min(now["standby"] - {refused[0]})
        wait_until("the other one is promoted", lambda: other in roles(w)["serving"], 30)
        again = len(refused)
        wait_until("it goes on trying", lambda: len(refused) > again + 2, 30)
        check(roles(w)["standby"] == {refused[0]}, "somebody stepped back before all had been promoted: %s", roles(w))
        w.kube.faults.remove(refuse_first)
        wait_until("both serve", lambda: roles(w)["serving"] == {other, refused[0]} and roles(w)["standby"] == {lost}, 30)
        comes_back(lost)
        w.annotate(standby=None)
        wait_until("all serve again", lambda: roles(w)[""] == set(pods) and w.kube.get("services", "counter")["spec"]["selector"] == {"app": "counter"}, 60)
        w.annotate(standby="2")
        settled(1, 2)
        wait_until("the Service leads to the one that serves", chooses, 60)
        end(w)
        check(roles(w)[""] == set(pods), "roles are left: %s", roles(w))
        check(all(v == ("7" if k in theirs else None) for k, v in costs(w).items()), "what is ours goes, what is somebody else's stays: %s", costs(w))
        undone(w, (deployment, SERVICE))


def wish(w, plural, name, **spec):
    kind = {"restores": "Restore", "migrations": "Migration"}[plural]
    w.kube.put(plural, {"apiVersion": "crsc.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": {"workload": "counter", **spec}})


def wished(w, plural, name, *phases):
    return wait_until(f"{name} is {phases}", lambda: (lambda o: o if o.get("status", {}).get("phase") in phases else None)(w.kube.get(plural, name)))


def replaced(w, pod, name, node_name="n1", **runs):
    """The pod is deleted; its controller makes another, which runs."""
    wait_until("the pod is deleted", lambda: w.kube.get("pods", pod["metadata"]["name"]) is None)
    next_pod = w.admit(name, node_name)
    w.agent.run(next_pod, **runs)
    return next_pod


def test_restore_by_hand(bench, rng):
    """A Restore made by hand: the pod's successor is told which checkpoint, also by an operator that was killed meanwhile; what cannot be is refused."""
    with World(bench) as w:
        w.begin()
        pod = w.protect()
        first = w.valid()[0]["metadata"]["name"]
        w.agent.run(pod, 9)
        wait_until("a newer checkpoint", lambda: len(w.valid()) == 2)
        wish(w, "restores", "back", checkpoint=first)
        wait_until("the pod is deleted", lambda: w.kube.get("pods", "counter-1") is None)
        check(wished(w, "restores", "back", "Running")["status"]["pod"] == "counter-1", "it is noted before")
        w.operator.kill()
        w.operator = w.start()
        late = w.kube.put("pods", {**copy.deepcopy(pod), "metadata": {**copy.deepcopy(pod["metadata"]), "name": "counter-x", "uid": "x"}})
        w.agent.run(late, 9)  # it came past the webhook
        second = replaced(w, late, "counter-2", executed=9, began="restored", replayed=2, snapshot=first)
        check(second["metadata"]["annotations"]["crsc.io/restore"] == first, "%s", second["metadata"])
        status = wished(w, "restores", "back", "Done")["status"]
        check((status["checkpoint"], status["replayed"], status["began"]) == (first, 2, "restored"), "%s", status)
        wait_until("a wish that ended is nobody's", lambda: "crsc.io/restore" not in w.admitted("counter-y")["metadata"]["annotations"])
        wish(w, "restores", "nowhere", checkpoint="c-nowhere")
        status = wished(w, "restores", "nowhere", "Failed")["status"]
        check("no such checkpoint" in status["message"], "%s", status)
        wish(w, "restores", "fresh", checkpoint=first)
        replaced(w, second, "counter-3", executed=9)  # fresh: not as wished
        check("did not begin as wished" in wished(w, "restores", "fresh", "Failed")["status"]["message"], "said so")


def test_migration(bench, rng):
    """A Migration: a checkpoint, then the pod goes, and its successor is bound to the wished node."""
    with World(bench) as w:
        w.begin()
        pod = w.protect()
        wish(w, "migrations", "nowhere", node="n7")
        check("not there" in wished(w, "migrations", "nowhere", "Failed")["status"]["message"], "no such node")
        wish(w, "migrations", "here", node="n1")
        check("already" in wished(w, "migrations", "here", "Done")["status"]["message"], "nothing to do")
        w.agent.hold = True
        wish(w, "migrations", "there", node="n2")
        taking = wished(w, "migrations", "there", "Checkpointing")["status"]
        check(taking["from"] == "n1" and w.kube.get("pods", "counter-1"), "the pod stays until the checkpoint is valid")
        w.agent.hold = False
        second = replaced(w, pod, "counter-2", "n2", executed=7, began="restored", snapshot=taking["checkpoint"])
        check(second["spec"]["nodeSelector"]["kubernetes.io/hostname"] == "n2", "%s", second["spec"])
        check(wished(w, "migrations", "there", "Done")["status"]["pod"] == "counter-2", "moved")
        check(w.kube.get("checkpoints", taking["checkpoint"])["status"]["phase"] == "Valid", "%s", taking)


def test_agent_forgets(bench, rng):
    """An agent that was started again knows nothing of the checkpoint that it was taking: it fails soon, and the next one is taken."""
    with World(bench) as w:
        w.begin()
        pod = w.protect()
        w.agent.hold = True
        w.agent.run(pod, 9)
        running = wait_until("a checkpoint is under way", lambda: [c for c in w.kube.all("checkpoints") if c.get("status", {}).get("phase") == "Running"])[0]
        with w.agent.lock:
            w.agent.checkpoints.clear()
        w.agent.hold = False
        wait_until("it failed", lambda: w.kube.get("checkpoints", running["metadata"]["name"])["status"]["phase"] == "Failed", 60)
        wait_until("the next one is valid", lambda: any(c["status"]["offset"] == 9 for c in w.valid()), 60)


def test_wrong_annotation(bench, rng):
    with World(bench) as w:
        w.begin()
        w.kube.put("deployments", DEPLOYMENT)
        w.annotate(checkpoint_restore="true", checkpoint_interval="soon")
        w.wait_phase("Invalid")
        condition = next(c for c in w.status()["conditions"] if c["type"] == "PolicyValid")
        check(condition["status"] == "False" and "checkpoint-interval" in condition["message"], "%s", condition)
        check(not w.template(), "the template was changed for a policy that is not understood")
        w.annotate(checkpoint_interval="5s")
        wait_until("the template is annotated", lambda: w.template().get("crsc.io/workload"))
        wait_until("the spec is the annotation's", lambda: w.kube.get("protectedworkloads", "counter")["spec"]["checkpointInterval"] == "5s")


def test_webhook_leaves_alone(bench, rng):
    with World(bench) as w:
        w.begin()
        template = DEPLOYMENT["spec"]["template"]
        def pod(annotations, space="default", **spec):
            p = {"metadata": {"name": "p", "annotations": {"crsc.io/" + k: v for k, v in annotations.items()}}, "spec": {**template["spec"], **spec}}
            after, warnings = w.review(p, space)
            refused = after["metadata"]["annotations"].pop("crsc.io/refused", "")  # what cannot be protected says so, and nothing else of it changes
            check(not refused or refused in warnings[0], "%s, %s", refused, warnings)
            return after == p, warnings
        check(pod({}) == (True, []), "a pod without annotation was changed")
        on = {"checkpoint-restore": "true"}
        for what in ({"hostNetwork": True}, {"hostPID": True}, {"shareProcessNamespace": True}, {"runtimeClassName": "gvisor"}):
            same, warnings = pod(on, **what)
            check(same and warnings, "%s: changed, or no warning", what)
        same, warnings = pod(on, "kube-system")
        check(same and warnings, "a pod of kube-system was changed")
        check(pod(on)[0] is False, "a good one was not changed")
        check(pod({**on, "nonsense": "x"})[1][0].count("nonsense"), "an unknown annotation gets no warning")
        after, _ = w.review({"metadata": {"name": "p", "annotations": {"crsc.io/checkpoint-restore": "true"}}, "spec": template["spec"]})
        check(w.review(after)[0] == after, "injected twice")
        check(after["spec"]["containers"][0]["livenessProbe"]["failureThreshold"] == 15, "the liveness probe does not outlast a checkpoint")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        for body in (b"", b"{", b"[]", b"{\"request\":{}}", b"{\"request\":{\"uid\":7}}", b"\x00" * 100, b"[" * 100000):
            connection = http.client.HTTPSConnection("127.0.0.1", w.webhook_port, context=context, timeout=60)
            connection.request("POST", "/mutate", body)
            check(connection.getresponse().status == 400, "garbage was not refused: %r", body[:20])
            connection.close()
        check(w.operator.alive(), "the operator is gone")


def test_bad_network(bench, rng):
    """Pages, cut watches, 410, garbage, 429, 409, a token that changes: it goes on, and sees everything."""
    with World(bench, page=2) as w:
        for i in range(7):
            w.kube.put("deployments", {**DEPLOYMENT, "metadata": {"name": f"other-{i}"}})
        w.begin()
        w.protect()
        for round_number in range(12):
            w.kube.faults.clear()
            kind = round_number % 6
            if kind == 0:
                w.server.cut_watches()
            elif kind == 1:
                w.kube.forget_history()
                w.server.cut_watches()
            elif kind == 2:
                left = [4]
                def garbage(method, path, left=left):
                    left[0] -= 1
                    return "garbage" if left[0] >= 0 and method == "GET" and "watch" not in path else None
                w.kube.faults.append(garbage)
                w.kube.forget_history()
                w.server.cut_watches()
            elif kind == 3:
                left = [3]
                def refuse(method, path, left=left):
                    left[0] -= 1
                    return Refused(*rng.choice([(429, "TooManyRequests"), (500, "InternalError"), (409, "Conflict")])) if left[0] >= 0 else None
                w.kube.faults.append(refuse)
            elif kind == 4:
                left = [5]
                def cut(method, path, left=left):
                    left[0] -= 1
                    return "cut" if left[0] >= 0 else None
                w.kube.faults.append(cut)
                w.server.cut_watches()
            else:
                w.server.set_token(f"token-{round_number}")
                w.server.cut_watches()
            interval = f"{round_number + 2}s"
            w.annotate(checkpoint_interval=interval)
            wait_until(f"round {round_number}: the spec follows", lambda: w.kube.get("protectedworkloads", "counter")["spec"]["checkpointInterval"] == interval, 60)
        w.kube.faults.clear()
        check(any("continue=" in path for _, path in w.kube.requests), "the lists were not read in pages")
        end(w)
        undone(w, (DEPLOYMENT, SERVICE))


def test_killed_anywhere(bench, rng):
    """kill -9 at random moments through protection and its end: the next one brings it to the same place."""
    with World(bench) as w:
        w.begin()
        def kill_after(n):
            """Ends it when n more writes came to the server."""
            count = [n]
            def fault(method, path):
                if method != "GET":
                    count[0] -= 1
                    if count[0] == 0:
                        w.operator.kill()
                        return "cut" if rng.random() < 0.5 else None  # before or after its effect
                return None
            w.kube.faults.append(fault)
        def again():
            if not w.operator.alive():
                w.kube.faults.clear()
                w.operator = w.start()
                kill_after(rng.randint(1, 6))
        w.kube.put("deployments", DEPLOYMENT)
        w.kube.put("services", SERVICE)
        kill_after(1)
        w.annotate(checkpoint_restore="true", checkpoint_interval="1s", retain="1")
        wait_until("the template is annotated", lambda: again() or w.template().get("crsc.io/workload"), 60)
        def admitted():  # whoever is killed while it answers the webhook is asked again, as by a Deployment's controller
            again()
            try:
                return w.bundle() and w.admit("counter-1")
            except OSError:
                return None
        pod = wait_until("the webhook answers", admitted, 60)
        for offset in range(3, 6):
            w.agent.run(pod, offset)
            wait_until("a checkpoint of it", lambda: again() or any(c["status"]["offset"] == offset for c in w.valid()), 60)
        w.kube.faults.clear()
        again()
        kill_after(2)
        w.kube.change("deployments", "counter", {"metadata": {"annotations": {k: None for k in ("crsc.io/checkpoint-restore", "crsc.io/checkpoint-interval", "crsc.io/retain")}}})
        wait_until("the end", lambda: again() or (w.kube.get("protectedworkloads", "counter") is None and not w.template()), 60)
        undone(w, (DEPLOYMENT, SERVICE))


def test_stopped(bench, rng):
    """SIGTERM while agents answer, the log is asked and writes are on their way: each time it ends well, and the next one goes on."""
    with World(bench) as w:
        w.begin()
        pod, ended = w.protect(), threading.Event()
        bench.at_end.append(ended.set)

        def news():
            n = 100
            while not ended.wait(0.003):
                n += 1
                w.agent.run(pod, n)
        thread = threading.Thread(target=news, daemon=True)
        thread.start()
        for _ in range(int(os.environ.get("CRSC_ROUNDS", "6"))):
            time.sleep(rng.uniform(0, 0.6))
            check(w.operator.stop() == 0, "it did not stop well:\n%s", w.operator.tail(60))
            w.operator = w.start(elect=rng.random() < 0.5)  # with a lease to give back, or without
        ended.set()
        thread.join()
        w.agent.run(pod, 9000)
        wait_until("a checkpoint of it", lambda: any(c["status"]["offset"] == 9000 for c in w.valid()), 60)


def test_lost_node_and_crash_loop(bench, rng):
    with World(bench) as w:
        w.begin()
        pod = w.protect()
        stream = pod["metadata"]["annotations"]["crsc.io/stream"]
        w.bench.run("crsc-appendload", "--servers", w.log.servers, "--stream", stream.rpartition("-")[0] or stream, "--producers", "1", "--count", "5",
                    "--out", bench.path("acked"), status=None)
        w.kube.change("nodes", "n1", {"status": {"conditions": [{"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}, "")
        wait_until("the pod of the lost node is removed", lambda: w.kube.get("pods", "counter-1") is None)
        wait_until("an event tells of it", lambda: any(e["reason"] == "NodeLost" for e in w.kube.all("events")))
        w.kube.put("nodes", node("n1"), "")

        # a node of which nobody has told yet: who was scheduled a moment ago (here: in an hour, as --node-grace is 0) is not lost
        pod = w.admitted("counter-new", "n7")
        pod["status"]["conditions"].append({"type": "PodScheduled", "status": "True",
                                            "lastTransitionTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))})
        before = looks_at(w, "default/deployment/counter")
        w.kube.put("pods", pod)
        wait_until("the operator has looked at it", lambda: looks_at(w, "default/deployment/counter") > before + 2)
        check(w.kube.get("pods", "counter-new"), "a pod on a node that is new was taken for lost")
        w.kube.change("pods", "counter-new", {"status": {"conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
        wait_until("the pod of a node that is not there is removed", lambda: w.kube.get("pods", "counter-new") is None)
        for death in range(3):
            name = f"counter-{death + 2}"
            pod = w.admit(name, "n2")
            w.agent.run(pod, 20 + death)
            w.kube.change("pods", name, {"status": {"containerStatuses": [
                {"name": "app", "restartCount": 5, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                 "lastState": {"terminated": {"finishedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}}}]}})
            wait_until(f"{name} is replaced", lambda: w.kube.get("pods", name) is None)
        pod = w.admit("counter-9", "n2")
        w.kube.change("pods", "counter-9", {"status": {"containerStatuses": [
            {"name": "app", "restartCount": 5, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
             "lastState": {"terminated": {"finishedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}}}]}})
        w.wait_phase("CrashLoop")
        check(w.kube.get("pods", "counter-9"), "a fourth pod was replaced")


def test_fenced(bench, rng):
    """A pod that was fenced answers nothing any more: it is replaced, unless another one has its stream."""
    with World(bench) as w:
        w.begin()
        old = w.protect()
        new = w.admit("counter-2", "n2")
        w.agent.run(new, 7)
        fence = lambda pod, fenced: w.agent.containers[pod["metadata"]["uid"]]["interceptor"].update(fenced=fenced, state="waiting" if fenced else "active")
        fence(old, True)
        wait_until("it is seen", lambda: w.status().get("activePods") == 1)
        check(w.kube.get("pods", "counter-1") and w.kube.get("pods", "counter-2"), "the old pod of a rollout is its controller's business")
        w.kube.delete("pods", "counter-1")
        fence(new, True)
        wait_until("it is replaced", lambda: w.kube.get("pods", "counter-2") is None)
        wait_until("an event tells of it", lambda: any(e["reason"] == "PodReplaced" and "took its stream" in e["message"] for e in w.kube.all("events")))


def test_missed(bench, rng):
    """A pod that was made while no operator answered has no interceptor: it is replaced. One that cannot have it stays."""
    with World(bench) as w:
        w.begin()
        w.protect()
        wait_until("the Service leads to the interceptor", lambda: w.kube.get("services", "counter")["spec"]["ports"][0]["targetPort"] == "crsc-data")
        template = w.kube.get("deployments", "counter")["spec"]["template"]
        missed = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(template), "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
        missed["metadata"]["name"] = "refused"
        missed["spec"]["nodeName"] = "n1"
        missed["metadata"]["annotations"]["crsc.io/refused"] = "it cannot be"
        w.kube.put("pods", copy.deepcopy(missed))
        del missed["metadata"]["annotations"]["crsc.io/refused"]
        missed["metadata"]["name"] = "missed"
        w.kube.put("pods", missed)
        wait_until("it is replaced", lambda: w.kube.get("pods", "missed") is None, 40)
        wait_until("an event tells of it", lambda: any(e["reason"] == "PodReplaced" and "without an interceptor" in e["message"] for e in w.kube.all("events")))
        check(not w.status().get("replacedAt") and w.kube.get("pods", "refused"), "it did not die; and the other one stays: %s", w.status())
        wait_until("it is said why", lambda: condition(w, "PodsAccepted")["status"] == "False" and "pod refused is not protected: it cannot be" in condition(w, "PodsAccepted")["message"])
        wait_until("once, by an event too", lambda: [e["count"] for e in w.kube.all("events") if e["reason"] == "PodRefused"] == [1])
        w.kube.delete("pods", "refused")
        wait_until("it is past", lambda: condition(w, "PodsAccepted")["status"] == "True")


def looks_at(w, workload):
    """So many there were, at the workload and at its roles."""
    return sum(1 for e in w.operator.events() if e.get("msg") == "look" and e.get("workload") == workload)


def test_heard_of_one(bench, rng):
    """What the agent of a node says, and what changes of one workload, is no reason to look at those that have nothing there."""
    with World(bench) as w:
        w.kube.put("nodes", node("n2", address="127.0.0.2"), "")
        w.begin(hosts=("127.0.0.1", "127.0.0.2"))
        spec = copy.deepcopy(DEPLOYMENT["spec"])
        spec["selector"]["matchLabels"] = spec["template"]["metadata"]["labels"] = {"app": "quiet"}
        w.kube.put("deployments", {**DEPLOYMENT, "spec": spec, "metadata": {
            "name": "quiet", "annotations": {"crsc.io/checkpoint-restore": "true", "crsc.io/checkpoint-interval": "3600s"}}})
        wait_until("its template is annotated", lambda: w.kube.get("deployments", "quiet")["spec"]["template"]["metadata"].get("annotations"), 60)
        w.agents[1].run(w.admit("quiet-1", "n2", "deployments/quiet"), 0)
        pod = w.protect()
        wait_until("both are protected", lambda: w.status("quiet").get("phase") == "Protected", 60)
        busy, quiet = "default/deployment/counter", "default/deployment/quiet"
        begun, before, n = time.monotonic(), (looks_at(w, busy), looks_at(w, quiet)), 10
        while looks_at(w, busy) < before[0] + 60:  # each is the answer to something that was said, or noted
            check(time.monotonic() - begun < 2 * HANGS, "it hears nothing")
            n += 1
            w.agent.run(pod, n)
            time.sleep(0.02)
        looks, took = looks_at(w, quiet) - before[1], time.monotonic() - begun
        print(f"in {took:.1f} s {looks_at(w, busy) - before[0]} looks at the one, {looks} at the other")
        check(looks <= 5 + 0.6 * took, "%s looks at a workload that nothing was said of", looks)  # each 5 s, and each 4 s at what it noted itself
        w.agents[1].run(w.kube.get("pods", "quiet-1"), 5)
        wait_until("what its own agent says is heard", lambda: w.status("quiet").get("offset") == 5, 60)


def test_asked_while_wanted(bench, rng):
    """Only agents of nodes are asked that are there and have something of ours, and only by the operator that leads."""
    with World(bench) as w:
        hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
        for i, host in enumerate(hosts):
            w.kube.put("nodes", node(f"n{i + 1}", address=host), "")
        w.begin(hosts=hosts, elect=True)
        w.protect()
        w.admit("counter-2", "n2")
        w.admit("counter-3", "n3")

        def asked(agent):
            before = agent.asked
            wait_until("it is asked", lambda: agent.asked > before + 4)  # more than what may be on its way

        def asked_no_more(name, agent, start, until):
            w.operator.wait_for("an agent is asked no more", 60, start, node=name)
            seen = [-1, -2]

            def still():  # what was given up by who asked may come late
                seen.append(agent.asked)
                return seen[-1] == seen[-2]
            wait_until("no question is on its way", still, pause=1)
            before = agent.asked
            until()
            check(agent.asked <= before + 2, "the agent of %s is asked on: %s times", name, agent.asked - before)  # two may be on their way

        def while_first_is_asked():
            before = w.agent.asked
            wait_until("the others are asked", lambda: w.agent.asked > before + 40)
        for agent in w.agents:
            asked(agent)
        start = len(w.operator.events())
        w.kube.delete("pods", "counter-2")
        asked_no_more("n2", w.agents[1], start, while_first_is_asked)
        w.kube.delete("nodes", "n3", "")
        asked_no_more("n3", w.agents[2], start, while_first_is_asked)
        wait_until("its pod is removed", lambda: w.kube.get("pods", "counter-3") is None)
        w.add_node("n3", "127.0.0.3")
        w.admit("counter-4", "n3")
        asked(w.agents[2])

        start = len(w.operator.events())
        refuse = lambda method, path: Refused(500, "InternalError") if method == "PATCH" and "/leases/" in path else None
        w.kube.faults.append(refuse)

        def looked_for():
            before = sum(1 for method, path in w.kube.requests if method == "GET" and "/leases/" in path)
            wait_until("it looks for the lease", lambda: sum(1 for method, path in w.kube.requests if method == "GET" and "/leases/" in path) > before + 1)
        asked_no_more("n1", w.agent, start, looked_for)
        w.kube.faults.remove(refuse)
        asked(w.agent)
        asked(w.agents[2])


def test_clock_steps_back(bench, rng):
    """What is due is so by a clock that never goes back: a wall clock that is put right keeps nothing waiting."""
    module = os.path.join(bench.build.directory, "tests", "integration", "wallclock.so")
    if bench.build.sanitized:
        raise Skip("nothing is preloaded before a sanitizer")
    with open(bench.path("beside"), "w") as f:
        f.write("0")
    with World(bench) as w:
        w.begin(env={"LD_PRELOAD": module, "CRSC_WALLCLOCK": f.name})
        w.protect()
        w.annotate(checkpoint_interval="3600s")
        wait_until("no more by themselves", lambda: w.kube.get("protectedworkloads", "counter")["spec"]["checkpointInterval"] == "3600s")
        none_under_way(w)
        counter = "default/deployment/counter"
        looks = looks_at(w, counter)
        wait_until("it is looked at from time to time", lambda: looks_at(w, counter) > looks + 1)
        w.kube.faults.append(lambda method, path: Refused(500, "InternalError") if "/secrets" in path else None)  # a CA from the future is made anew, and would wake it
        with open(f.name, "w") as f:
            f.write("-3600")
        looks = looks_at(w, counter)
        wait_until("it still is", lambda: looks_at(w, counter) > looks + 2)


def test_two_operators(bench, rng):
    """One leads; when it is killed the other one takes over after the lease's end; a stop hands it over at once."""
    with World(bench) as w:
        w.operator = w.start("first", elect=True)
        w.operator.wait_for("leading")
        second = w.start("second", free_ports(1)[0], elect=True)
        w.kube.put("deployments", DEPLOYMENT)
        w.annotate(checkpoint_restore="true")
        wait_until("the template is annotated", lambda: w.template().get("crsc.io/workload"))
        check(second.find("leading") is None, "both lead")
        check(w.operator.stop() == 0, "it did not stop well")
        second.wait_for("leading", 30)
        lease = w.kube.get("leases", "crsc-operator", SPACE)
        check(lease["spec"]["holderIdentity"] == "second", "%s", lease["spec"])
        w.annotate(checkpoint_interval="9s")
        wait_until("the second goes on", lambda: w.kube.get("protectedworkloads", "counter")["spec"]["checkpointInterval"] == "9s")


if __name__ == "__main__":
    main([test_protects_and_undoes, test_redirect, test_interceptor_options, test_kubelet, test_replicas, test_standby, test_restore_by_hand, test_migration, test_agent_forgets, test_wrong_annotation, test_webhook_leaves_alone, test_bad_network,
          test_killed_anywhere, test_stopped, test_lost_node_and_crash_loop, test_fenced, test_missed, test_heard_of_one, test_asked_while_wanted, test_clock_steps_back, test_two_operators])
