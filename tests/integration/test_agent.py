#!/usr/bin/env python3
"""crsc-agent with a real log, and scripts that play runc, CRIU, the pod's interceptor and a registry: what it does when answers do not come, when it is
killed, when copies of an image are damaged, when two streams have checkpoints of one name. Real containers are in tests/cluster."""
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import ssl
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import wire
from harness import Cluster, check, free_ports, main, wait_until

# Plays runc (in whose dumps the container's words are enough) and CRIU (which "works").
RUNC = """#!/bin/sh
[ "$1" = --version ] && { echo "runc version 1.3.4"; exit 0; }
verb= image= work= parent= prev=
for word in "$@"; do
  [ "$prev" = --parent-path ] && parent=$word
  [ "$prev" = --image-path ] && image=$word
  [ "$prev" = --work-path ] && work=$word
  case $word in pause|resume|checkpoint|restore|state) [ -n "$verb" ] || verb=$word;; esac
  prev=$word
done
echo "$verb" >>"$0.calls"
[ "$verb" = checkpoint ] && [ -e "$0.stuck" ] && { echo '(00.1) Dumping processes' >"$work/dump.log"; echo $$ >"$0.pid"; sleep 60; }
[ "$verb" = checkpoint ] && { mkdir -p "$image"; echo inventory >"$image/inventory.img"; head -c 65536 /dev/urandom >"$image/pages-1.img"; [ -z "$parent" ] || ln -s "$parent" "$image/parent"; }
[ "$verb" = state ] && cat "$0.state"
exit 0
"""
# `criu.tracks`: the kernel tracks written pages. `criu.next`: what the next rounds of pre-copy are like, a word each: bytes, "fails", "cut", "waits".
CRIU = """#!/bin/sh
me=$(readlink -f "$0")
[ "$1 $2" = "check --feature" ] && { [ -e "$me.tracks" ]; exit; }
[ "$1" = pre-dump ] || { echo 'Version: 4.2'; exit 0; }
echo "$*" >>"$me.calls"
echo '(00.1) Pre-dumping task' >"$7/dump.log"
word=$(head -1 "$me.next"); sed -i 1d "$me.next"
[ "$word" = waits ] && { echo $$ >"$me.pid"; while [ ! -e "$me.go" ]; do sleep 0.1; done; word=6000000; }
[ "$word" = cut ] && kill -9 $$
[ "$word" = fails ] && { echo '(00.2) Error (criu/x.c:1): Pre-dumping FAILED.' >>"$7/dump.log"; exit 1; }
head -c "$word" /dev/zero >"$5/pages-1.img"
[ -z "${12}" ] || ln -s "${12}" "$5/parent"
echo '(00.3) Pre-dumping finished successfully' >>"$7/dump.log"
"""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """An agent that was killed leaves connections; that is all there can be."""


def serve(handler):
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def say(self, code, body=b"", headers=()):
        self.send_response(code)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))


class Registry:
    """The distribution protocol, as far as the agent speaks it. `pushed` is called when a manifest was asked for by digest: the push is verified then."""

    def __init__(self):
        self.blobs, self.tags, self.pushed, self.away = {}, {}, None, False
        registry = self

        class Handler(Quiet):
            def do_HEAD(self):
                registry.get(self)

            do_GET = do_HEAD

            def do_POST(self):
                self.body()
                self.say(202, headers=[("Location", self.path + "u")])

            def do_PUT(self):
                body = self.body()
                digest = "sha256:" + hashlib.sha256(body).hexdigest()
                registry.blobs[digest] = body
                name, _, tag = self.path.partition("/manifests/")
                if tag:
                    registry.tags[f"{name}:{tag}"] = digest
                self.say(201)

            def do_DELETE(self):
                digest = self.path.rpartition("/")[2]
                found = registry.blobs.pop(digest, None)
                registry.tags = {k: v for k, v in registry.tags.items() if v != digest}
                self.say(202 if found else 404)
        self.server = serve(Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"

    def get(self, request):
        if self.away:
            request.say(503)
            return
        name, kind, what = re.match("(.*)/(manifests|blobs)/(.*)", request.path).groups()
        digest = what if what.startswith("sha256:") else self.tags.get(f"{name}:{what}")
        if digest not in self.blobs:
            request.say(404)
            return
        if kind == "manifests" and what == digest and self.pushed:
            self.pushed()
        request.say(200, self.blobs[digest])

    def damage(self):
        """A byte of each layer."""
        for digest, data in self.blobs.items():
            if len(data) > 65536:
                self.blobs[digest] = data[:40000] + bytes([data[40000] ^ 1]) + data[40001:]


class Interceptor:
    """The admin interface of a pod's interceptor."""

    def __init__(self):
        self.offset, self.identity, self.drain, self.suspect, self.diverged, self.replicas, self.looks = 0, "", "", False, 0, 0, 0
        self.lost, self.watchers, self.told, self.closed = False, 0, threading.Condition(), False
        self.hangs_up, self.calls = False, []  # each /watch ends as soon as it was answered; when they came
        interceptor = self

        class Handler(Quiet):
            def do_GET(self):
                if self.path == "/watch":
                    interceptor.watch(self)
                    return
                if interceptor.closed:
                    self.close_connection = True
                    return
                interceptor.looks += 1
                self.say(200, json.dumps({"instance": "i1", "replicas": interceptor.replicas, "state": "draining" if interceptor.drain else "active", "drain": {"token": interceptor.drain},
                                          "app": {"identity": interceptor.identity, "lost": interceptor.lost, "suspect": interceptor.suspect, "diverged": interceptor.diverged}}).encode())

            def do_POST(self):
                if self.path.startswith("/replicas"):
                    interceptor.replicas = int(self.path.partition("count=")[2])
                    self.say(400 if interceptor.replicas > 15 else 200, b"{}")
                    return
                said = json.loads(self.body())
                if self.path == "/attach":
                    interceptor.identity = said["identity"]
                elif self.path == "/checkpoint":
                    interceptor.drain = said["token"]
                elif self.path == "/resume":
                    interceptor.drain = ""
                self.say(200, json.dumps({"offset": interceptor.offset, "unbroken": True}).encode())
        self.server = serve(Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"

    def watch(self, request):
        """Says something when it is told to, and ends with the interceptor."""
        request.close_connection = True
        with self.told:
            self.calls.append(time.monotonic())
            if self.hangs_up:
                request.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                return
            self.watchers += 1
            request.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
            while not self.closed and not self.hangs_up:
                self.told.wait()
                request.wfile.write(b"{}\n")
            self.watchers -= 1

    def tell(self):
        with self.told:
            self.told.notify_all()

    def close(self):
        self.closed = True
        self.server.shutdown()
        self.server.server_close()
        self.tell()


class Kubelet:
    """Its checkpoint API, over TLS. `refuses`: (code, words) instead of an archive, which `partial` leaves all the same; `begun` is called while it works, `ends`: it hangs up without an
    answer. The archive says that it is of container `dumped`."""

    def __init__(self, world):
        self.world, self.calls, self.tokens, self.refuses, self.begun, self.ends = world, [], [], None, None, False
        self.partial, self.dumped, self.asked, self.got = False, None, 0, []
        self.folder = world.bench.path("kubelet-root", "checkpoints")
        os.makedirs(self.folder)
        kubelet = self

        class Handler(Quiet):
            def do_GET(self):
                kubelet.got.append(self.path)
                self.say(404, b"404 page not found")

            def do_POST(self):
                kubelet.answer(self)
        self.server = Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(world.bench.path("crsc-agent.crt"), world.bench.path("crsc-agent.key"))
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"https://127.0.0.1:{self.server.server_port}"

    def archive_of(self, pod, n):
        return os.path.join(self.folder, f"checkpoint-{pod}_default-app-2026-11-28T05:{n // 60:02}:{n % 60:02}Z.tar")

    def leave(self, path, dumped):
        with tarfile.open(path, "w") as tar:
            words = json.dumps({"id": dumped, "name": "app"}).encode()
            for name, data in (("checkpoint/pages-1.img", os.urandom(70000)), ("config.dump", words), ("spec.dump", os.urandom(100))):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))

    def answer(self, request):
        request.body()
        _, _, _, pod, _ = request.path.partition("?")[0].split("/")
        refused = self.refuses and (self.refuses[0] in (401, 403) or self.refuses[1].startswith("404 page"))
        if pod == "no.such":  # whether it would
            self.asked += 1
            request.say(*(self.refuses[0], self.refuses[1].encode()) if refused else (404, b"pod does not exist"))
            return
        self.calls.append(request.path)
        self.tokens.append(request.headers.get("Authorization"))
        if self.begun:
            self.begun()
        path = self.archive_of(pod, len(self.calls))
        if self.partial or not (self.ends or self.refuses):
            self.leave(path, self.dumped or "c" + pod)
        if self.ends:
            request.close_connection = True
            request.connection.close()
        elif self.refuses:
            request.say(self.refuses[0], self.refuses[1].encode())
        else:
            with open(path, "rb") as f:
                self.archive = f.read()
            request.say(200, json.dumps({"items": [path]}).encode())

    def left(self):
        return os.listdir(self.folder)


