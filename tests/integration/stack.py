"""The whole on one machine: a cluster of crsc-logd, an app in a runc container, crsc-interceptor in front of it, and crsc-operator
with the local driver, which starts, checkpoints and restores it. Used by the demo and by the tests of the whole."""
import json
import os
import shutil
import signal
import subprocess
import time

from harness import ROOT, Cluster, Failure, Http, check, containers, free_ports, wait_until

CRIU = os.path.join(ROOT, "build", "deps", "criu", "bin", "criu")


def criu_works():
    """(path, None), or (None, why not)."""
    if os.geteuid() != 0:
        return None, "CRIU needs root"
    why = "there is no CRIU: scripts/install-deps"
    for path in (CRIU, shutil.which("criu")):
        if path and os.path.exists(path):
            done = subprocess.run([path, "check"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode == 0:
                return path, None
            why = f"{path} check: {(done.stdout.strip().splitlines() or ['no output'])[-1]}"
    return None, why


def containers_work():
    """None, or why runc cannot be used."""
    if os.geteuid() != 0:
        return "containers need root here"
    if not shutil.which("runc"):
        return "there is no runc: scripts/install-deps"
    return None


class App:
    """What a descriptor says (tests/demo/apps/): where the program comes from, how to start, write to and read it."""

    def __init__(self, path, build):
        with open(path) as f:
            self.words = json.load(f)
        known = {"about", "package", "binary", "command", "ready", "write", "read", "executed", "files"}
        unknown = set(self.words) - known
        check(not unknown, "%s: unknown words %s; known are %s", path, sorted(unknown), sorted(known))
        for word in ("command", "write", "read"):
            check(word in self.words, "%s: \"%s\" is missing", path, word)
        check(("package" in self.words) != ("binary" in self.words), "%s: give either \"package\" or \"binary\"", path)
        self.name = os.path.splitext(os.path.basename(path))[0]
        self.build = build

    def make_bundle(self, directory, port):
        command = [part.replace("{port}", str(port)) for part in self.words["command"]]
        if "package" in self.words:
            source = ["--package", self.words["package"]]
        elif self.words["binary"] == "counter":
            source = ["--binary", self.build.path("counter")]
        else:
            source = ["--binary", self.words["binary"]]
        for k, (path, text) in enumerate(sorted(self.words.get("files", {}).items())):
            os.makedirs(directory + ".files", exist_ok=True)
            with open(os.path.join(directory + ".files", str(k)), "w") as f:
                f.write(text.replace("{port}", str(port)))
            source += ["--file", f"{f.name}:{path}"]
        done = subprocess.run([os.path.join(ROOT, "scripts", "make-bundle"), *source, "--out", directory, "--", *command],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        check(done.returncode == 0, "the container's bundle could not be made: %s", done.stdout.strip())


class Stack:
    def __init__(self, bench, app, mode, interval="2s", flags=(), workload=None, stop_containers=True, front=()):
        self.bench, self.app, self.mode, self.stop_containers, self.front = bench, app, mode, stop_containers, front
        self.cluster = Cluster(bench, cluster="demo", flags=flags)
        self.app_port, self.port, self.admin_port = free_ports(3)
        self.bundle = bench.path("bundle")
        self.state = bench.path("operator")
        self.runc_root = os.path.join(self.state, "runc")
        bench.runc_roots.append(self.runc_root)
        self.stream = f"demo/default/workload/{app.name}"
        self.workload = {"name": app.name, "stream": self.stream, "bundle": self.bundle, "upstream": f"127.0.0.1:{self.app_port}",
                         "interceptor": f"127.0.0.1:{self.admin_port}", "checkpoint-interval": interval, "mode": mode,
                         **(workload or {})}
        self.interceptor = self.operator = None

    def make_bundle(self):
        self.app.make_bundle(self.bundle, self.app_port)

    def start_interceptor(self, wait=True):
        self.interceptor = self.bench.spawn("interceptor", [
            "crsc-interceptor", "--listen", f"127.0.0.1:{self.port}", "--admin-listen", f"127.0.0.1:{self.admin_port}",
            "--servers", self.cluster.servers, "--stream", self.stream, *self.front])
        if wait:
            wait_until("the interceptor's admin interface", self.status, 30)

    def start_operator(self):
        path = self.bench.path("workload.yaml")
        with open(path, "w") as f:
            f.writelines(f"{k}: {v}\n" for k, v in self.workload.items())
        self.operator = self.bench.spawn("operator", [
            "crsc-operator", "--servers", self.cluster.servers, "--state-dir", self.state, "--workload", path,
            "--criu", CRIU if os.path.exists(CRIU) else "criu", *(["--stop-containers"] if self.stop_containers else [])])

    def status(self):
        """The interceptor's own, or None when it does not answer."""
        connection = Http(self.admin_port, timeout=60)
        try:
            return connection.json("GET", "/status")
        except (OSError, ValueError):
            return None
        finally:
            connection.close()

    def wait_active(self, timeout=60):
        def look():
            status = self.status()
            return status if status and status["state"] == "active" else None
        try:
            return wait_until("the interceptor is active", look, timeout)
        except Failure as e:
            reasons = [e["reason"] for e in self.operator.events() if e.get("msg") == "not served now"] if self.operator else []
            raise Failure(f"{e}; crsc-operator says: {(reasons or ['nothing'])[-1]}") from None

    def container_pid(self):
        """The pid of the container's first process while it lives, else None."""
        for name in containers(self.runc_root):
            done = subprocess.run(["runc", "--root", self.runc_root, "state", name], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True)
            try:
                state = json.loads(done.stdout)
            except ValueError:
                continue
            if state["status"] in ("running", "paused") and state["pid"] > 0:  # paused: being dumped
                return state["pid"]
        return None

    def kill_app(self):
        """kill -9 of the container's first process; the wall time of it."""
        pid = wait_until("a running container", self.container_pid, 30)
        now = time.time()
        os.kill(pid, signal.SIGKILL)
        return now

    def kill_app_if_there(self):
        """The same when nobody may be there to start another one."""
        pid = self.container_pid()
        if pid:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def snapshots(self):
        found = json.loads(self.cluster.logctl("snapshots", self.stream))
        return found["snapshots"] if isinstance(found, dict) else found
