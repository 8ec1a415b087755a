"""Cases of test_operator.py with apps of their own: one of others, and those that the counter becomes by its annotations: redirected, over TLS, three replicas, one that
dies of a request."""
import http.client
import os
import random
import re
import signal
import ssl
import threading
import time

from cluster import REGISTRY, ROOT, Pki, check, wait_until
from operator_world import PORT, only_pod
from workload import Clients, Workload


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
    pod = only_pod(there, True)
    pusher = Pusher(pod["status"]["podIP"])
    w.wait_taken_then_rest("pushgateway")
    wait_until("500 more pushes", lambda before=pusher.pushed: pusher.pushed >= before + 500, 60)
    c = w.kill_app(pod)
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
    w.delete("pushgateway")
    replay, times = c["interceptor"]["replay"], c["interceptor"]["times"]
    return f"{pushed} pushes, {replay['done']} of them replayed; answering again {(times['active_us'] - times['lost_us']) / 1000:.0f} ms after its death was seen"


class OfItsOwn(Clients):
    """Of an app that the clients of the other cases do not know."""

    earlier = []


def test_redirect(w):
    """crsc.io/traffic: redirect: whoever calls the pod at the app's own port is served by the interceptor, through the death of the app too; the kubelet's probes go
    past it, that of a native sidecar too, the Service stays as it is; undone with the annotation."""
    app = {"name": "app", "image": f"{REGISTRY}/counter:1", "args": ["--listen", "0.0.0.0:8080"], "ports": [{"containerPort": 8080}],
           "livenessProbe": {"httpGet": {"path": "/count", "port": 8080}, "periodSeconds": 1}}
    watcher = {"name": "watcher", "image": f"{REGISTRY}/counter:1", "args": ["--listen", "0.0.0.0:9100"], "restartPolicy": "Always",
               "livenessProbe": {"httpGet": {"path": "/count", "port": 8080}, "periodSeconds": 1, "failureThreshold": 20}}
    service = [{"port": 80, "protocol": "TCP", "targetPort": 8080}]
    w.cluster.apply(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "led"}, "spec": {
            "selector": {"matchLabels": {"app": "led"}},
            "template": {"metadata": {"labels": {"app": "led"}}, "spec": {"terminationGracePeriodSeconds": 2, "initContainers": [watcher], "containers": [app]}}}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "led"}, "spec": {"selector": {"app": "led"}, "ports": service}})
    w.kubectl("annotate deployment/led crsc.io/checkpoint-restore=true crsc.io/checkpoint-interval=2s crsc.io/traffic=redirect")
    w.wait_phase("Protected", "led")
    led = Workload(w.cluster, "led")
    pod = only_pod(led, True)
    agent = w.agents[pod["spec"]["nodeName"]]
    clients = OfItsOwn(led, port=8080)
    clients.wait(300)
    w.wait_taken_then_rest("led")
    clients.wait(300)
    w.kill_app(pod)
    clients.wait(200)
    told = clients.audit()
    check(not clients.refusals(), "clients saw errors: %s", clients.refusals()[:5])
    check(agent.container(pod["metadata"]["name"])["interceptor"]["offsets"]["executed"] >= told, "every one of them is in the log")
    connection = http.client.HTTPConnection(clients.address, 15023, timeout=10)
    connection.request("GET", "/count")
    check(connection.getresponse().status == 200, "past the interceptor")
    connection.close()
    now_there = only_pod(led, True)
    restarts = [s["restartCount"] for s in now_there["status"]["containerStatuses"] if s["name"] == "app"]
    check(now_there["metadata"]["uid"] == pod["metadata"]["uid"] and restarts == [1], "the probe has not killed it: %s", restarts)
    init = {s["name"]: s["restartCount"] for s in now_there["status"]["initContainerStatuses"]}
    asked = {c["name"]: c["livenessProbe"]["httpGet"]["port"] for c in now_there["spec"]["initContainers"] if "livenessProbe" in c}
    check(asked == {"watcher": 15023} and init["watcher"] == 0, "%s %s", asked, init)
    check([{k: p[k] for k in service[0]} for p in w.cluster.get("service", "led")["spec"]["ports"]] == service, "the Service was touched")
    w.kubectl("annotate deployment/led crsc.io/checkpoint-restore- crsc.io/checkpoint-interval- crsc.io/traffic-")
    w.wait_unprotected("led")
    pod = only_pod(led, False)
    check(not w.cluster.get("deployment", "led")["spec"]["template"]["spec"].get("schedulingGates"), "the template is as it was")
    connection = http.client.HTTPConnection(pod["status"]["podIP"], 8080, timeout=10)
    connection.request("GET", "/list")
    answer = connection.getresponse()
    check(answer.status == 200 and not answer.read(), "its own app answers, and knows nothing")
    connection.close()
    w.delete("led", "deployment,service")
    return f"{told} writes through port 8080"