class Wire:
    """Between the agent and the log: passes everything on, until it is muted: then what is sent arrives, and no answer comes back but the greeting, with who leads; or cut:
    nothing passes."""

    def __init__(self, to):
        self.to, self.muted, self.cut, self.mute_at = to, False, False, None  # mute_at: a type of frame; it is muted from the first one on
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            near, _ = self.listener.accept()
            try:
                far = socket.create_connection(self.to)
            except OSError:
                near.close()
                continue
            threading.Thread(target=self.carry, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self.carry, args=(far, near, True), daemon=True).start()

    def carry(self, a, b, back):
        data = b""
        try:
            while more := a.recv(65536):
                data += more  # a frame's beginning and several of them may come at once
                while len(data) >= wire.HEADER.size:
                    _, kind, _, _, head_len, body_len, _, _ = wire.HEADER.unpack(data[:wire.HEADER.size])
                    size = wire.HEADER.size + head_len + body_len
                    if len(data) < size:
                        break
                    one, data = data[:size], data[size:]
                    if not back and kind == self.mute_at:
                        self.muted = True
                    if not (self.cut or (back and self.muted and kind & ~wire.REPLY not in (wire.HELLO, wire.STATUS))):
                        b.sendall(one)
        except OSError:
            pass
        for s in (a, b):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class World:
    """One log server, a registry, and nodes."""

    def __init__(self, bench):
        self.bench, self.log = bench, Cluster(bench, 1).start()
        self.wire = Wire(("127.0.0.1", self.log.ports[1]))
        self.registry = Registry()
        self.make_certificates()
        for name, text in (("runc", RUNC), ("criu", CRIU)):
            with open(bench.path(name), "w") as f:
                f.write(text)
            os.chmod(bench.path(name), 0o755)

    def make_certificates(self):
        at = self.bench.path
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        self.bench.run("openssl", "req", "-x509", *key, "-days", "2", "-subj", "/CN=ca", "-keyout", at("ca.key"), "-out", at("ca.crt"))
        with open(at("ext"), "w") as f:
            f.write("subjectAltName=IP:127.0.0.1\n")
        for name in ("crsc-operator", "crsc-agent"):
            self.bench.run("openssl", "req", *key, "-subj", f"/CN={name}", "-keyout", at(name + ".key"), "-out", at(name + ".csr"))
            self.bench.run("openssl", "x509", "-req", "-in", at(name + ".csr"), "-CA", at("ca.crt"), "-CAkey", at("ca.key"), "-CAcreateserial", "-days", "2",
                           "-extfile", at("ext"), "-out", at(name + ".crt"))

    def stream(self, name, events=3):
        """A stream with events: snapshots of it can be recorded."""
        stream = f"test/{name}"
        self.bench.run("crsc-appendload", "--servers", self.log.servers, "--stream", stream, "--producers", "1", "--count", str(events), "--out",
                       self.bench.path("acked"))
        return stream + "-0"

    def note_failed(self, stream, record):
        """A person, or the operator, gives a valid one up: its record keeps the digest."""
        self.record(wire.field(1, stream) + wire.field(2, record["id"]) + wire.field(3, record["offset"]) + wire.field(4, 3) + wire.field(6, record["sha256"]))

    def record(self, one):
        with wire.dial(self.log.ports[1]) as s:
            s.sendall(wire.frame(wire.RECORD_SNAPSHOT, 2, wire.field(1, one)))
            check(wire.receive(s)[0] == wire.RECORD_SNAPSHOT | wire.REPLY, "recorded")

    def records(self, stream):
        out, _ = self.bench.run("crsc-logctl", "--servers", self.log.servers, "--output", "json", "snapshots", stream)
        found = json.loads(out)
        return {s["id"]: s for s in (found["snapshots"] if isinstance(found, dict) else found)}


