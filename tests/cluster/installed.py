"""CRSC installed on the cluster as anybody would: the objects of deploy/kustomize/base, images pulled from a registry, the operator with its own CA, webhook and
service account, an agent in a pod on each node that puts crsc-runtime there. Different from an ordinary cluster, and why:

- The log's three servers run beside the control plane, with the certificates that the operator issues: the chart wants three nodes for them, and these tests
  lose one of two. Their addresses stand where the chart has names, so that no DNS is needed.
- A DaemonSet for each node instead of one for all: a node here is a mount namespace of this machine, and the agent is told which.
"""
import base64
import http.client
import json
import os
import shutil
import ssl

from cluster import BIN, CP, LOGD, REGISTRY, ROOT, Cluster, Pki, cgroup_pids, check, sh, show_logs, wait_until

SPACE = "crsc-system"
RUNTIME = "/var/lib/crsc-runtime"  # on each node: what the handler's BinaryName is in


class Api:
    """The API server, as cluster-admin."""

    def __init__(self, pki):
        self.context = ssl.create_default_context(cafile=pki.at("ca.crt"))
        self.context.load_cert_chain(pki.at("admin.crt"), pki.at("admin.key"))

    def call(self, method, path, body=None, kind="application/json"):
        """(status, answer)"""
        connection = http.client.HTTPSConnection(CP, 6443, context=self.context, timeout=30)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": kind})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def get(self, path):
        """The object, or None."""
        status, answer = self.call("GET", path)
        check(status in (200, 404), "GET %s: %d %s", path, status, answer)
        return answer if status == 200 else None

    def list(self, kind, selector=""):
        return self.get(f"/apis/crsc.io/v1alpha1/namespaces/default/{kind}{selector}")["items"]

    def pods(self, space="default", selector=""):
        return self.get(f"/api/v1/namespaces/{space}/pods{selector}")["items"]


def set_flag(container, flag, value):
    args = container["args"]
    check(flag in args, "%s has no %s", container["name"], flag)
    args[args.index(flag) + 1] = value


