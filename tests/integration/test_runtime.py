#!/usr/bin/env python3
"""crsc-runtime against a script that plays runc and a thread that plays the agent: what runc is told, what is left for the agent, and that
nothing an agent does (silence, nonsense, absence) keeps a container from starting."""
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time

from harness import Failure, Skip, check, main
from test_operator_replicas import Place

# Plays runc. Words: globals, verb, ..., id. `restore` fails when the images' folder has a file "broken", and hangs with "hang".
RUNC = """#!/bin/sh
here={here}
echo "$*" >>$here/calls
verb=; pid_file=; image=; work=; prev=
for word in "$@"; do
  case $prev in --pid-file) pid_file=$word;; --image-path) image=$word;; --work-path) work=$word;; esac
  case $word in create|start|restore|delete|state) [ -n "$verb" ] || verb=$word;; esac
  prev=$word
done
case $verb in
  restore) [ -e $image/broken ] && {{ echo '(00.1) Error (criu/x.c:1): not "today"' >$work/restore.log; exit 1; }}
           [ -n "$pid_file" ] && echo {pid} >$pid_file;;
  create) [ -e $here/refuse ] && exit 3; echo {pid} >$pid_file;;
esac
exit 0
"""
BARE = {"ociVersion": "1.0.2", "annotations": {"io.kubernetes.cri.container-type": "container"}}
PROTECTED = {**BARE, "annotations": {**BARE["annotations"], "crsc.io/stream": "demo/default/pod/x"}}


class Agent:
    """Plays the agent: answers each question with `lines` (bytes); None: takes the question and says nothing."""

    def __init__(self, path, lines):
        self.lines, self.questions = lines, []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(4)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        held = []
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            f = s.makefile("rb")
            head = f.readline().split()
            self.questions.append((head[1].decode(), json.loads(f.read(int(head[2])))))
            f.close()
            for line in self.lines or []:
                if isinstance(line, float):
                    time.sleep(line)
                else:
                    s.sendall(line)
            if self.lines is None:
                held.append(s)
            else:
                s.close()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Node:
    """`pid`: whose process runc says it has created."""

    def __init__(self, bench, pid=None):
        self.here = bench.path(f"node-{time.monotonic_ns()}")
        os.makedirs(os.path.join(self.here, "bundle"))
        os.makedirs(os.path.join(self.here, "image"))
        self.program = bench.build.path("crsc-runtime")
        with open(self.at("runc"), "w") as f:
            f.write(RUNC.format(here=self.here, pid=pid or os.getpid()))
        os.chmod(self.at("runc"), 0o755)
        with open(self.at("conf"), "w") as f:
            f.write(f"# of a test\nrunc {self.at('runc')}\nsocket {self.at('s')}\n  started\t{self.at('run/started')}  \n")

    def at(self, name):
        return os.path.join(self.here, name)

    def run(self, *words):
        return subprocess.run([self.program, "--root", self.at("root"), "--log", self.at("log"), "--log-format", "json", *words],
                              env={**os.environ, "CRSC_RUNTIME_CONFIG": self.at("conf")}, timeout=120).returncode

    def create(self, config, container="c1"):
        with open(self.at("bundle/config.json"), "w") as f:
            json.dump(config, f)
        return self.run("create", "--bundle", self.at("bundle"), "--pid-file", self.at("pid"), container)

    def calls(self):
        """The verbs that runc was given since the last time."""
        if not os.path.exists(self.at("calls")):
            return []
        with open(self.at("calls")) as f:
            lines = f.read().splitlines()
        os.unlink(self.at("calls"))
        self.last = lines
        return [next(w for w in line.split() if w in ("create", "start", "restore", "delete", "state", "events")) for line in lines]

    def started(self, container="c1"):
        path = self.at(f"run/started/{container}.json")
        if not os.path.exists(path):
            return None
        with open(path) as f:
            return json.load(f)