class Node:
    def __init__(self, world, name, peers="", registry=True, log_timeout="20s", node=None, servers=None, kubelet=None, kubelet_ca="ca.crt"):
        self.world, self.name, bench = world, name, world.bench
        self.here = bench.path(name)
        self.port = free_ports(1)[0]
        self.pods, at = {}, bench.path
        os.makedirs(os.path.join(self.here, "run", "started"))
        self.argv = ["crsc-agent", "--node", node or name, "--servers", servers or world.wire.address, "--listen", f"127.0.0.1:{self.port}", "--tls-ca", at("ca.crt"),
                     "--tls-cert", at("crsc-agent.crt"), "--tls-key", at("crsc-agent.key"), "--store", os.path.join(self.here, "store"), "--run",
                     os.path.join(self.here, "run"), "--runc", at("runc"), "--criu", at("criu"), "--runc-root", os.path.join(self.here, "runc"),
                     "--plain-registries", world.registry.host, "--restore-cost", "0s", "--replay-cost", "1000000", "--log-timeout", log_timeout,
                     "--peers", peers, "--image-registry", f"{world.registry.host}/checkpoints" if registry else ""]
        if kubelet:
            with open(at("token"), "w") as f:
                f.write("first\n")
            self.argv += ["--kubelet", kubelet, "--kubelet-ca", at(kubelet_ca), "--kubelet-token", at("token"), "--kubelet-archives", at("kubelet-root", "checkpoints")]
        self.context = ssl.create_default_context(cafile=at("ca.crt"))
        self.context.load_cert_chain(at("crsc-operator.crt"), at("crsc-operator.key"))
        self.start()

    def start(self):
        self.process = self.world.bench.spawn(self.name, self.argv)
        self.process.wait_for("started")

    def ask(self, method, path, body=None):
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context, timeout=60)
        connection.request(method, path, json.dumps(body) if body is not None else None)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, json.loads(data)

    def config(self, stream, pod):
        words = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.container-name": "app", "io.kubernetes.cri.sandbox-namespace": "default",
                 "io.kubernetes.cri.sandbox-name": pod, "crsc.io/stream": stream, "crsc.io/container": "app", "crsc.io/upstream": "127.0.0.1:1",
                 "crsc.io/admin": self.pods[pod].address if pod in self.pods else "127.0.0.1:1", "crsc.io/template-hash": "h"}
        return {"ociVersion": "1.0.2", "process": {"user": {"uid": 0, "gid": 0}, "args": ["/app"], "cwd": "/"}, "root": {"path": "rootfs"},
                "mounts": [], "annotations": words, "linux": {"namespaces": [{"type": "pid"}]}}

    def run_pod(self, stream, pod, offset, mib=0):
        """A pod's container runs, with so much memory: what crsc-runtime would have left of it."""
        self.pods[pod] = Interceptor()
        self.pods[pod].offset = offset
        process = self.world.bench.spawn(f"{self.name}-{pod}", ["python3", "-c", f"import signal, sys\nsignal.signal(15, lambda *a: sys.exit(0))\nmemory = b'm' * ({mib} << 20)\nsignal.pause()"])
        if mib:
            wait_until("it has its memory", lambda: resident(process.pid) >= mib << 20)
            with open(self.world.bench.path("runc.state"), "w") as f:
                json.dump({"id": "c" + pod, "status": "running", "pid": process.pid}, f)
        bundle = os.path.join(self.here, "bundle-" + pod)
        os.makedirs(bundle)
        with open(os.path.join(bundle, "config.json"), "w") as f:
            json.dump(self.config(stream, pod), f)
        with open(f"/proc/{process.pid}/stat") as f:
            start_time = int(f.read().rsplit(")", 1)[1].split()[19])
        record = {"v": 1, "id": "c" + pod, "bundle": bundle, "pid": process.pid, "start_time": start_time, "began": "fresh", "snapshot": "", "tried": "",
                  "offset": 0, "reason": "", "criu_us": 0, "created_us": 1}
        path = os.path.join(self.here, "run", "started", f"c{pod}.json")
        with open(path + ".new", "w") as f:
            json.dump(record, f)
        os.rename(path + ".new", path)
        self.wait_attached(pod)
        return process

    def find_pod(self, stream, pod, offset, attached=True, **words):
        """A pod's container runs that crsc-runtime did not start: runc's state says so, and the container's own words how it began."""
        self.pods[pod] = Interceptor()
        self.pods[pod].offset = offset
        ready = os.path.join(self.here, "ready-" + pod)
        process = self.world.bench.spawn(f"{self.name}-{pod}", ["python3", "-c", "import signal, sys\nsignal.signal(15, lambda *a: sys.exit(0))\nopen(sys.argv[1], 'w')\nsignal.pause()", ready])
        wait_until("it can be stopped", lambda: os.path.exists(ready))
        bundle, state = os.path.join(self.here, "bundle-" + pod), os.path.join(self.here, "runc", "c" + pod)
        config = self.config(stream, pod)
        config["annotations"] |= {"crsc.io/backend": "kubelet", **words}
        for folder in (bundle, state):
            os.makedirs(folder)
        with open(os.path.join(bundle, "config.json"), "w") as f:
            json.dump(config, f)
        with open(f"/proc/{process.pid}/stat") as f:
            start_time = int(f.read().rsplit(")", 1)[1].split()[19])
        for words in ({"init_process_pid": 1, "init_process_start": 1}, {"init_process_pid": process.pid, "init_process_start": start_time}):  # first one that is gone: runc's own, at times
            with open(os.path.join(state, "new"), "w") as f:
                json.dump({"id": "c" + pod, **words, "config": {"labels": ["bundle=" + bundle]}}, f)
            os.rename(f.name, os.path.join(state, "state.json"))
            if len(self.pods) % 2:
                time.sleep(0.5)  # long enough to be looked at, or too short
        if attached:
            self.wait_attached(pod)
        return process

    def container(self, pod):
        return next((c for c in self.ask("GET", "/v1/containers")[1]["containers"] if c["pod"] == pod), None)

    def wait_attached(self, pod):
        wait_until(f"{pod} is attached", lambda: any(c["pod"] == pod and c["attached"] for c in self.ask("GET", "/v1/containers")[1]["containers"]))

    def begin(self, stream, pod, name):
        return self.ask("PUT", f"/v1/checkpoints/{name}?stream={stream}", {"namespace": "default", "pod": pod})

    def state(self, stream, name):
        return self.ask("GET", f"/v1/checkpoints/{name}?stream={stream}")

    def ended(self, stream, name, phase="valid"):
        def look():
            state = self.state(stream, name)[1]
            return state if state["phase"] in ("valid", "failed") else None
        state = wait_until(f"{name} ends", look, 60)
        check(state["phase"] == phase, "%s", state)
        return state

    def take(self, stream, pod, name):
        check(self.begin(stream, pod, name)[0] == 202, "begun")
        return self.ended(stream, name)

    def create(self, stream, pod="new"):
        """What crsc-runtime would be told for a container of that stream."""
        text = json.dumps(self.config(stream, pod)).encode()
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(60)
            s.connect(os.path.join(self.here, "run", "agent.sock"))
            s.sendall(f"create q{time.monotonic_ns()} {len(text)}\n".encode() + text)
            for line in s.makefile():
                if not line.startswith("wait "):
                    return line.split()
        return None

    def damage(self):
        """A byte of each layer in its store. How many."""
        n = 0
        for here, _, files in os.walk(os.path.join(self.here, "store", "images")):
            for path in (os.path.join(here, name) for name in files):
                if os.path.getsize(path) > 65536:
                    with open(path, "r+b") as f:
                        f.seek(40000)
                        byte = f.read(1)
                        f.seek(40000)
                        f.write(bytes([byte[0] ^ 1]))
                    n += 1
        return n


def resident(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"RssAnon:\s+(\d+) kB", f.read())[1]) << 10


def test_same_name(bench, rng):
    """Two streams with a checkpoint of the same name, as two namespaces may have: neither is taken for the other."""
    world = World(bench)
    node = Node(world, "n1")
    one, two = world.stream("one"), world.stream("two", 5)
    node.run_pod(one, "a", 3)
    node.run_pod(two, "b", 5)
    first = node.take(one, "a", "before-upgrade")
    check(node.state(two, "before-upgrade")[0] == 404, "of the other stream nothing is known")
    check(node.begin(one, "b", "x")[0] == 409, "a pod of another stream is refused")
    second = node.take(two, "b", "before-upgrade")
    check((first["stream"], first["offset"], second["stream"], second["offset"]) == (one, 3, two, 5), "%s %s", first, second)
    check(first["digest"] != second["digest"] and first["image"] != second["image"], "two images")
    check(len(node.ask("GET", "/v1/checkpoints")[1]["checkpoints"]) == 2, "both are listed")
    check(node.ask("GET", "/v1/checkpoints/before-upgrade")[0] == 400, "the stream has to be said")
    check(node.ask("DELETE", f"/v1/checkpoints/before-upgrade?stream={one}&registry=true")[0] == 200, "one is deleted")
    check(list(world.registry.tags.values()) == [second["digest"]], "%s", world.registry.tags)
    check(node.ask("POST", f"/v1/checkpoints/before-upgrade/verify?stream={two}")[1] == {"ok": True}, "the other is whole")