class Installed(Cluster):
    def __init__(self, build, n=2, say=lambda text: None):
        super().__init__(build, n, installed=True, say=say)
        self.base = None

    # ---- what is installed

    def push_images(self):
        super().push_images()
        self.push_programs("0.1.0")

    def push_programs(self, tag):
        self.cp(os.path.join(ROOT, "deploy", "images", "all"), "--build", self.build.directory, "--push", f"http://{REGISTRY}", "--tag", tag,
                "crsc-operator", "crsc-agent", "crsc-interceptor")

    def objects(self, tag="0.1.0"):
        """The base, with what is different here."""
        if self.base is None:
            text = sh(f"{BIN}/kubectl", "kustomize", os.path.join(ROOT, "deploy", "kustomize", "base"))
            self.base = json.loads(self.kubectl("apply", "--dry-run=client", "-o", "json", "-f", "-", text=text))["items"]
        found = []
        for o in json.loads(json.dumps(self.base)):
            kind, name = o["kind"], o["metadata"]["name"]
            if (kind, name) in (("StatefulSet", "crsc-logd"), ("PodDisruptionBudget", "crsc-logd")):
                continue
            if kind in ("Deployment", "DaemonSet"):
                c = o["spec"]["template"]["spec"]["containers"][0]
                c["image"] = f"{REGISTRY}/{c['image'].removeprefix('crsc/').partition(':')[0]}:{tag}"
                set_flag(c, "--servers", LOGD)
            if kind == "Deployment":
                set_flag(c, "--logd-names", CP)
                set_flag(c, "--interceptor-image", f"{REGISTRY}/crsc-interceptor:{tag}")
            found += [self.agent_of(o, node) for node in self.nodes] if kind == "DaemonSet" else [o]
        return found

    def agent_of(self, daemon_set, node):
        o = json.loads(json.dumps(daemon_set))
        pod = o["spec"]["template"]
        o["metadata"]["name"] += f"-{node.name}"
        o["spec"]["selector"]["matchLabels"]["node"] = pod["metadata"]["labels"]["node"] = node.name
        pod["spec"]["nodeSelector"] = {"kubernetes.io/hostname": node.name}
        c = pod["spec"]["containers"][0]
        set_flag(c, "--mount-namespace", f"/proc/{node.parts['view'].pid}/ns/mnt")
        set_flag(c, "--peers", ",".join(f"{n.address}:7443" for n in self.nodes if n is not node) or CP)
        set_flag(c, "--runc", f"{BIN}/runc")
        set_flag(c, "--criu", os.path.join(self.bin, "criu"))
        c["args"] += ["--image-registry", f"{REGISTRY}/checkpoints", "--plain-registries", REGISTRY, "--restore-cost", "0s"]
        for volume in pod["spec"]["volumes"]:
            if volume["name"] == "runtime":
                volume["hostPath"]["path"] = RUNTIME
        return o

    def install_kubelet(self):
        """What the chart has with agent.kubelet.enabled: agents that may ask their kubelet for checkpoints."""
        chart = os.path.join(ROOT, "deploy", "helm", "crsc")
        text = sh(f"{BIN}/helm", "template", "crsc", chart, "--namespace", SPACE, "--kube-version", "1.31.0", "--set", "agent.kubelet.enabled=true", "--set",
                  f"agent.kubelet.ca={self.pki.at('ca.crt')}", "--show-only", "templates/agent.yaml")
        objects = json.loads(self.kubectl("apply", "--dry-run=client", "-o", "json", "-f", "-", text=text))["items"]
        base, self.base = self.base, objects
        try:
            self.install()
        finally:
            self.base = base
        self.wait_agents()

    def uninstall_kubelet(self):
        self.kubectl("delete", "clusterrole,clusterrolebinding", "crsc-agent")
        self.install()
        self.wait_agents()

    def wait_agents(self):
        """Those of the present DaemonSets."""
        for node in self.nodes:
            self.kubectl("rollout", "status", f"daemonset/crsc-agent-{node.name}", "-n", SPACE, "--timeout=120s")
        self.wait_ready()

    def make_way(self):
        """10.96.0.1:443, where pods find the API server: what kube-proxy would do."""
        self.cp("ip", "addr", "add", "10.96.0.1/32", "dev", "lo")
        self.cp("nft", "add table ip way; add chain ip way in { type nat hook prerouting priority dstnat; }; "
                       "add rule ip way in ip daddr 10.96.0.1 tcp dport 443 redirect to :6443")

    def secret(self, name):
        found = self.api.get(f"/api/v1/namespaces/{SPACE}/secrets/{name}")
        return {k: base64.b64decode(v).decode() for k, v in found["data"].items()} if found else None

    def wait_secret(self, name):
        return self.wait_for(f"the operator makes the Secret {name}", lambda: self.secret(name), 120)

    def up(self):
        super().up()
        self.enter()
        self.api = Api(self.pki)
        self.make_way()
        self.install()
        issued = self.wait_secret("crsc-logd-tls")
        self.tls = Pki.__new__(Pki)  # the operator's CA, with which we play the operator
        self.tls.directory = self.at("issued")
        os.makedirs(self.tls.directory)
        ca = self.wait_secret("crsc-ca")
        for name, text in (("ca.crt", ca["tls.crt"]), ("ca.key", ca["tls.key"]), ("logd.crt", issued["tls.crt"]), ("logd.key", issued["tls.key"])):
            with open(self.tls.at(name), "w") as f:
                f.write(text)
        self.tls.certificate("operator", "/CN=crsc-operator", "DNS:operator,URI:crsc://role/operator")
        self.tls.certificate("admin", "/CN=admin", "DNS:admin,URI:crsc://role/admin")
        for i in (1, 2, 3):
            self.start_logd(i)
        self.wait_ready()
        return self

    def install(self, tag="0.1.0"):
        self.kubectl("apply", "--server-side", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": self.objects(tag)}))

    def wait_ready(self, tag="0.1.0"):
        def look():
            pods = [p for p in self.api.pods(SPACE) if "deletionTimestamp" not in p["metadata"]]
            ready = [p for p in pods if any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", []))]
            return len(ready) == len(pods) == 2 + self.n and all(p["spec"]["containers"][0]["image"].endswith(":" + tag) for p in pods)
        self.wait_for("operators and agents are ready", look, 240)

    def uninstall(self):
        """As docs/KUBERNETES.md says, when nothing is protected any more."""
        self.kubectl("delete", "--ignore-not-found", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": self.objects()}))

    def start_logd(self, i):
        members = ",".join(f"{k}={CP}:{7400 + k}" for k in (1, 2, 3))
        return self.start(f"logd-{i}", [self.build.path("crsc-logd"), "--id", str(i), "--cluster", "kubernetes", "--listen", f"{CP}:{7400 + i}",
                                        "--initial-cluster", members, "--data-dir", self.at(f"logd-{i}"), "--segment-size", "16MiB", "--tls-ca",
                                        self.tls.at("ca.crt"), "--tls-cert", self.tls.at("logd.crt"), "--tls-key", self.tls.at("logd.key")])

    # ---- what tests ask

    def logctl(self, *words):
        return self.cp(self.build.path("crsc-logctl"), "--servers", LOGD, "--tls-ca", self.tls.at("ca.crt"), "--tls-cert", self.tls.at("admin.crt"),
                       "--tls-key", self.tls.at("admin.key"), "--output", "json", *words)

    def programs(self, name, node=None):
        """Pids of a program in pods."""
        found = []
        for n in self.nodes if node is None else [node]:
            for pid in cgroup_pids(n.cgroup):
                try:
                    with open(f"/proc/{pid}/comm") as f:
                        if f.read().strip() == name:
                            found.append(pid)
                except OSError:
                    pass
        return found

    def leading_operator(self):
        """Its pids; none while the lease names one that is dead."""
        lease = self.api.get(f"/apis/coordination.k8s.io/v1/namespaces/{SPACE}/leases/crsc-operator")
        pods = {p["metadata"]["name"]: p["spec"].get("nodeName") for p in self.api.pods(SPACE)}
        holder = lease["spec"]["holderIdentity"]
        return [pid for node in self.nodes if node.name == pods.get(holder) for pid in self.programs("crsc-operator", node) if self.hostname(pid) == holder]

    def victims(self, what):
        return self.leading_operator() if what == "operator" else self.programs("crsc-agent") if what == "agent" else [what]

    def kill_leader(self, what):
        """kill -9 of the leading operator, of the log's leader (which is started again), or of all agents."""
        if what == "logd":
            leader = json.loads(self.logctl("status"))["leader_id"]
            self.parts.pop(f"logd-{leader}").end(9)
            self.start_logd(leader)
            return
        for pid in wait_until(f"there is a {what} to be killed", lambda: self.victims(what), 60, pause=0.1):
            os.kill(pid, 9)

    def hostname(self, pid):
        with open(f"/proc/{pid}/environ") as f:
            return next((w[9:] for w in f.read().split("\0") if w.startswith("HOSTNAME=")), None)

    def keep_logs(self):
        super().keep_logs()
        if not self.nodes:
            return
        with open(os.path.join(ROOT, "build", "cluster", "logs", "objects"), "w") as f:
            for words in ("pods,events -A", "crsc -o yaml"):
                f.write(self.kubectl("get", *words.split(), "--request-timeout=10s", check_status=False))
        for node in self.nodes:  # as the kubelets have them: nobody need answer
            shutil.copytree(f"/proc/{node.parts['view'].pid}/root/var/log/pods", os.path.join(ROOT, "build", "cluster", "logs", node.name), dirs_exist_ok=True)
        show_logs(os.path.join(ROOT, "build", "cluster", "logs"), ("operator", "agent", "interceptor", "logd-"))