def test_refused(w):
    """A pod that cannot be protected, as one of its volumes is called like ours: the app serves without, and its workload says why; with the volume gone it is protected."""
    app = {"name": "app", "image": f"{REGISTRY}/counter:1", "args": ["--listen", "0.0.0.0:8080"], "ports": [{"containerPort": 8080}]}
    w.cluster.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "odd"}, "spec": {
        "selector": {"matchLabels": {"app": "odd"}}, "template": {"metadata": {"labels": {"app": "odd"}}, "spec": {
            "terminationGracePeriodSeconds": 2, "containers": [app], "volumes": [{"name": "crsc-log-tls", "emptyDir": {}}]}}}})
    w.kubectl("annotate deployment/odd crsc.io/checkpoint-restore=true")

    def accepted():
        return next((c for c in w.record("odd").get("status", {}).get("conditions", []) if c["type"] == "PodsAccepted"), {"status": "", "message": ""})
    wait_until("it is said why", lambda: accepted()["status"] == "False" and "crsc-log-tls" in accepted()["message"], 60, pause=0.2)
    odd = Workload(w.cluster, "odd")
    connection = http.client.HTTPConnection(only_pod(odd, False)["status"]["podIP"], 8080, timeout=10)
    connection.request("GET", "/count")
    check(connection.getresponse().status == 200, "it serves without")
    connection.close()
    check(w.record("odd")["status"]["phase"] == "Pending", "%s", w.record("odd")["status"])
    w.kubectl('patch deployment odd --type=json -p [{"op":"remove","path":"/spec/template/spec/volumes"}]')
    w.wait_phase("Protected", "odd")
    only_pod(odd, True)
    wait_until("that is past", lambda: accepted()["status"] == "True", 30, pause=0.2)
    w.delete("odd")
    return "its condition says why"


class Shop:
    """An app whose clients speak TLS and show a certificate, all of one CA."""

    def __init__(self, w):
        self.w, self.pki = w, Pki(w.cluster.at("shop-pki"))
        self.pki.certificate("client", "/CN=client", "DNS:client")
        self.renew("one")

    def renew(self, name):
        """Another certificate for the interceptors; this one is the Secret's from write_secret() on."""
        self.pki.certificate(name, f"/CN={name}", "DNS:shop.test")
        self.name = name

    def write_secret(self):
        words = {"tls.crt": self.pki.read(self.name + ".crt"), "tls.key": self.pki.read(self.name + ".key"), "ca.crt": self.pki.read("ca.crt")}
        self.w.cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shop-tls"}, "type": "kubernetes.io/tls", "stringData": words})

    def connect(self, address, client="client", timeout=5):
        context = ssl.create_default_context(cafile=self.pki.at("ca.crt"))
        context.check_hostname = False  # pods are called by their addresses
        if client:
            context.load_cert_chain(self.pki.at(client + ".crt"), self.pki.at(client + ".key"))
        return http.client.HTTPSConnection(address, PORT, context=context, timeout=timeout)

    def served(self, address):
        """The certificate that the interceptor shows: its serial number."""
        connection = self.connect(address)
        try:
            connection.connect()
            return int(connection.sock.getpeercert()["serialNumber"], 16)
        finally:
            connection.close()

    def serial(self):
        return int(self.w.cluster.cp("openssl", "x509", "-noout", "-serial", "-in", self.pki.at(self.name + ".crt")).strip().partition("=")[2], 16)

    def refused(self, connection):
        """Neither an answer nor a word of the app's."""
        try:
            connection.request("GET", "/list")
            return connection.getresponse().status >= 400
        except (OSError, http.client.HTTPException):
            return True
        finally:
            connection.close()