def test_delete_after_restart(bench, rng):
    """An agent that was started again removes from the registry what an earlier life pushed there; also when the store has nothing of it any more."""
    world = World(bench)
    node = Node(world, "n1")
    stream = world.stream("s")
    node.run_pod(stream, "a", 3)
    node.take(stream, "a", "c-1")
    second = node.take(stream, "a", "c-2")
    node.process.kill()
    node.start()
    check(len(world.registry.tags) == 2, "both are there")
    check(node.ask("DELETE", f"/v1/checkpoints/c-1?stream={stream}&registry=true")[0] == 200 and len(world.registry.tags) == 1, "by what the log says")
    node.process.kill()
    shutil.rmtree(os.path.join(node.here, "store"))
    node.start()
    check(node.ask("DELETE", f"/v1/checkpoints/c-2?stream={stream}&registry=true&image={second['image']}")[0] == 200 and not world.registry.tags,
          "by what the caller was told")
    world.registry.away = True
    check(node.ask("DELETE", f"/v1/checkpoints/c-2?stream={stream}&registry=true")[0] == 503, "a registry that is away is no success")


def test_killed_while_recording(bench, rng):
    """Killed when the image was pushed and nothing was recorded: the next life records the failure, and leaves nothing in the registry."""
    world = World(bench)
    node = Node(world, "n1")
    stream = world.stream("s")
    node.run_pod(stream, "a", 3)
    world.registry.pushed = node.process.kill
    node.begin(stream, "a", "c-1")
    wait_until("it is killed", lambda: not node.process.alive())
    world.registry.pushed = None
    check(len(world.registry.tags) == 1 and world.records(stream)["c-1"]["state"] == "taking", "pushed and not recorded")
    node.start()
    wait_until("it is given up", lambda: world.records(stream)["c-1"]["state"] == "failed")
    wait_until("nothing is left of it", lambda: not world.registry.tags and node.state(stream, "c-1")[0] == 404)


def calls(runc):
    """What was done to containers; runc is also asked what it knows: restore --help."""
    with open(runc + ".calls") as f:
        return [verb for verb in f.read().split() if verb != "restore"]


def test_killed_in_dump(bench, rng):
    """Killed while CRIU works, with all that it had started, as the end of a pod does: the next life thaws the container, and ends an app that nobody knows the
    state of. Killed at another time, the app goes on."""
    world = World(bench)
    node = Node(world, "n1")
    stream = world.stream("s")
    app = node.run_pod(stream, "a", 3)
    node.take(stream, "a", "c-1")
    node.process.kill()
    node.start()
    node.wait_attached("a")
    node.take(stream, "a", "c-2")
    check(app.alive(), "no dump was under way")
    runc = bench.path("runc")
    with open(runc + ".stuck", "w"):
        pass
    node.begin(stream, "a", "c-3")
    wait_until("CRIU works", lambda: os.path.exists(runc + ".pid") and os.path.getsize(runc + ".pid") > 0)
    node.process.kill()
    with open(runc + ".pid") as f:
        os.killpg(os.getpgid(int(f.read())), 9)
    os.remove(runc + ".stuck")
    os.remove(runc + ".calls")
    app.expected_dead = True
    node.start()
    wait_until("the app is ended", lambda: not app.alive())
    check(calls(runc) == ["resume"], "and could be: it was thawed: %s", calls(runc))
    node.process.wait_for("the app is killed, to be restored: nobody knows its state", reason="the agent ended while it was being dumped")


def test_cut_dump(bench, rng):
    """CRIU is killed in the middle of a dump: the checkpoint failed, and the app is thawed and ended."""
    world = World(bench)
    node = Node(world, "n1")
    stream = world.stream("s")
    app = node.run_pod(stream, "a", 3)
    runc = bench.path("runc")
    with open(runc + ".stuck", "w"):
        pass
    node.begin(stream, "a", "c-1")
    wait_until("CRIU works", lambda: os.path.exists(runc + ".pid") and os.path.getsize(runc + ".pid") > 0)
    app.expected_dead = True
    with open(runc + ".pid") as f:
        os.killpg(os.getpgid(int(f.read())), 9)
    node.ended(stream, "c-1", "failed")
    wait_until("the app is ended", lambda: not app.alive())
    check(calls(runc) == ["pause", "checkpoint", "resume"], "and could be: it was thawed: %s", calls(runc))


def next_rounds(bench, *words):
    with open(bench.path("criu.next"), "w") as f:
        f.writelines(f"{word}\n" for word in words)


def members(world, state):
    """Name and target of what is in a checkpoint's layer."""
    manifest = json.loads(world.registry.blobs[state["digest"]])
    with tarfile.open(fileobj=io.BytesIO(world.registry.blobs[manifest["layers"][0]["digest"]])) as tar:
        return {m.name: m.linkname for m in tar}


def test_precopy(bench, rng):
    """Memory is copied ahead, while the pod serves, where the kernel tracks written pages; a round that fails makes the dump a plain one; after a dump upon rounds that failed
    the next one is plain."""
    world = World(bench)
    node = Node(world, "n1")
    stream = world.stream("s")
    app = node.run_pod(stream, "a", 3, mib=40)
    runc, criu = bench.path("runc"), bench.path("criu")
    next_rounds(bench)
    check(node.take(stream, "a", "c-1")["copied_ahead"] == [] and not os.path.exists(criu + ".calls"), "not where nothing is tracked")
    with open(criu + ".tracks", "w"):
        pass
    next_rounds(bench, 13000000, "waits")
    node.begin(stream, "a", "c-2")
    wait_until("the second round is made", lambda: os.path.exists(criu + ".pid") and os.path.getsize(criu + ".pid") > 0)
    check(node.state(stream, "c-2")[1]["phase"] == "copying" and node.pods["a"].drain == "", "it serves meanwhile")
    with open(criu + ".go", "w"):
        pass
    second = node.ended(stream, "c-2")
    check(second["copied_ahead"] == [13000000, 6000000], "%s", second)
    node.process.wait_for("checkpoint valid", checkpoint="c-2", rounds=2, copied_ahead=19000000)
    found = members(world, second)
    check(found["checkpoint/parent"] == "pre-2" and found["checkpoint/pre-2/parent"] == "../pre-1" and "checkpoint/pre-1/pages-1.img" in found, "%s", found)
    next_rounds(bench, 12000000, 5500000)
    check(node.take(stream, "a", "c-2b")["copied_ahead"] == [12000000, 5500000], "the second is less than half")
    next_rounds(bench, 9000000, "fails")
    plain = node.take(stream, "a", "c-3")
    check(plain["copied_ahead"] == [] and not [m for m in members(world, plain) if "pre-" in m or "parent" in m], "%s", plain)
    next_rounds(bench, 9000000, 1000000)
    check(node.take(stream, "a", "c-3b")["copied_ahead"] == [], "what failed would mostly fail again: it is left for a while")
    node.process.kill()  # the next life begins anew
    node.start()
    node.wait_attached("a")
    with open(runc + ".stuck", "w"):
        pass
    next_rounds(bench, 9000000, 1000000)
    node.begin(stream, "a", "c-4")
    wait_until("CRIU works", lambda: os.path.exists(runc + ".pid") and os.path.getsize(runc + ".pid") > 0)
    os.remove(runc + ".stuck")
    check(len(os.listdir(os.path.join(node.here, "store", "dumps"))) == 1, "a dump with its rounds")
    with open(runc + ".pid") as f:  # runc itself fails, and CRIU says so
        pid = int(f.read())
    with open(os.path.join(node.here, "store", "work", "ca.criu", "dump.log"), "a") as f:
        f.write("(00.2) Error (criu/cr-dump.c:1): Dumping FAILED.\n")
    os.kill(pid, 9)
    node.ended(stream, "c-4", "failed")
    next_rounds(bench, 9000000, 1000000)
    check(node.take(stream, "a", "c-5")["copied_ahead"] == [], "a plain one after that")
    check(node.take(stream, "a", "c-6")["copied_ahead"] == [9000000, 1000000], "and rounds again")
    next_rounds(bench, 9000000, 5000000)
    check(node.take(stream, "a", "c-7")["copied_ahead"] == [] and node.take(stream, "a", "c-8")["copied_ahead"] == [], "rounds that do not pay are not kept, nor made again at once")
    check(app.alive() and os.listdir(os.path.join(node.here, "store", "dumps")) == [], "nothing is left")