def test_unprotected(bench, rng):
    """Without our word in its configuration a container is runc's alone: the agent is not asked, nothing is left."""
    node = Node(bench)
    agent = Agent(node.at("s"), [b"restore 5 c1 /nowhere\n"])
    check(node.create(BARE) == 0 and node.calls() == ["create"], "plain runc")
    check(not agent.questions and node.started() is None, "not asked")
    check(node.run("start", "c1") == 0 and node.run("state", "c1") == 0 and node.calls() == ["start", "state"], "words passed on")
    agent.lines = [b"plain\n"]
    check(node.create(PROTECTED) == 0 and node.calls() == ["create"] and node.started() is None, "of a protected pod, not the container")
    check(len(agent.questions) == 1, "asked once")
    agent.close()


def test_restore(bench, rng):
    """Restored: runc restore with create's own words, no start, and a record; delete takes that away."""
    node = Node(bench)
    agent = Agent(node.at("s"), [b"wait fetching\n", b"wait fet", b"ching\n", f"restore 120 c-17 {node.at('image')}\n".encode()])
    check(node.create(PROTECTED) == 0, "it starts")
    check(node.calls() == ["restore"], "restored")
    words = node.last[0].split()
    for pair in (("--image-path", node.at("image")), ("--bundle", node.at("bundle")), ("--pid-file", node.at("pid")), ("--root", node.at("root"))):
        check(words[words.index(pair[0]) + 1] == pair[1], "%s", node.last[0])
    check(agent.questions == [("c1", PROTECTED)], "%s", agent.questions)
    s = node.started()
    check((s["began"], s["snapshot"], s["offset"], s["pid"], s["id"], s["bundle"]) ==
          ("restored", "c-17", 120, os.getpid(), "c1", node.at("bundle")), "%s", s)
    with open(f"/proc/{os.getpid()}/stat") as f:
        check(s["start_time"] == int(f.read().rsplit(")", 1)[1].split()[19]), "%s", s)
    check(node.run("start", "c1") == 0 and node.calls() == [], "restored needs no start")
    check(node.run("delete", "--force", "c1") == 0 and node.calls() == ["delete"] and node.started() is None, "deleted")
    agent.close()


def test_restore_fails(bench, rng):
    """CRIU fails: what it left is removed, the container starts fresh, and the record says why."""
    node = Node(bench)
    open(node.at("image/broken"), "w").close()
    agent = Agent(node.at("s"), [f"restore 120 c-17 {node.at('image')}\n".encode()])
    check(node.create(PROTECTED) == 0, "it starts")
    check(node.calls() == ["restore", "delete", "create"], "%s", node.last)
    s = node.started()
    check((s["began"], s["offset"], s["snapshot"], s["tried"], s["reason"]) ==
          ("fresh", 0, "", "c-17", "CRIU: Error (criu/x.c:1): not  today "), "%s", s)
    check(node.run("start", "c1") == 0 and node.calls() == ["start"], "fresh needs its start")
    open(node.at("refuse"), "w").close()
    check(node.create(PROTECTED) == 3, "runc's own refusal is passed on")
    check(node.started() is None, "and leaves no record of a start")
    agent.close()


def test_agent_misbehaves(bench, rng):
    """Away, silent, dying, nonsense: fresh, with a reason, within the bounds."""
    node = Node(bench)

    def fresh(words):
        check(node.create(PROTECTED) == 0 and node.calls() == ["create"], "it starts")
        check(words in node.started()["reason"], "%s: %s", words, node.started())
    fresh("cannot be asked")
    for lines, words in ((None, "fell silent"), ([], "hung up"), ([b"wait x\n"], "hung up"), ([b"restore 5 c1\n"], "not understood"),
                         ([b"restore -1 c1 /x\n"], "not understood"), ([b"restore 1 c1 relative\n"], "not understood"),
                         ([b"restore 99999999999999999999 c1 /x\n"], "not understood"), ([b"\0\n"], "not understood"),
                         ([b"x" * 5000 + b"\n"], "not understood"), ([b"restore 1 " + b"c" * 200 + b" /x\n"], "not understood"),
                         ([b"fresh no checkpoint\n"], "no checkpoint"), ([b"fresh a \"quoted\" \x01word\n"], "a  quoted   word"),
                         ([b"wait 1\n", *[0.5, b"wait more\n"] * 8, b"fresh it took a while\n"], "took a while")):
        agent = Agent(node.at("s"), lines)
        fresh(words)
        agent.close()
        os.unlink(node.at("s"))