class OfTheShop(Clients):
    """Over TLS, with a certificate."""

    earlier = []

    def __init__(self, workload, shop):
        self.shop = shop
        super().__init__(workload, port=PORT)

    def connect(self, address, timeout):
        return self.shop.connect(address, timeout=timeout)


def test_tls(w):
    """crsc.io/tls-secret and tls-client-ca: a Secret that is not there keeps the new pod from starting while the old one serves; then clients speak TLS and show a certificate,
    through the death of the app; without either nobody is served; a renewed certificate is taken without a rollout; CAs from a ConfigMap with one, which keeps the state."""
    shop = Shop(w)
    w.create_counter("shop")
    there = Workload(w.cluster, "shop")
    old = only_pod(there, False)
    w.kubectl("annotate deployment/shop crsc.io/checkpoint-restore=true crsc.io/checkpoint-interval=2s crsc.io/tls-secret=shop-tls crsc.io/tls-client-ca=secret/shop-tls")
    wait_until("the kubelet says that there is no such Secret", lambda: any(
        e["reason"] == "FailedMount" and "shop-tls" in e["message"] for e in w.cluster.get("events")["items"]), 90, pause=0.5)
    check(there.wait_ready()["metadata"]["uid"] == old["metadata"]["uid"], "the old pod serves")
    shop.write_secret()
    w.wait_phase("Protected", "shop", 180)
    pod = only_pod(there, True)
    address = pod["status"]["podIP"]
    clients = OfTheShop(there, shop)
    clients.wait(200)
    check(shop.refused(http.client.HTTPConnection(address, PORT, timeout=5)), "plain HTTP is not served")
    check(shop.refused(shop.connect(address, None)), "who shows no certificate is not served")
    shop.pki.run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=stranger",
                 "-keyout", shop.pki.at("stranger.key"), "-out", shop.pki.at("stranger.crt"))
    check(shop.refused(shop.connect(address, "stranger")), "nor is who shows another CA's")
    w.wait_taken_then_rest("shop")
    w.kill_app(pod)
    clients.wait(200)
    check(shop.served(address) == shop.serial(), "the Secret's certificate is shown")
    shop.renew("two")
    shop.write_secret()
    begun = time.monotonic()
    wait_until("the renewed certificate is shown", lambda: shop.served(address) == shop.serial(), 180, pause=0.5)
    renewed = time.monotonic() - begun
    clients.wait(200)
    told = clients.audit()
    check(not clients.refusals(), "clients saw errors: %s", clients.refusals()[:5])

    w.cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "trust"}, "data": {"bundle.crt": shop.pki.read("ca.crt")}})
    w.kubectl("annotate deployment/shop --overwrite crsc.io/tls-client-ca=configmap/trust/bundle.crt")
    wait_until("another pod", lambda: there.ready(other_than=(pod["metadata"]["uid"],)), 180, pause=0.2)
    pod = only_pod(there, True)
    check(shop.refused(shop.connect(pod["status"]["podIP"], "stranger")), "a stranger is not served there either")
    clients = OfTheShop(there, shop)
    clients.wait(50)
    told += clients.audit()
    c = w.agents[pod["spec"]["nodeName"]].container(pod["metadata"]["name"])
    check(c["began"] == "restored", "the state was kept by its checkpoint: %s", c)
    w.delete("shop")
    w.kubectl("delete secret/shop-tls configmap/trust")
    return f"{told} writes over TLS; a renewed certificate was in use after {renewed:.0f} s"


class Replicas(Workload):
    """Any of its ready pods, as a Service would choose."""

    def ready(self, other_than=()):
        pods = [p for p in self.pods() if {c["type"]: c["status"] for c in p["status"].get("conditions", [])}.get("Ready") == "True" and p["status"].get("podIP")
                and p["metadata"]["uid"] not in other_than]
        return random.choice(pods) if pods else None


class OfReplicas(Clients):
    earlier = []
    moves_on = True