def test_cut_round(bench, rng):
    """CRIU is killed in the middle of a round: the checkpoint failed before anybody waited, and the app is ended. The agent killed in one: the next life ends an app
    that was harmed, and nothing is left."""
    world = World(bench)
    node = Node(world, "n1")
    stream = world.stream("s")
    app = node.run_pod(stream, "a", 3, mib=40)
    criu, dumps = bench.path("criu"), os.path.join(node.here, "store", "dumps")
    with open(criu + ".tracks", "w"):
        pass
    app.expected_dead = True
    next_rounds(bench, 9000000, "cut")
    node.begin(stream, "a", "c-1")
    node.ended(stream, "c-1", "failed")
    wait_until("the app is ended", lambda: not app.alive())
    check(os.listdir(dumps) == [], "nothing is left")
    app = node.run_pod(stream, "b", 3, mib=40)
    next_rounds(bench, 9000000, "waits")
    node.begin(stream, "b", "c-2")
    wait_until("a round is made", lambda: os.path.exists(criu + ".pid") and os.path.getsize(criu + ".pid") > 0)
    node.process.kill()
    with open(criu + ".pid") as f:
        os.killpg(os.getpgid(int(f.read())), 9)
    app.expected_dead = True
    node.start()
    wait_until("the app is ended", lambda: not app.alive())
    wait_until("its record says that it failed", lambda: world.records(stream)["c-2"]["state"] == "failed")
    wait_until("nothing is left", lambda: os.listdir(dumps) == [])


def test_valid_or_not(bench, rng):
    """No answer comes to `valid`: the log is asked what it has, and nothing is guessed. It has it: the checkpoint is valid."""
    world = World(bench)
    node = Node(world, "n1", log_timeout="1s")
    stream = world.stream("s")
    node.run_pod(stream, "a", 3)

    def mute():
        world.wire.muted = True
    world.registry.pushed = mute
    node.begin(stream, "a", "c-1")
    node.process.wait_for("was the checkpoint recorded? the log is asked")
    check(node.state(stream, "c-1")[1]["phase"] == "recording", "nothing is decided while the log is silent")
    wait_until("it is in the log", lambda: world.records(stream)["c-1"]["state"] == "valid")
    world.wire.muted = False
    world.registry.pushed = None
    node.ended(stream, "c-1")
    check(world.records(stream)["c-1"]["state"] == "valid", "and stays there")


def test_valid_never_came(bench, rng):
    """The log is away when `valid` is to be recorded: it is recorded when the log is back, unless somebody gave it up meanwhile: then nothing is left of it."""
    world = World(bench)
    node = Node(world, "n1", log_timeout="1s")
    stream = world.stream("s")
    node.run_pod(stream, "a", 3)
    for name, phase in (("c-1", "valid"), ("c-2", "failed")):
        world.registry.pushed = world.log.running[1].pause
        node.begin(stream, "a", name)
        node.process.wait_for("was the checkpoint recorded? the log is asked", checkpoint=name)
        world.registry.pushed = None
        world.wire.cut = True
        world.log.kill(1)
        world.log.start(1)
        if phase == "failed":  # an agent of that node that knows nothing of it
            Node(world, "twin", node="n1", servers=world.log.servers).run_pod(stream, "b", 3)
            wait_until("it is given up", lambda: world.records(stream)[name]["state"] == "failed")
        world.wire.cut = False
        node.ended(stream, name, phase)
        check(world.records(stream)[name]["state"] == phase, "%s", world.records(stream))
    wait_until("nothing is left of it", lambda: len(world.registry.tags) == 1 and node.ask("POST", f"/v1/checkpoints/c-2/verify?stream={stream}")[0] == 404)


def test_damaged_here(bench, rng):
    """This node's copy is damaged: the registry's is taken, or another agent's; the checkpoint stays valid."""
    world = World(bench)
    stream = world.stream("s")
    plain, local = Node(world, "n1"), Node(world, "n2", registry=False)
    plain.run_pod(stream, "a", 3)
    plain.take(stream, "a", "c-1")
    check(plain.create(stream)[:3] == ["restore", "3", "c-1"], "whole")
    check(plain.damage() == 1 and plain.create(stream)[:3] == ["restore", "3", "c-1"], "the registry's is taken")
    # in no registry: two nodes have it
    stream = world.stream("t")
    local.run_pod(stream, "b", 3)
    state = local.take(stream, "b", "c-2")
    peer = Node(world, "n3", peers=f"127.0.0.1:{local.port}", registry=False)
    check(peer.create(stream)[:3] == ["restore", "3", "c-2"], "fetched from the agent that has it")
    check(peer.damage() == 1 and peer.create(stream)[:3] == ["restore", "3", "c-2"], "and again")
    check(state["image"] == "" and world.records(stream)["c-2"]["state"] == "valid", "it stays valid")
    # one that may have a good copy does not answer: nothing is decided
    peer.damage()
    local.process.kill()
    check(peer.create(stream)[0] == "fresh" and world.records(stream)["c-2"]["state"] == "valid", "not given up while somebody may have it")


def test_damaged_everywhere(bench, rng):
    """Every copy is damaged: the next older is taken, and the log is told. A registry that is away is not a damaged copy."""
    world = World(bench)
    stream = world.stream("s", 9)
    node = Node(world, "n1")
    node.run_pod(stream, "a", 3)
    node.take(stream, "a", "c-1")
    node.pods["a"].offset = 9
    node.take(stream, "a", "c-2")
    node.damage()
    world.registry.away = True
    check(node.create(stream)[0] == "fresh" and {s["state"] for s in world.records(stream).values()} == {"valid"}, "nothing is given up")
    world.registry.away = False
    world.registry.damage()
    check(node.create(stream)[0] == "fresh", "nothing whole")
    wait_until("the log is told", lambda: {s["state"] for s in world.records(stream).values()} == {"failed"})


def test_log_away(bench, rng):
    """The log does not answer and this node's copy is damaged: the registry's is taken, and nobody is told anything."""
    world = World(bench)
    stream = world.stream("s")
    node = Node(world, "n1", log_timeout="1s")
    node.run_pod(stream, "a", 3)
    node.take(stream, "a", "c-1")
    node.damage()
    world.wire.muted = True
    check(node.create(stream)[:3] == ["restore", "3", "c-1"], "the registry's is taken")
    node.damage()
    world.registry.damage()
    check(node.create(stream)[0] == "fresh", "nothing whole")
    check(world.records(stream)["c-1"]["state"] == "valid", "what the log says is not known here, so it is not changed")