def test_settings(bench, rng):
    """Its settings: what cannot be understood is passed over; a missing file means the defaults."""
    node = Node(bench)
    with open(node.at("conf"), "a") as f:
        f.write("nonsense\nrunc\nunknown word\n" + "x" * 9000 + "\n")
    check(node.create(BARE) == 0 and node.calls() == ["create"], "still that runc")
    with open(node.at("conf"), "w") as f:
        f.write(f"runc {node.at('missing')}\n")
    check(node.create(BARE) == 127, "no runc is told")


# In a pod's network: answers each connection with the port that it came to; says when it listens.
POD = """import socket, threading
def serve(listener, port):
    while True:
        s, _ = listener.accept()
        s.sendall(str(port).encode())
        s.close()
threads = [threading.Thread(target=serve, args=(socket.create_server(("0.0.0.0", port)), port)) for port in (8080, 15020)]
[t.start() for t in threads]
print("ready", flush=True)
"""


def reached(address, port):
    """Which port answers there; None: none."""
    try:
        with socket.create_connection((address, port), 60) as s:
            return int(s.recv(16))
    except ConnectionRefusedError:
        return None


@contextlib.contextmanager
def pod():
    """A network namespace with a cable, and a process in it that listens at 8080 (the app) and 15020 (the interceptor)."""
    if os.geteuid() != 0:
        raise Skip("a network namespace needs root")
    place = Place()
    process = None
    try:
        try:
            place.make()
        except Failure as why:
            raise Skip(f"no network namespace can be made here: {why}") from None
        process = subprocess.Popen(["nsenter", f"--net=/run/netns/{place.name}", sys.executable, "-c", POD], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        check(process.stdout.readline() == b"ready\n", "it listens")
        yield place, process.pid
    finally:
        if process:
            process.kill()
            process.wait()
            process.stdout.close()
        place.remove()


def test_redirect(bench, rng):
    """crsc.io/redirect: with the pod's first container, whichever it is, its ports lead where the words say, for who comes from outside; the same again
    changes nothing; the host's own network never changes; words that are not understood change nothing."""
    with pod() as (place, pid):
        node = Node(bench, pid)
        words = {**PROTECTED, "annotations": {**PROTECTED["annotations"], "crsc.io/redirect": "8080=15020,15023=8080"}}
        agent = Agent(node.at("s"), [b"plain\n"])
        inside = ["nsenter", f"--net=/run/netns/{place.name}", sys.executable, "-c",
                  "import socket; print(socket.create_connection(('127.0.0.1', 8080), 60).recv(16).decode())"]
        wrong = {**words, "annotations": {**words["annotations"], "crsc.io/redirect": "8080"}}
        check(node.create(wrong) == 0 and reached(place.address, 8080) == 8080, "not understood: nothing changes")
        check(node.create(words, "sandbox") == 0 and node.calls() == ["create", "create"] and node.started("sandbox") is None, "plain")
        for container in ("c1", "c1"):  # also when it is created anew
            check((reached(place.address, 8080), reached(place.address, 15023), reached(place.address, 15020)) == (15020, 8080, 15020), "led")
            check(subprocess.check_output(inside, text=True).strip() == "8080", "not from inside")
            agent.lines = [f"restore 120 c-17 {node.at('image')}\n".encode()]
            check(node.create(words, container) == 0 and node.started(container)["began"] == "restored", "restored")
        agent.close()
        host = Node(bench)  # its process is this one, in the network that crsc-runtime is in
        with open(host.at("bundle/config.json"), "w") as f:
            json.dump(words, f, indent=1)  # as CRI-O writes it
        check(host.run("create", "--bundle", host.at("bundle"), "--pid-file", host.at("pid"), "c1") == 0, "it starts")
        check("crsc" not in subprocess.check_output(["nft", "list", "tables"], text=True), "the host's network has no rules of ours")


if __name__ == "__main__":
    main([test_unprotected, test_restore, test_restore_fails, test_agent_misbehaves, test_settings, test_redirect])
