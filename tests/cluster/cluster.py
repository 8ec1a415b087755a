"""One or two real Kubernetes nodes on this machine: etcd, kube-apiserver, controller-manager, scheduler, and for each node kubelet, containerd, runc, CRIU and
crsc-agent; a registry and three crsc-logd. Python's standard library only; root.

The control plane is in a network namespace of its own, and so is each node, with a mount namespace besides, in which /run, /var/lib and /var/log are its
own: nothing of the machine's network, /etc, /var or containers is touched. Whatever happens, leaving the `with` block ends every process by its pid or its
cgroup, and removes mounts, namespaces, cgroups and files. What is left by a run that was killed itself is removed by the next one.

    tests/cluster/cluster.py up [NODES]    brings it up, prints how to use it, and takes it down at Ctrl-C

The binaries come from tests/cluster/build.
"""
import contextlib
import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "integration"))
from harness import LOGS_SHOWN, PLACES, Build, Failure, Skip, check, newest, wait_until  # noqa: E402

OUT = os.path.join(ROOT, "build", "cluster")
BIN = os.path.join(OUT, "bin")
CRIU_ROOT = os.path.join(ROOT, "build", "deps", "criu", "root")
CP = "10.77.0.1"
REGISTRY = f"{CP}:5000"
LOGD = ",".join(f"{CP}:{7400 + i}" for i in (1, 2, 3))
CLONE_NEWNET = 0x40000000
NODE_GRACE = os.environ.get("CRSC_NODE_GRACE", "8s")  # until Kubernetes calls a silent node not ready: longer where the machine has much else to do
NETNS = "/run/netns/crsc-"


def sh(*argv, check_status=True, text=None, **more):
    done = subprocess.run(argv, input=text, stdin=subprocess.DEVNULL if text is None else None, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, **more)
    if check_status and done.returncode != 0:
        raise Failure(f"{' '.join(argv)}: {done.returncode}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
    return done.stdout


def why_not(programs=("kube-apiserver", "kubelet", "containerd", "runc", "etcd")):
    """None, or why no cluster can be brought up here."""
    if os.geteuid() != 0:
        return "a cluster needs root"
    for name in programs:
        if not os.path.exists(os.path.join(BIN, name)):
            return f"{name} is not built: tests/cluster/build"
    for program, package in (("docker-registry", "docker-registry"), ("/usr/lib/cni/bridge", "containernetworking-plugins"), ("openssl", "openssl"),
                             ("ip", "iproute2")):
        if not shutil.which(program):
            return f"there is no {program}: apt-get install {package}"
    if not os.path.isdir(CRIU_ROOT):
        return "there is no CRIU: scripts/install-deps"
    if subprocess.run(["unshare", "-nm", "true"], stderr=subprocess.DEVNULL).returncode != 0:
        return "network and mount namespaces cannot be made here"
    if not os.path.isdir("/sys/fs/cgroup") or not all(os.access(c, os.W_OK) for c in controllers()):
        return "the cgroups cannot be written to"
    return None


class Part:
    """A process of the cluster, with its log. It is found again by its pid only."""

    def __init__(self, name, argv, log, env=None):
        self.name, self.log = name, log
        with open(log, "ab") as f:
            self.popen = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *argv], stdin=subprocess.DEVNULL, stdout=f, stderr=f,
                                          env={**os.environ, **(env or {})}, start_new_session=True)
        self.pid = self.popen.pid

    def end(self, number=signal.SIGTERM, timeout=15):
        if self.popen.poll() is None:
            self.popen.send_signal(number)
            try:
                self.popen.wait(timeout)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()

    def tail(self, n=20):
        with open(self.log, errors="replace") as f:
            return "".join(f.readlines()[-n:])