def test_replicas(bench, rng):
    """Pods of one stream on two nodes: a pod begins with the newest checkpoint of any of them; its interceptor hears how many they are; an app that has diverged
    is left to the operator, where one that is merely suspect is ended."""
    world = World(bench)
    stream = world.stream("s", 9)
    one, two = Node(world, "n1"), Node(world, "n2")
    one.run_pod(stream, "a", 3)
    process = two.run_pod(stream, "b", 5)
    one.take(stream, "a", "c-1")
    two.take(stream, "b", "c-2")
    for node in (one, two):
        check(node.create(stream, f"{node.name}-new")[:3] == ["restore", "5", "c-2"], "the newest of any replica, on %s", node.name)
    check(two.ask("POST", "/v1/containers/cb/replicas?count=3")[0] == 200 and two.pods["b"].replicas == 3, "it hears it")
    for path, status in (("cb/replicas", 400), ("cb/replicas?count=", 400), ("cb/replicas?count=-1", 400), ("cb/replicas?count=3x", 400), ("cb/replicas?count=99", 400), ("ca/replicas?count=3", 404)):
        check(two.ask("POST", f"/v1/containers/{path}")[0] == status, "%s", path)
    two.pods["b"].diverged, two.pods["b"].suspect = 4, True
    before = two.pods["b"].looks
    process.expected_dead = True
    wait_until("the agent looked at it", lambda: two.pods["b"].looks >= before + 3)
    check(process.alive(), "it was ended before the operator could say what of it is no way back")
    two.pods["b"].diverged = 0
    wait_until("it is ended", lambda: not process.alive())


def test_kubelet(bench, rng):
    """crsc.io/backend: kubelet. A container that crsc-runtime did not start is found, and attached as fresh; the kubelet's archive becomes the image's layer byte for byte, is pushed,
    recorded, and removed from the node. A pod that was made from it begins with its offset."""
    world = World(bench)
    stream = world.stream("s", 9)
    kubelet = Kubelet(world)
    node = Node(world, "n1", kubelet=kubelet.url)
    check(node.ask("GET", "/v1/node")[1]["backends"]["kubelet"] == {"ok": True}, "it is there")
    node.find_pod(stream, "a", 5)
    check((node.container("a")["began"], node.container("a")["offset"]) == ("fresh", 0), "%s", node.container("a"))
    drained = []
    kubelet.begun = lambda: drained.append(node.pods["a"].drain)
    state = node.take(stream, "a", "c-1")
    check(drained == ["c-1"] and not node.pods["a"].drain, "while the interceptor drains: %s", drained)
    check(kubelet.asked > 0 and not kubelet.got and kubelet.calls == ["/checkpoint/default/a/app?timeout=120"] and kubelet.tokens == ["Bearer first"], "%s %s", kubelet.calls, kubelet.tokens)
    check(not kubelet.left(), "the archive is removed: %s", kubelet.left())
    manifest = json.loads(world.registry.blobs[state["digest"]])
    config = json.loads(world.registry.blobs[manifest["config"]["digest"]])
    check(world.registry.blobs[manifest["layers"][0]["digest"]] == kubelet.archive, "the archive is the layer")
    check(manifest["annotations"]["org.criu.checkpoint.container.name"] == manifest["annotations"]["io.kubernetes.cri-o.annotations.checkpoint.name"] == "app"
          and config["config"] == {"User": "0:0"}, "%s %s", manifest, config)
    record = world.records(stream)["c-1"]
    check((record["state"], record["offset"], state["offset"]) == ("valid", 5, 5), "%s", record)
    check(node.ask("POST", f"/v1/checkpoints/c-1/verify?stream={stream}")[1] == {"ok": True}, "it is whole")
    check(node.damage() == 1 and not node.ask("POST", f"/v1/checkpoints/c-1/verify?stream={stream}")[1]["ok"], "and when it is not, that is seen")
    with open(bench.path("token"), "w") as f:
        f.write("second\n")
    image = state["image"].rpartition(":")[0] + "@" + state["digest"]
    kubelet.begun = None
    node.find_pod(stream, "b", 7, **{"crsc.io/checkpoint": "c-1", "checkpointImage": image, "io.kubernetes.cri.container-name": "containerd"})  # containerd's name for what it restores
    b = node.container("b")
    check((b["began"], b["snapshot"], b["offset"]) == ("restored", "c-1", 5), "%s", b)
    node.take(stream, "b", "c-2")
    check(kubelet.tokens[1] == "Bearer second", "a renewed token is read")
    check(kubelet.calls[1] == "/checkpoint/default/b/app?timeout=120", "%s", kubelet.calls)
    node.process.kill()
    node.start()
    for pod in ("a", "b"):
        node.wait_attached(pod)
    check((node.container("b")["began"], node.container("b")["offset"]) == ("restored", 5), "found again by another life: %s", node.container("b"))
    # what one life was certain of the next one need not ask: the log is away, or knows the checkpoint no more
    world.wire.cut = True
    node.process.kill()
    node.start()
    for pod in ("a", "b"):
        node.wait_attached(pod)
    check((node.container("b")["began"], node.container("b")["snapshot"], node.container("b")["offset"]) == ("restored", "c-1", 5), "%s", node.container("b"))
    world.wire.cut = False


def test_kubelet_doubt(bench, rng):
    """What a container began with is not guessed: where the pod's words, the container runtime's and the log's are not the same, the interceptor is told nothing, and the reason is."""
    world = World(bench)
    stream = world.stream("s", 9)
    kubelet = Kubelet(world)
    node = Node(world, "n1", kubelet=kubelet.url)
    node.find_pod(stream, "a", 5)
    state = node.take(stream, "a", "c-1")
    image = state["image"].rpartition(":")[0] + "@" + state["digest"]
    doubtful = {
        "b": ({"crsc.io/checkpoint": "c-1"}, "container_annotations"),
        "c": ({"checkpointImage": image}, "nobody said"),
        "d": ({"crsc.io/checkpoint": "c-1", "checkpointImage": image[:-4] + "beef"}, "another image"),
        "e": ({"crsc.io/checkpoint": "c-9", "checkpointImage": image}, "knows nothing")}
    for pod, (words, reason) in doubtful.items():
        node.find_pod(stream, pod, 0, attached=False, **words)
        c = wait_until(f"{pod} is looked at", lambda: (lambda c: c if c and c["began"] == "unknown" and c["interceptor"] else None)(node.container(pod)))
        check(reason in c["reason"] and not c["attached"] and not node.pods[pod].identity, "%s", c)
        check(node.begin(stream, pod, "x-" + pod)[0] == 409, "no checkpoint is taken of it")
    # what became of the checkpoint since is no doubt
    world.note_failed(stream, world.records(stream)["c-1"])
    check(world.records(stream)["c-1"]["state"] == "failed", "%s", world.records(stream))
    node.find_pod(stream, "f", 5, **{"crsc.io/checkpoint": "c-1", "checkpointImage": image})
    f = node.container("f")
    check((f["began"], f["snapshot"], f["offset"]) == ("restored", "c-1", 5), "%s", f)


