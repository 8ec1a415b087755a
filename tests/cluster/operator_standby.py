"""The case standby of test_operator.py: two pods of which one takes clients, as the endpoints of their Service say."""
import os
import signal
import time

from cluster import check, wait_until
from operator_apps import Replicas, served_replicas
from operator_world import PORT
from workload import Clients, Workload


class Behind(Workload):
    """The pods that its Service leads to, as kube-proxy would see them."""

    def endpoints(self):
        slices = self.cluster.api.get(f"/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name={self.name}")["items"]
        return {e["targetRef"]["name"]: e for s in slices for e in s.get("endpoints") or [] if e["conditions"].get("ready")}

    def ready(self, other_than=()):
        found = [e for e in self.endpoints().values() if e["targetRef"]["uid"] not in other_than]
        return {"metadata": {"name": found[0]["targetRef"]["name"], "uid": found[0]["targetRef"]["uid"]}, "status": {"podIP": found[0]["addresses"][0]}} if found else None

    def roles(self):
        """{"serving": {names}, "standby": {names}} of the pods that are not on their way out."""
        found = {"serving": set(), "standby": set(), "": set()}
        for pod in self.cluster.api.pods(selector=f"?labelSelector=app={self.name}"):
            if "deletionTimestamp" not in pod["metadata"]:
                found[pod["metadata"]["labels"].get("crsc.io/role", "")].add(pod["metadata"]["name"])
        return found


class OfThePair(Clients):
    earlier = []
    moves_on = True


def taken_over(pair, clients, case, strike):
    """One that serves is lost: what it took until another one had its role, until the Service led there, and how long clients had no answer."""
    lost = next(iter(pair.roles()["serving"]))
    begun = time.monotonic()
    strike(lost)
    wait_until(f"{case}: another one has the role", lambda: pair.roles()["serving"] - {lost}, 60, pause=0.005)
    role = time.monotonic() - begun
    wait_until(f"{case}: the Service leads there", lambda: set(pair.endpoints()) - {lost}, 60, pause=0.005)
    service = time.monotonic() - begun
    clients.wait(50)
    acks = sorted(when for acked in clients.acked for _, _, when in acked if when > begun - 1)
    gap = max(b - a for a, b in zip(acks, acks[1:]))

    def promotions():  # the event follows the label
        return [e for e in pair.cluster.api.get("/api/v1/namespaces/default/events")["items"] if e["reason"] == "StandbyPromoted"]
    events = wait_until(f"{case}: an event tells of it", promotions, 60, pause=0.1)
    print(f"        {case}: another role after {role * 1000:.0f} ms, the Service after {service * 1000:.0f} ms, clients without an answer for {gap * 1000:.0f} ms; "
          f"{max(events, key=lambda e: e['metadata']['creationTimestamp'])['message']}", flush=True)
    wait_until(f"{case}: one serves, one stands by", lambda: [len(n) for n in pair.roles().values()] == [1, 1, 0], 60, pause=0.1)
    return lost


def test_standby(w):
    """crsc.io/standby: of two pods one takes clients, the other one is dumped. The app, the interceptor and the pod of the one that serves are lost: the standby is promoted.
    Taken away, the Service leads to both, and no label is left."""
    w.create_counter("pair", "--replicas=2")
    w.kubectl("expose deployment pair --port=80 --target-port=8080")
    w.kubectl("annotate deployment/pair crsc.io/checkpoint-restore=true crsc.io/checkpoint-interval=2s crsc.io/replication=log crsc.io/standby=1")
    w.wait_phase("Protected", "pair", 240)
    pair, many = Behind(w.cluster, "pair"), Replicas(w.cluster, "pair")
    served_replicas(w, many, 2)
    wait_until("one serves, one stands by", lambda: [len(n) for n in pair.roles().values()] == [1, 1, 0], 60, pause=0.1)
    wait_until("the Service leads to the one that serves", lambda: w.cluster.get("service", "pair")["spec"]["selector"].get("crsc.io/role") == "serving"
               and set(pair.endpoints()) == pair.roles()["serving"], 60, pause=0.1)
    clients = OfThePair(pair, port=PORT)
    known = set(w.checkpoints())

    def taken():
        return [c for name, c in w.checkpoints().items() if name not in known and c["spec"]["workload"] == "pair" and c.get("status", {}).get("phase") == "Valid"]
    clients.wait(100)
    wait_until("checkpoints", lambda: len(taken()) >= 2, 60, pause=0.2)
    check({c["spec"]["pod"] for c in taken()} == pair.roles()["standby"], "dumped were %s, the standby is %s", {c["spec"]["pod"] for c in taken()}, pair.roles())
    w.kubectl("annotate deployment/pair --overwrite crsc.io/checkpoint-interval=1h")

    def app_of(name):
        return next(c for c in (a.container(name) for a in w.agents.values()) if c)
    lost = taken_over(pair, clients, "app killed", lambda name: os.kill(app_of(name)["pid"], signal.SIGKILL))
    served_replicas(w, many, 2)
    check(lost in pair.roles()["standby"], "the one that was lost is the standby when it is back: %s", pair.roles())

    def kill_interceptor(name):
        pids = [pid for pid in w.cluster.programs("crsc-interceptor"[:15]) if w.cluster.hostname(pid) == name]  # as the kernel has its name
        check(len(pids) == 1, "the interceptor of %s: %s", name, pids)
        os.kill(pids[0], signal.SIGKILL)
    taken_over(pair, clients, "interceptor killed", kill_interceptor)
    served_replicas(w, many, 2)
    taken_over(pair, clients, "pod deleted", lambda name: check(w.cluster.api.call("DELETE", f"/api/v1/namespaces/default/pods/{name}")[0] == 200, "deleted"))
    served_replicas(w, many, 2)
    clients.wait(50)
    told = clients.audit()

    w.kubectl("annotate deployment/pair crsc.io/standby-")
    wait_until("both serve, and no role is left", lambda: pair.roles()[""] == set(pair.endpoints()) and len(pair.endpoints()) == 2, 60, pause=0.1)
    check(w.cluster.get("service", "pair")["spec"]["selector"] == {"app": "pair"}, "the selector is as it was")
    w.kubectl("annotate deployment/pair crsc.io/standby=1")
    wait_until("one serves, one stands by", lambda: len(pair.roles()["standby"]) == 1 and set(pair.endpoints()) == pair.roles()["serving"], 60, pause=0.1)
    w.kubectl("annotate deployment/pair crsc.io/checkpoint-restore- crsc.io/checkpoint-interval- crsc.io/replication- crsc.io/standby-")
    w.wait_unprotected("pair", 180)
    check(w.cluster.get("service", "pair")["spec"]["selector"] == {"app": "pair"}, "the selector is as it was")
    w.delete("pair", "deployment,service")
    return f"{told} writes by way of a Service that leads to one of two pods"