class Pki:
    def __init__(self, directory):
        self.directory = directory
        os.makedirs(directory, exist_ok=True)
        self.run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30", "-subj", "/CN=test-ca",
                 "-keyout", self.at("ca.key"), "-out", self.at("ca.crt"))

    def at(self, name):
        return os.path.join(self.directory, name)

    def read(self, name):
        with open(self.at(name)) as f:
            return f.read()

    def run(self, *argv):
        sh("openssl", *argv)

    def certificate(self, name, subject, san):
        self.run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", subject, "-keyout", self.at(name + ".key"),
                 "-out", self.at(name + ".csr"))
        with open(self.at(name + ".ext"), "w") as f:
            f.write(f"subjectAltName={san}\nextendedKeyUsage=serverAuth,clientAuth\n")
        self.run("x509", "-req", "-in", self.at(name + ".csr"), "-CA", self.at("ca.crt"), "-CAkey", self.at("ca.key"), "-CAcreateserial", "-days", "30",
                 "-out", self.at(name + ".crt"), "-extfile", self.at(name + ".ext"))

    def kubeconfig(self, name, server):
        text = {"apiVersion": "v1", "kind": "Config", "current-context": "d", "contexts": [{"name": "d", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority": self.at("ca.crt")}}],
                "users": [{"name": "u", "user": {"client-certificate": self.at(name + ".crt"), "client-key": self.at(name + ".key")}}]}
        with open(self.at(name + ".kubeconfig"), "w") as f:
            json.dump(text, f)
        return self.at(name + ".kubeconfig")


def controllers():
    """The folders of the mounted cgroup hierarchies."""
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return ["/sys/fs/cgroup"]
    return [os.path.join("/sys/fs/cgroup", d) for d in sorted(os.listdir("/sys/fs/cgroup")) if os.path.ismount(os.path.join("/sys/fs/cgroup", d))
            and d != "unified" and not os.path.islink(os.path.join("/sys/fs/cgroup", d))]


def make_cgroup(name):
    for root in controllers():
        here = root
        for part in name.split("/"):
            above, here = here, os.path.join(here, part)
            if os.path.exists(os.path.join(above, "cgroup.subtree_control")):
                with open(os.path.join(above, "cgroup.controllers")) as f, open(os.path.join(above, "cgroup.subtree_control"), "w") as to:
                    to.write(" ".join("+" + c for c in f.read().split()))
            os.makedirs(here, exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):  # of v1: a new one has none
                if root.endswith("/cpuset"):
                    with open(os.path.join(above, setting)) as f, open(os.path.join(here, setting), "w") as to:
                        to.write(f.read())


def cgroup_pids(name):
    pids = set()
    for root in controllers():
        for here, _, files in os.walk(os.path.join(root, name)):
            if "cgroup.procs" in files:
                with contextlib.suppress(OSError), open(os.path.join(here, "cgroup.procs")) as f:
                    pids.update(int(p) for p in f.read().split())
    return pids


def remove_cgroup(name):
    deadline = time.monotonic() + 10
    while cgroup_pids(name) and time.monotonic() < deadline:
        for root in controllers():  # a frozen one does not die
            for here, _, files in os.walk(os.path.join(root, name)):
                if "freezer.state" in files:
                    with contextlib.suppress(OSError), open(os.path.join(here, "freezer.state"), "w") as f:
                        f.write("THAWED")
        for pid in cgroup_pids(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    for root in [*controllers(), "/sys/fs/cgroup/unified"]:  # there runc makes folders, too, where both versions are mounted
        for here, folders, _ in os.walk(os.path.join(root, name), topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(here)


class Node:
    def __init__(self, cluster, i):
        self.cluster, self.i, self.name = cluster, i, f"n{i}"
        self.address = f"10.77.0.1{i}"
        self.directory = cluster.at(self.name)
        self.cgroup = f"crsc-cluster/{self.name}"
        self.parts = {}

    def at(self, *parts):
        return os.path.join(self.directory, *parts)

    # ---- its network and its view of the machine's files

    def make_network(self):
        ns, c = f"crsc-{self.name}", self.cluster
        sh("ip", "netns", "add", ns)
        c.cp("ip", "link", "add", f"v{self.i}", "type", "veth", "peer", "name", "eth0", "netns", NETNS + self.name)
        c.cp("ip", "link", "set", f"v{self.i}", "master", "br0", "up")
        c.cp("ip", "route", "add", f"10.244.{self.i}.0/24", "via", self.address)
        for command in (f"link set lo up", f"addr add {self.address}/24 dev eth0", "link set eth0 up", f"route add default via {CP}"):
            sh("nsenter", f"--net={NETNS}{self.name}", "ip", *command.split())
        sh("nsenter", f"--net={NETNS}{self.name}", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for other in range(1, c.n + 1):
            if other != self.i:
                sh("nsenter", f"--net={NETNS}{self.name}", "ip", "route", "add", f"10.244.{other}.0/24", "via", f"10.77.0.1{other}")

    def make_view(self):
        """A process that keeps the node's mount namespace."""
        script = ("for d in /run /var/lib /var/log; do mount -t tmpfs -o mode=755 none $d; done; mkdir -p /run/containerd /run/lock; "
                  "mount --make-rshared /; echo ready; exec sleep infinity")
        self.parts["view"] = Part("view", ["nsenter", f"--net={NETNS}{self.name}", "unshare", "-m", "--propagation", "private", "sh", "-c", script],
                                  self.at("view.log"))
        wait_until("the node's mounts", lambda: "ready" in self.parts["view"].tail(), 10)

    def inside(self, *argv):
        return ["nsenter", "-t", str(self.parts["view"].pid), "-m", "-n", *argv]

    # ---- its programs

    def start(self, name, argv, env=None):
        path = f"{self.cluster.bin}:{BIN}:{os.environ['PATH']}"
        self.parts[name] = Part(name, self.inside("env", f"PATH={path}", *argv), self.at(name + ".log"), env)
        return self.parts[name]

    def write(self, name, text):
        os.makedirs(os.path.dirname(self.at(name)), exist_ok=True)
        with open(self.at(name), "w") as f:
            f.write(text)
        return self.at(name)

    def start_containerd(self):
        installed = self.cluster.installed  # then our agent's pod puts the runtime there, and has the chart's folders
        run, program = ("/run/crsc", "/var/lib/crsc-runtime/crsc-runtime") if installed else (self.at("run"), self.cluster.build.path("crsc-runtime"))
        runtime = "plugins.'io.containerd.cri.v1.runtime'"
        self.write(f"certs.d/{REGISTRY}/hosts.toml", f'server = "http://{REGISTRY}"\n[host."http://{REGISTRY}"]\n capabilities = ["pull","resolve"]\n')
        network = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{
            "type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": f"10.244.{self.i}.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
        self.write("cni/10-pods.conflist", json.dumps(network))
        config = self.write("containerd.toml", f"""version = 3
root = "{self.at('containerd-root')}"
state = "/run/containerd/state"
[grpc]
address = "{self.at('containerd.sock')}"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{REGISTRY}/pause:1"
[plugins.'io.containerd.cri.v1.images'.registry]
config_path = "{self.at('certs.d')}"
[{runtime}]
# the first node restores pods from images of checkpoints, the other one does not, as is the default (crsc.io/backend: kubelet)
enable_experimental_restore_via_create = {"true" if self.i == 1 else "false"}
# a machine whose root may not lower oom_score_adj fails every sandbox without this
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[{runtime}.cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{self.at('cni')}"
[{runtime}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
pod_annotations = ["crsc.io/*"]
container_annotations = ["checkpointImage"]
[{runtime}.containerd.runtimes.runc.options]
BinaryName = "{BIN}/runc"
[{runtime}.containerd.runtimes.crsc]
runtime_type = "io.containerd.runc.v2"
pod_annotations = ["crsc.io/*"]
[{runtime}.containerd.runtimes.crsc.options]
BinaryName = "{program}"
""")
        self.write("criu.conf", "tcp-close\nskip-in-flight\n")
        runtime_conf = self.write("runtime.conf", f"runc {BIN}/runc\npath {self.cluster.bin}\nsocket {run}/agent.sock\n"
                                  f"started {run}/started\ncriu-config {self.at('criu.conf')}\n")
        self.start("containerd", [f"{BIN}/containerd", "-c", config], {"CRSC_RUNTIME_CONFIG": runtime_conf})
        wait_until("containerd", lambda: os.path.exists(self.at("containerd.sock")), 20)

    def start_kubelet(self, alone=None):
        """`alone`: without an API server, for the pods in that folder; whoever reaches it may ask it."""
        pki = self.cluster.pki
        config = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
                  "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": pki.at("ca.crt")}},
                  "authorization": {"mode": "Webhook"}, "cgroupDriver": "cgroupfs", "cgroupRoot": "/" + self.cgroup, "enforceNodeAllocatable": [],
                  "failSwapOn": False, "failCgroupV1": False, "podLogsDir": "/var/log/pods",
                  "containerRuntimeEndpoint": f"unix://{self.at('containerd.sock')}", "tlsCertFile": pki.at(self.name + ".crt"),
                  "tlsPrivateKeyFile": pki.at(self.name + ".key"), "resolvConf": "", "serializeImagePulls": False, "syncFrequency": "5s",
                  "nodeStatusUpdateFrequency": "2s",
                  "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "100Mi"}}
        if self.cluster.installed:  # agents and operators that a test has killed five times in a row come back within seconds, not within minutes
            config |= {"featureGates": {"KubeletCrashLoopBackOffMax": True}, "crashLoopBackOff": {"maxContainerRestartPeriod": "10s"}}
        if alone:
            config |= {"authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}}, "authorization": {"mode": "AlwaysAllow"}, "staticPodPath": alone,
                       "fileCheckFrequency": "1s"}
        path = self.write("kubelet.json", json.dumps(config))
        self.start("kubelet", [f"{BIN}/kubelet", *([] if alone else [f"--kubeconfig={pki.at(self.name + '.kubeconfig')}"]), f"--config={path}",
                               f"--hostname-override={self.name}", f"--node-ip={self.address}", f"--root-dir={self.at('kubelet')}"])

    def start_agent(self):
        pki, c = self.cluster.pki, self.cluster
        return self.start("agent", [c.build.path("crsc-agent"), "--node", self.name, "--servers", LOGD, "--listen", f"{self.address}:7443",
                                    "--tls-ca", pki.at("ca.crt"), "--tls-cert", pki.at(f"agent-{self.name}.crt"), "--tls-key",
                                    pki.at(f"agent-{self.name}.key"), "--store", self.at("store"), "--run", self.at("run"), "--runc", f"{BIN}/runc",
                                    "--criu", os.path.join(c.bin, "criu"), "--image-registry", f"{REGISTRY}/checkpoints", "--plain-registries",
                                    REGISTRY, "--log-tls-ca", pki.at("ca.crt"), "--log-tls-cert", pki.at(f"agent-{self.name}.crt"),
                                    "--log-tls-key", pki.at(f"agent-{self.name}.key"), "--restore-cost", "0s", *c.agent_flags])

    def make(self):
        """Its certificates, network, view of the files and cgroup."""
        os.makedirs(self.directory)
        pki = self.cluster.pki
        pki.certificate(self.name, f"/O=system:nodes/CN=system:node:{self.name}", f"DNS:{self.name},IP:{self.address}")
        pki.certificate(f"agent-{self.name}", "/CN=crsc-agent", f"DNS:{self.name},IP:{self.address},URI:crsc://role/operator")
        pki.kubeconfig(self.name, f"https://{CP}:6443")
        self.make_network()
        self.make_view()
        make_cgroup(self.cgroup)

    def up(self):
        self.make()
        self.start_containerd()
        if not self.cluster.installed:
            self.start_agent()
        self.start_kubelet()

    # ---- what a test does to it

    def lose(self):
        """The node is gone for good: everything on it is killed, and its network is cut."""
        sh("nsenter", f"--net={NETNS}{self.name}", "ip", "link", "set", "eth0", "down", check_status=False)
        for name in ("kubelet", "agent", "containerd"):
            if name in self.parts:
                self.parts.pop(name).end(signal.SIGKILL)
        self.kill_shims()
        remove_cgroup(self.cgroup)

    def cut(self):
        sh("nsenter", f"--net={NETNS}cp", "ip", "link", "set", f"v{self.i}", "down")

    def mend(self):
        sh("nsenter", f"--net={NETNS}cp", "ip", "link", "set", f"v{self.i}", "up")

    def shims(self):
        """Shims of this node's containerd live on without it."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().decode(errors="replace").split("\0")
                if words[0].endswith("containerd-shim-runc-v2") and self.at("containerd.sock") in words:
                    found.append(int(pid))
        return found

    def kill_shims(self):
        for pid in self.shims():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def down(self):
        for name in ("kubelet", "agent"):
            if name in self.parts:
                self.parts[name].end()
        self.kill_shims()
        remove_cgroup(self.cgroup)
        for name in ("containerd", "view"):
            if name in self.parts:
                self.parts[name].end(signal.SIGKILL if name == "view" else signal.SIGTERM)
        self.kill_shims()
        sh("ip", "netns", "del", f"crsc-{self.name}", check_status=False)


class Cluster:
    why_not = staticmethod(why_not)

    def __init__(self, build, n=2, agent_flags=(), installed=False, say=lambda text: None):
        """`installed`: operator, agents and log come later, as on anybody's cluster (installed.py)."""
        self.build, self.n, self.agent_flags, self.installed, self.say = Build(build), n, agent_flags, installed, say
        self.directory = os.path.join(OUT, "run")
        self.bin = self.at("bin")
        self.parts, self.nodes = {}, []

    def at(self, *parts):
        return os.path.join(self.directory, *parts)

    def cp(self, *argv, **more):
        return sh("nsenter", f"--net={NETNS}cp", *argv, **more)

    def start(self, name, argv, env=None):
        self.parts[name] = Part(name, ["nsenter", f"--net={NETNS}cp", *argv], self.at(name + ".log"), env)
        return self.parts[name]

    def kubectl(self, *argv, text=None, check_status=True):
        return self.cp(f"{BIN}/kubectl", f"--kubeconfig={self.pki.at('admin.kubeconfig')}", *argv, text=text, check_status=check_status)

    def get(self, *argv):
        return json.loads(self.kubectl("get", *argv, "-o", "json"))

    def apply(self, *objects):
        self.kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def enter(self):
        """This thread's sockets are the control plane's from now on: pods and nodes can be reached."""
        fd = os.open(NETNS + "cp", os.O_RDONLY)
        check(ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) == 0, "the network namespace cannot be entered")
        os.close(fd)

    # ---- parts

    def make_criu(self):
        os.makedirs(self.bin)
        sh("gcc", "-O2", "-shared", "-fPIC", "-o", self.at("criu-limits.so"), os.path.join(ROOT, "tests", "cluster", "criu_limits.c"), "-ldl")
        with open(os.path.join(self.bin, "criu"), "w") as f:
            f.write(f'#!/bin/sh\nexec {CRIU_ROOT}/lib64/ld-linux-x86-64.so.2 --preload {self.at("criu-limits.so")} --library-path '
                    f'{CRIU_ROOT}/usr/lib/x86_64-linux-gnu {CRIU_ROOT}/usr/sbin/criu "$@"\n')
        os.chmod(os.path.join(self.bin, "criu"), 0o755)

    def make_network(self):
        sh("ip", "netns", "add", "crsc-cp")
        for command in ("link set lo up", "link add br0 type bridge", f"addr add {CP}/24 dev br0", "link set br0 up"):
            self.cp("ip", *command.split())
        self.cp("sysctl", "-qw", "net.ipv4.ip_forward=1")

    def make_pki(self):
        self.pki = Pki(self.at("pki"))
        names = f"IP:127.0.0.1,IP:{CP},IP:10.96.0.1,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost"
        self.pki.certificate("apiserver", "/CN=kube-apiserver", names)
        for name, subject in (("admin", "/O=system:masters/CN=admin"), ("kcm", "/CN=system:kube-controller-manager"),
                              ("scheduler", "/CN=system:kube-scheduler"), ("kubelet-client", "/O=system:masters/CN=kubelet-client"),
                              ("operator", "/CN=crsc-operator")):
            self.pki.certificate(name, subject, f"DNS:{name},URI:crsc://role/{'operator' if name == 'operator' else 'admin'}")
        self.pki.certificate("producer", "/CN=crsc-interceptor", "DNS:interceptor,URI:crsc://role/producer/*")
        for i in (1, 2, 3):
            self.pki.certificate(f"logd-{i}", f"/CN=crsc-logd-{i}", f"IP:{CP},URI:crsc://role/peer/{i}")
        self.pki.run("genrsa", "-out", self.pki.at("sa.key"), "2048")
        self.pki.run("rsa", "-in", self.pki.at("sa.key"), "-pubout", "-out", self.pki.at("sa.pub"))
        for name in ("admin", "kcm", "scheduler"):
            self.pki.kubeconfig(name, f"https://{CP}:6443")

    def start_logd(self, i):
        members = ",".join(f"{k}={CP}:{7400 + k}" for k in (1, 2, 3))
        return self.start(f"logd-{i}", [self.build.path("crsc-logd"), "--id", str(i), "--listen", f"{CP}:{7400 + i}", "--initial-cluster", members,
                                        "--data-dir", self.at(f"logd-{i}"), "--segment-size", "16MiB", "--tls-ca", self.pki.at("ca.crt"), "--tls-cert",
                                        self.pki.at(f"logd-{i}.crt"), "--tls-key", self.pki.at(f"logd-{i}.key")])

    def start_registry(self):
        with open(self.at("registry.yml"), "w") as f:
            f.write(f"version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {self.at('registry')}}}, delete: {{enabled: true}}}}\n"
                    f"http: {{addr: '{REGISTRY}'}}\n")
        self.start("registry", ["docker-registry", "serve", self.at("registry.yml")])

    def start_control_plane(self):
        pki = self.pki
        for i in () if self.installed else (1, 2, 3):
            self.start_logd(i)
        self.start_registry()
        self.start("etcd", [f"{BIN}/etcd", "--data-dir", self.at("etcd"), "--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls",
                            "http://127.0.0.1:2379", "--listen-peer-urls", "http://127.0.0.1:2380", "--initial-advertise-peer-urls",
                            "http://127.0.0.1:2380", "--initial-cluster", "default=http://127.0.0.1:2380", "--log-level", "error", "--unsafe-no-fsync"])
        self.start("apiserver", [
            f"{BIN}/kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--service-cluster-ip-range=10.96.0.0/16", "--bind-address=0.0.0.0",
            f"--advertise-address={CP}", "--secure-port=6443", f"--tls-cert-file={pki.at('apiserver.crt')}",
            f"--tls-private-key-file={pki.at('apiserver.key')}", f"--client-ca-file={pki.at('ca.crt')}",
            "--service-account-issuer=https://kubernetes.default", f"--service-account-key-file={pki.at('sa.pub')}",
            f"--service-account-signing-key-file={pki.at('sa.key')}", "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction", f"--kubelet-client-certificate={pki.at('kubelet-client.crt')}",
            f"--kubelet-client-key={pki.at('kubelet-client.key')}", f"--kubelet-certificate-authority={pki.at('ca.crt')}",
            "--kubelet-preferred-address-types=InternalIP", "--allow-privileged=true",
            "--enable-aggregator-routing=true"])  # webhooks are called at their pods: nobody serves Services' addresses here
        self.wait_for("the API server", lambda: self.kubectl("get", "--raw", "/readyz", check_status=False) == "ok", 90)
        self.start("kcm", [f"{BIN}/kube-controller-manager", f"--kubeconfig={pki.at('kcm.kubeconfig')}",
                           f"--service-account-private-key-file={pki.at('sa.key')}", f"--root-ca-file={pki.at('ca.crt')}",
                           "--use-service-account-credentials", "--leader-elect=false", "--allocate-node-cidrs=false",
                           "--node-monitor-period=1s", f"--node-monitor-grace-period={NODE_GRACE}"])
        self.start("scheduler", [f"{BIN}/kube-scheduler", f"--kubeconfig={pki.at('scheduler.kubeconfig')}", "--leader-elect=false"])

    def wait_for(self, what, condition, timeout):
        def look():
            for part in [*self.parts.values(), *(p for n in self.nodes for p in n.parts.values())]:
                if part.popen.poll() is not None:
                    raise Failure(f"{part.name} ended with {part.popen.returncode}:\n{part.tail()}")
            return condition()
        return wait_until(what, look, timeout, pause=0.1)

    def push_images(self):
        image = os.path.join(ROOT, "deploy", "images", "image")

        def push(name, *words):
            self.cp(image, "--push", f"http://{REGISTRY}", "--name", name + ":1", *words)
        with open(self.at("pause.c"), "w") as f:
            f.write("#include <unistd.h>\nint main(void)\n{\n    for (;;) pause();\n}\n")
        sh("gcc", "-O2", "-static", "-o", self.at("pause"), self.at("pause.c"))
        push("pause", "--program", self.at("pause"), "--", "/pause")
        push("counter", "--user", "1000:1000", "--program", self.build.path("counter"), "--", "/counter")
        if not self.installed:
            push("crsc-interceptor", "--user", "65532:65532", "--program", self.build.path("crsc-interceptor"), "--", "/crsc-interceptor")

    def up(self):
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(self.directory)
        begun = time.monotonic()
        self.make_criu()
        self.make_network()
        self.make_pki()
        self.start_control_plane()
        self.push_images()
        for i in range(1, self.n + 1):
            self.nodes.append(Node(self, i))
        for node in self.nodes:
            node.up()
        self.wait_for("all nodes are Ready", lambda: all(
            any(c["type"] == "Ready" and c["status"] == "True" for c in n["status"].get("conditions", [])) for n in self.get("nodes")["items"])
            and len(self.get("nodes")["items"]) == self.n, 90)
        self.wait_for("the default service account", lambda: self.kubectl("get", "serviceaccount", "default", check_status=False), 30)
        self.say(f"{self.n} nodes up in {time.monotonic() - begun:.1f} s")
        if self.installed:
            return self
        self.apply({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "crsc"}, "handler": "crsc"})
        files = {"ca.pem": "ca.crt", "tls.pem": "producer.crt", "tls.key": "producer.key"}
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "crsc-log"}, "stringData": {k: self.pki.read(v) for k, v in files.items()}})
        return self

    def remove_left(self):
        """What a run left that was killed itself: its own processes ended with it, containers and their shims did not."""
        left = [name for name in os.listdir(os.path.dirname(NETNS)) if re.fullmatch(r"crsc-(cp|n\d+)", name)] if os.path.exists(NETNS + "cp") else []
        check(not left or not sh("ip", "netns", "pids", "crsc-cp").split(), "a cluster is up already: ip netns pids crsc-cp")
        for name in left:
            for pid in sh("ip", "netns", "pids", name).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        remove_cgroup("crsc-cluster")
        for name in left:
            sh("ip", "netns", "del", name)

    def down(self):
        for node in self.nodes:
            node.down()
        for name in reversed(list(self.parts)):  # the API server before etcd
            self.parts[name].end()
        sh("ip", "netns", "del", "crsc-cp", check_status=False)
        remove_cgroup("crsc-cluster")
        shutil.rmtree(self.directory, ignore_errors=True)

    def wait_for_turn(self):
        """One cluster at a time on a machine, whoever's: names of namespaces and cgroups are the same. What is locked is what they share, and goes with this process."""
        self.turn = os.open("/sys/fs/cgroup", os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self.turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.say("waits until another cluster on this machine is down")
            fcntl.flock(self.turn, fcntl.LOCK_EX)

    def __enter__(self):
        why = self.why_not()
        if why:
            raise Skip(why)
        self.wait_for_turn()
        self.remove_left()
        try:
            return self.up()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def __exit__(self, kind, error, trace):
        previous = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            try:
                if error is not None and not isinstance(error, (Skip, KeyboardInterrupt)):
                    self.keep_logs()
            finally:
                self.down()
        finally:
            os.close(self.turn)
            for number, handler in previous.items():
                signal.signal(number, handler)
        return False

    def keep_logs(self):
        to = os.path.join(OUT, "logs")
        shutil.rmtree(to, ignore_errors=True)
        os.makedirs(to)
        for folder in [self.directory, *(n.directory for n in self.nodes)]:
            for name in os.listdir(folder) if os.path.isdir(folder) else []:
                if name.endswith(".log"):
                    shutil.copy(os.path.join(folder, name), os.path.join(to, f"{os.path.basename(folder)}-{name}"))
        print(f"its logs: {to}", file=sys.stderr)


def show_logs(folder, of):
    """The ends of those logs of a folder whose path says one of these words, within a bound: what can be known where the folder cannot be looked at."""
    paths = sorted(os.path.join(here, name) for here, _, names in os.walk(folder) for name in names if name.endswith(".log"))
    paths = [path for path in paths if any(word in path for word in of)]
    for path in paths:
        print(f"-- {os.path.relpath(path, folder)}\n" + "\n".join(newest(path, LOGS_SHOWN // len(paths))), flush=True)


def main():
    if len(sys.argv) < 2 or sys.argv[1] != "up":
        print(__doc__)
        sys.exit(2)

    def stop(number, frame):
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, stop)
    with contextlib.suppress(KeyboardInterrupt), Cluster(os.environ.get("CRSC_BUILD", os.path.join(ROOT, "build", "release")),
                                                         int(sys.argv[2]) if len(sys.argv) > 2 else 2, say=print) as cluster:
        print(f"nsenter --net={NETNS}cp {BIN}/kubectl --kubeconfig={cluster.pki.at('admin.kubeconfig')} get nodes", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