def test_kubelet_refuses(bench, rng):
    """The kubelet or the container runtime cannot: the checkpoint failed and says why, the app goes on, nothing is left in the kubelet's folder. Who refuses anyway is not drained for."""
    world = World(bench)
    stream = world.stream("s", 9)
    kubelet = Kubelet(world)
    node = Node(world, "n1", kubelet=kubelet.url)
    app = node.find_pod(stream, "a", 5)
    drained = []
    kubelet.begun = lambda: drained.append(node.pods["a"].drain)
    other = kubelet.archive_of("other", 1)
    kubelet.leave(other, "cother")  # not ours: it stays
    cases = [(404, "404 page not found", "ContainerCheckpoint", 0), (403, "Forbidden", "nodes/checkpoint", 0), (401, "Unauthorized", "401", 0),
             (500, "checkpointing of default/a/app failed (rpc error: code = Unknown desc = CRIU binary not found)", "CRIU binary not found", 1), (200, "[]", "archive", 1),
             (200, json.dumps({"items": [kubelet.archive_of("a", 3599)]}), "cannot be read", 1), (200, json.dumps({"items": [other]}), "archive of that container", 1)]
    for i, (code, words, reason, calls) in enumerate(cases):
        kubelet.refuses = (code, words)
        kubelet.partial = reason != "cannot be read"
        before = len(kubelet.calls)
        wait_until("nothing is being removed", lambda: node.begin(stream, "a", f"c-{i}")[0] == 202)
        state = node.ended(stream, f"c-{i}", "failed")
        check(reason in state["error"] and world.records(stream)[f"c-{i}"]["state"] == "failed", "%s", state)
        check(len(kubelet.calls) - before == calls, "who refuses is not drained for, who does not is: %s", state)
        wait_until(f"{words}: what it left is removed", lambda: kubelet.left() == [os.path.basename(other)])
    check(drained and all(drained) and app.alive() and not node.pods["a"].drain and not world.registry.tags, "nothing is left of them")
    os.unlink(other)
    kubelet.partial = False
    plain = kubelet.archive_of("a", 3000)
    with open(plain, "w") as f:
        f.write("no tar" * 200)
    kubelet.refuses = (200, json.dumps({"items": [plain]}))
    wait_until("nothing is being removed", lambda: node.begin(stream, "a", "c-plain")[0] == 202)
    check("no tar" in node.ended(stream, "c-plain", "failed")["error"] and not kubelet.left(), "%s", kubelet.left())
    nowhere = Node(world, "n2", registry=False, kubelet=kubelet.url)
    nowhere.find_pod(stream, "b", 5)
    calls = len(kubelet.calls)
    nowhere.begin(stream, "b", "c-nowhere")
    check("registry" in nowhere.ended(stream, "c-nowhere", "failed")["error"] and len(kubelet.calls) == calls, "without a registry it is not even begun")
    without = Node(world, "n3")  # an agent that may ask no kubelet serves such pods all the same, without checkpoints
    without.find_pod(stream, "d", 5)
    without.begin(stream, "d", "c-without")
    check("--kubelet" in without.ended(stream, "c-without", "failed")["error"] and len(kubelet.calls) == calls, "and says why")
    # nobody there: no drain
    kubelet.server.shutdown()
    kubelet.server.server_close()
    app = node.find_pod(stream, "c", 5)
    node.begin(stream, "c", "c-away")
    node.ended(stream, "c-away", "failed")
    check(app.alive() and len(kubelet.calls) == calls, "a kubelet that is away harms nothing")


def test_kubelet_unknown(bench, rng):
    """A kubelet that nobody can know is told no token: one that the CA does not know, and none without a CA but by name."""
    world = World(bench)
    stream = world.stream("s", 9)
    kubelet = Kubelet(world)
    for more, words in (([], "kubelet-ca"), (["--kubelet-ca", bench.path("ca.crt"), "--kubelet-insecure", "true"], "not both"), (["--kubelet-ca", bench.path("none")], "cannot be read")):
        node = ["crsc-agent", "--node", "n", "--servers", world.wire.address, "--tls-ca", bench.path("ca.crt"), "--tls-cert", bench.path("crsc-agent.crt"), "--tls-key",
                bench.path("crsc-agent.key"), "--kubelet", kubelet.url, *more]
        check(words in bench.run(*node, status=2)[1], "it does not start")
    bench.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=other", "-keyout", bench.path("other.key"),
              "-out", bench.path("other.crt"))
    node = Node(world, "n1", kubelet=kubelet.url, kubelet_ca="other.crt")
    app = node.find_pod(stream, "a", 5)
    check(not node.ask("GET", "/v1/node")[1]["backends"]["kubelet"]["ok"], "it says so")
    node.begin(stream, "a", "c-1")
    check("ertificate" in node.ended(stream, "c-1", "failed")["error"], "%s", node.state(stream, "c-1"))
    check(kubelet.asked == 0 and not kubelet.tokens and not kubelet.got and app.alive(), "nothing was asked, and nobody harmed")


def test_kubelet_other(bench, rng):
    """The kubelet dumps by name. When the app ends meanwhile, and another one has its name, that one's archive is not taken for the drained one's: it has less than the drain says."""
    world = World(bench)
    stream = world.stream("s", 9)
    kubelet = Kubelet(world)
    node = Node(world, "n1", kubelet=kubelet.url)
    node.find_pod(stream, "a", 5)
    kubelet.dumped = "another"
    node.begin(stream, "a", "c-1")
    check("which was drained" in node.ended(stream, "c-1", "failed")["error"] and not kubelet.left(), "%s", node.state(stream, "c-1"))
    kubelet.dumped = None
    app = node.find_pod(stream, "b", 5)
    app.expected_dead = True
    kubelet.begun = app.kill
    node.begin(stream, "b", "c-2")
    check("the app ended" in node.ended(stream, "c-2", "failed")["error"] and not kubelet.left(), "%s", node.state(stream, "c-2"))
    check(not world.registry.tags and all(r["state"] == "failed" for r in world.records(stream).values()), "%s", world.records(stream))


def test_kubelet_breaks_off(bench, rng):
    """A checkpoint that does not end well harms no app that goes on: neither a kubelet that hangs up, nor one that is late, which is left in peace after two. One that stands still since is
    ended, to be restored. What comes into the kubelet's folder later is removed."""
    world = World(bench)
    stream = world.stream("s", 9)
    kubelet = Kubelet(world)
    node = Node(world, "n1", kubelet=kubelet.url)
    app = node.find_pod(stream, "a", 5)
    kubelet.ends = kubelet.partial = True
    node.begin(stream, "a", "c-cut")
    node.ended(stream, "c-cut", "failed")
    check(app.alive() and not node.pods["a"].drain and not kubelet.left(), "it goes on")
    kubelet.leave(kubelet.archive_of("a", 50), "ca")  # the container runtime was at work still
    wait_until("what came later is removed", lambda: not kubelet.left(), 60)
    kubelet.ends = kubelet.partial = False
    kubelet.refuses = (500, "checkpointing of default/a/app failed (rpc error: code = DeadlineExceeded desc = context deadline exceeded)")
    for i in range(2):
        wait_until("it is not busy", lambda: node.begin(stream, "a", f"c-late-{i}")[0] == 202)
        check("in time" in node.ended(stream, f"c-late-{i}", "failed")["error"], "%s", node.state(stream, f"c-late-{i}"))
    calls = len(kubelet.calls)
    wait_until("it is not busy", lambda: node.begin(stream, "a", "c-rest")[0] == 202)
    check("not tried" in node.ended(stream, "c-rest", "failed")["error"] and len(kubelet.calls) == calls and app.alive(), "%s", node.state(stream, "c-rest"))
    app = node.find_pod(stream, "b", 5)
    kubelet.refuses = (500, "checkpointing of default/b/app failed (CRIU)")
    kubelet.begun = lambda: os.kill(app.pid, signal.SIGSTOP)
    app.expected_dead = True
    node.begin(stream, "b", "c-still")
    node.process.wait_for("the app is killed, to be restored: nobody knows its state", reason="it stands still since the kubelet's checkpoint")
    wait_until("the app is ended", lambda: not app.alive())
    node.ended(stream, "c-still", "failed")