class Crowd:
    """Clients at several replicas."""

    def __init__(self, workload):
        self.each = [OfReplicas(workload, n=2, port=PORT) for _ in range(3)]

    def wait(self, more):
        for clients in self.each:
            clients.wait(more)

    def audit(self):
        for clients in self.each:
            clients.stop()
        self.each[0].audit()  # of all of them
        return sum(clients.total() for clients in self.each)


def served_replicas(w, many, n, other_than=()):
    """The containers of so many pods, when all serve, and no other pod is left."""
    def look():
        pods = many.pods()
        if len(pods) != n or any("initContainers" not in p["spec"] or "nodeName" not in p["spec"] for p in pods):
            return None
        found = [w.agents[p["spec"]["nodeName"]].container(p["metadata"]["name"]) for p in pods]
        return found if all(c and c["interceptor"]["state"] == "active" and c["id"] not in other_than for c in found) and many.ready() else None

    def calm():
        try:
            return look()
        except OSError:  # an agent that is away
            return None
    return wait_until(f"{n} replicas serve", calm, 180, pause=0.2)


def all_counted(w, many, n, of):
    return wait_until(f"each of {n} hears that there are {of}", lambda: (lambda all: all if {c["interceptor"]["replicas"] for c in all} == {of} else None)(
        served_replicas(w, many, n)), 60, pause=0.2)


def app_list(pod):
    connection = http.client.HTTPConnection(pod["status"]["podIP"], 8080, timeout=20)  # past the interceptor
    try:
        connection.request("GET", "/list")
        return connection.getresponse().read().decode().split()
    finally:
        connection.close()