def test_kubelet_killed(bench, rng):
    """The agent is killed while the kubelet works for it: the next life sees that the app goes on, and removes what is left, also of an app that is over since."""
    world = World(bench)
    stream = world.stream("s", 9)
    kubelet = Kubelet(world)
    node = Node(world, "n1", kubelet=kubelet.url)
    app = node.find_pod(stream, "a", 5)
    gone = node.find_pod(stream, "b", 5)
    node.take(stream, "a", "c-1")
    kubelet.begun = node.process.kill
    kubelet.ends = kubelet.partial = True
    node.begin(stream, "a", "c-2")
    wait_until("it is killed", lambda: not node.process.alive())
    wait_until("something is left", kubelet.left)
    node.start()
    node.wait_attached("a")
    wait_until("what is left is removed", lambda: not kubelet.left(), 60)
    check(app.alive(), "it goes on")
    wait_until("the first one is ended", lambda: world.records(stream)["c-2"]["state"] == "failed")
    kubelet.begun = node.process.kill
    node.begin(stream, "b", "c-3")
    wait_until("it is killed", lambda: not node.process.alive())
    wait_until("something is left", kubelet.left)
    gone.expected_dead = True
    gone.kill()
    shutil.rmtree(os.path.join(node.here, "runc", "cb"))
    node.start()
    wait_until("what is left is removed", lambda: not kubelet.left(), 60)
    kubelet.leave(kubelet.archive_of("b", 50), "cb")  # the container runtime was at work still
    wait_until("what came later, too", lambda: not kubelet.left(), 60)


def test_followed(bench, rng):
    """?after=VERSION waits for a change that matters, and only for that: an app that is lost, one that is not answered for, a container that is gone."""
    world = World(bench)
    stream = world.stream("s")
    node = Node(world, "n1")
    process = node.run_pod(stream, "a", 3)

    def containers(query=""):
        said = node.ask("GET", f"/v1/containers{query}")[1]
        return said["version"], {c["pod"]: c for c in said["containers"]}

    def change(what, wanted):
        """By the time that the question is over it has changed, and was told before the time that it may wait was over: else it is the version of before."""
        before = containers()[0]
        answer = []
        asking = threading.Thread(target=lambda: answer.append(containers(f"?after={before}&wait_ms=10000")))
        asking.start()
        what()
        asking.join(60)
        check(answer and answer[0][0] > before, "nothing was told: %s", answer)
        wait_until("it is as it should be", lambda: wanted(containers()[1]))
    looks = node.pods["a"].looks
    wait_until("what is known of its beginning", lambda: node.pods["a"].looks > looks + 3)
    version = containers()[0]
    check(containers("?after=0&wait_ms=10000")[0] == version, "who knows another version need not wait")
    node.pods["a"].offset = 7
    check(containers(f"?after={version}&wait_ms=500")[0] == version, "nothing that matters has changed")

    def lose(lost):
        node.pods["a"].lost = lost
        node.pods["a"].tell()
    change(lambda: lose(True), lambda all: all["a"]["interceptor"]["app"]["lost"])
    change(lambda: lose(False), lambda all: not all["a"]["interceptor"]["app"]["lost"])
    check(process.alive(), "a moment is no reason")
    looks = node.pods["a"].looks
    wait_until("it is watched", lambda: node.pods["a"].watchers == 1)
    node.pods["a"].tell()
    wait_until("it is asked when it says something", lambda: node.pods["a"].looks > looks)

    # one that answers and ends each such connection at once is called once in a wait's time, not again and again
    pod = node.pods["a"]
    pod.hangs_up, begun = True, len(pod.calls)
    pod.tell()
    wait_until("it is called again", lambda: len(pod.calls) >= begun + 6, 60)
    took = pod.calls[begun + 5] - pod.calls[begun]
    check(took > 5 * 0.29, "six calls in %.3f s", took)
    pod.hangs_up = False
    wait_until("it is watched again", lambda: pod.watchers == 1)
    change(node.pods["a"].close, lambda all: all["a"]["silent"] and all["a"]["interceptor"])
    process.expected_dead = True

    def end():
        process.kill()
        os.unlink(os.path.join(node.here, "run", "started", "ca.json"))
    change(end, lambda all: not all)


def test_not_deaf(bench, rng):
    """After a restart: what the log is asked and told meanwhile keeps nobody from hearing of the containers."""
    world = World(bench)
    stream, other = world.stream("s"), world.stream("o", 9)
    kubelet = Kubelet(world)
    node = Node(world, "n1", kubelet=kubelet.url, log_timeout="60s")
    process = node.run_pod(stream, "a", 3)
    node.find_pod(other, "b", 5)
    state = node.take(other, "b", "c-1")
    node.process.kill()
    for i in range(3):  # that nobody goes on with
        world.record(wire.field(1, stream) + wire.field(2, f"o-{i}") + wire.field(3, 1) + wire.field(4, 1) + wire.field(8, "n1"))
    world.wire.mute_at = wire.RECORD_SNAPSHOT
    node.start()
    wait_until("the log is told of the first, and does not answer", lambda: world.wire.muted)
    node.wait_attached("a")
    process.expected_dead = True  # as nobody reaches it
    node.pods["a"].lost = True
    node.pods["a"].tell()
    wait_until("it is heard that its app is lost", lambda: node.container("a")["interceptor"]["app"]["lost"])

    # one of which the log has to be asked how it began
    image = state["image"].rpartition(":")[0] + "@" + state["digest"]
    found = node.find_pod(other, "f", 5, attached=False, **{"crsc.io/checkpoint": "c-1", "checkpointImage": image})
    wait_until("its interceptor is heard", lambda: (lambda c: c and c["interceptor"])(node.container("f")))
    f = node.container("f")
    check(not f["attached"] and f["began"] != "unknown" and not node.pods["f"].identity, "it is told of no offset that is not known: %s", f)
    found.expected_dead = True
    found.kill()
    wait_until("its end is heard", lambda: node.container("f") is None)


def test_idle_connections(bench, rng):
    """Connections that say nothing take nobody's place, and who is slow to say who it is has not for ever."""
    node = Node(World(bench), "n1")
    known = http.client.HTTPSConnection("127.0.0.1", node.port, context=node.context, timeout=60)

    def answered():
        known.request("GET", "/v1/containers")
        check(json.loads(known.getresponse().read())["containers"] == [], "answered")

    def closed(idle):
        try:
            return idle.recv(1, socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
    known.connect()
    channel = known.sock
    answered()
    idle = []
    for _ in range(70):  # a place for each of 64
        idle.append(socket.create_connection(("127.0.0.1", node.port), timeout=60))
        bench.at_end.append(idle[-1].close)
    check(node.ask("GET", "/v1/containers")[0] == 200, "a new one is answered")
    answered()
    check(known.sock is channel, "who was answered before keeps its place")
    wait_until("the first ones have given their places", lambda: closed(idle[0]) and closed(idle[1]))

    # half a greeting, and then a byte from time to time
    slow = socket.create_connection(("127.0.0.1", node.port), timeout=60)
    bench.at_end.append(slow.close)
    answered()
    slow.sendall(b"\x16\x03\x01\x40\x00")

    def ended():
        try:
            slow.sendall(b"\x00")
        except OSError:
            return True
        return closed(slow)
    wait_until("it is closed", ended, pause=0.2)
    known.close()
    check(node.ask("GET", "/v1/containers")[0] == 200, "answered")


if __name__ == "__main__":
    main([test_same_name, test_delete_after_restart, test_killed_while_recording, test_killed_in_dump, test_cut_dump, test_precopy, test_cut_round, test_valid_or_not, test_valid_never_came, test_damaged_here,
          test_damaged_everywhere, test_log_away, test_replicas, test_followed, test_not_deaf, test_idle_connections, test_kubelet, test_kubelet_doubt, test_kubelet_refuses, test_kubelet_unknown,
          test_kubelet_other, test_kubelet_breaks_off, test_kubelet_killed])