def test_replicas(w):
    """crsc.io/replication: log: three pods are one app. An app killed, a pod deleted, a node cut off, rollouts, scaling: the others go on, and no sibling has to open the
    stream again; checkpoints are taken in turns and are everybody's; an app that differs is rebuilt."""
    w.create_counter("many", "--replicas=3", tolerations=[
        {"key": f"node.kubernetes.io/{k}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0} for k in ("unreachable", "not-ready")])
    w.kubectl("expose deployment many --port=80 --target-port=8080")
    w.kubectl("annotate deployment/many crsc.io/checkpoint-restore=true crsc.io/checkpoint-interval=2s crsc.io/replication=log crsc.io/logging=optimistic")

    def says(word):
        conditions = w.record("many").get("status", {}).get("conditions", [])
        return any(c["type"] == "PolicyValid" and c["status"] == "False" and word in c["message"] for c in conditions)
    wait_until("what does not go together is said", lambda: says("logging: pessimistic"), 60, pause=0.2)
    w.kubectl("annotate deployment/many crsc.io/replication- crsc.io/logging-")
    wait_until("what three pods need is said", lambda: says("crsc.io/replication=log"), 60, pause=0.2)
    w.kubectl("annotate deployment/many crsc.io/replication=log")
    w.wait_phase("Protected", "many", 240)
    many = Replicas(w.cluster, "many")
    all_counted(w, many, 3, 3)
    crowd = Crowd(many)
    takers = set()

    def taken():
        takers.update(c["spec"]["pod"] for c in w.taken("many"))
        return len(takers) >= 3
    wait_until("each had its turn", taken, 90, pause=0.5)
    w.kubectl("annotate deployment/many --overwrite crsc.io/checkpoint-interval=1h")
    crowd.wait(100)

    def epochs(containers):
        return {c["pod"]: c["interceptor"]["epoch"] for c in containers}
    before = served_replicas(w, many, 3)
    os.kill(before[0]["pid"], signal.SIGKILL)
    crowd.wait(100)  # all clients, whichever they had
    after = served_replicas(w, many, 3, {before[0]["id"]})
    again = next(c for c in after if c["pod"] == before[0]["pod"])
    check(again["began"] == "restored" and epochs(after) == epochs(before), "%s", again)

    w.kubectl(f"delete pod {before[1]['pod']} --wait=false")
    crowd.wait(100)
    after = served_replicas(w, many, 3, {before[1]["id"]})
    new = next(c for c in after if c["pod"] not in epochs(before))
    left = {pod: epoch for pod, epoch in epochs(before).items() if pod != before[1]["pod"]}
    check(new["began"] == "restored" and left.items() <= epochs(after).items(), "%s", new)
    told = crowd.audit()

    # an app that differs: nobody writes meanwhile, as whom it answers before it is found out has had a wrong answer
    all_counted(w, many, 3, 3)
    wrong = many.wait_ready()
    connection = http.client.HTTPConnection(wrong["status"]["podIP"], 8080, timeout=10)
    connection.request("POST", "/add?id=rogue")
    check(connection.getresponse().status == 200, "the app by itself")
    connection.close()
    w.wish("Checkpoint", "many-rogue", {"workload": "many", "pod": wrong["metadata"]["name"]})
    check(w.checkpoint_ended("many-rogue")["phase"] == "Valid", "a dump of it is one like any other")
    other = many.wait_ready(other_than=(wrong["metadata"]["uid"],))
    connection = http.client.HTTPConnection(other["status"]["podIP"], PORT, timeout=10)
    connection.request("POST", "/add?id=after-rogue")
    check(connection.getresponse().status == 200, "another one answers")
    connection.close()
    wait_until("its pod is replaced", lambda: wrong["metadata"]["uid"] not in [p["metadata"]["uid"] for p in many.pods()], 60, pause=0.1)
    spoilt = w.checkpoint_ended("many-rogue")
    check(spoilt["phase"] == "Failed" and "diverged" in spoilt["message"], "%s", spoilt)
    served_replicas(w, many, 3)
    wait_until("all are the same", lambda: len({tuple(app_list(p)) for p in many.pods()}) == 1, 60, pause=0.5)
    check("rogue" not in app_list(many.pods()[0]), "it came back")
    OfReplicas.earlier[0].unknown.add("after-rogue")
    crowd = Crowd(many)
    crowd.wait(50)

    node = next(n for n in w.cluster.nodes if any(p["spec"]["nodeName"] == n.name for p in many.pods()))
    here = {p["metadata"]["uid"] for p in many.pods() if p["spec"]["nodeName"] == node.name}
    healthy = {pod: epoch for pod, epoch in epochs(served_replicas(w, many, 3)).items() if pod in [p["metadata"]["name"] for p in many.pods() if p["metadata"]["uid"] not in here]}
    node.cut()
    try:
        wait_until("its pods are replaced", lambda: not here & {p["metadata"]["uid"] for p in many.pods()} and len(many.pods()) == 3, 120, pause=0.2)
        crowd.wait(100)
    finally:
        node.mend()
    check(healthy.items() <= epochs(served_replicas(w, many, 3)).items(), "a sibling was fenced: %s", healthy)
    told += crowd.audit()

    crowd = Crowd(many)
    old = {c["id"] for c in served_replicas(w, many, 3)}
    w.kubectl("rollout restart deployment/many")
    served_replicas(w, many, 3, old)
    crowd.wait(50)
    old = {c["id"] for c in served_replicas(w, many, 3)}
    w.kubectl("set env deployment/many VERSION=2")
    check(all(c["began"] == "fresh" for c in served_replicas(w, many, 3, old)), "another template: the whole log")
    all_counted(w, many, 3, 3)
    crowd.wait(50)
    w.kubectl("scale deployment/many --replicas=1")
    all_counted(w, many, 1, 0)
    w.kubectl("scale deployment/many --replicas=3")
    all_counted(w, many, 3, 3)
    crowd.wait(50)
    told += crowd.audit()
    print(w.kubectl("get protectedworkloads"), end="", flush=True)
    w.kubectl("annotate deployment/many crsc.io/checkpoint-restore- crsc.io/checkpoint-interval- crsc.io/replication-")
    w.wait_unprotected("many", 180)
    w.delete("many", "deployment,service")
    return f"{told} writes through any of three pods"


def test_crash_loop(w):
    """A request that kills the app, and so does each replay of it: the workload comes to say CrashLoop, and its pods are not replaced for ever."""
    w.create_counter("doomed")
    w.kubectl("annotate deployment/doomed crsc.io/checkpoint-restore=true")
    w.wait_phase("Protected", "doomed")
    doomed = Workload(w.cluster, "doomed")
    connection = http.client.HTTPConnection(only_pod(doomed, True)["status"]["podIP"], PORT, timeout=5)
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
    w.delete("doomed")
    return "3 pods replaced, then CrashLoop"
