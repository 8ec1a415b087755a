"""What the integration tests and the demo share: free ports, processes that are always ended, their logs, a cluster of crsc-logd,
HTTP by hand. Python's standard library only.

A Bench owns a directory and everything started in it. Leaving its `with` block ends every process by its pid, deletes
every container of its runc root, and then looks at what the processes said: a daemon that died by itself, one that did not
end with status 0 when asked to stop, or a sanitizer's report is a failure of the test, whatever else it found.

By hand:  tests/integration/test_logd_restart.py --build build/release [--keep] [--seed N] [TEST...]
"""
import argparse
import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SANITIZER = re.compile(r"ERROR: AddressSanitizer|runtime error:|LeakSanitizer|WARNING: ThreadSanitizer|Assertion .* failed")
PLACES = {"crsc-logd": "logd", "crsc-logctl": "logctl", "crsc-appendload": "client", "crsc-interceptor": "interceptor",
          "crsc-operator": "operator", "crsc-agent": "agent", "crsc-runtime": "runtime", "counter": "tests/apps", "store": "tests/apps",
          "chaos-driver": "tests/chaos", "forgetfs": "tests/powerloss"}
STAMP = re.compile(r'"ts":"([^"]+)"')
SKIPPED = 77
HANGS = 90.0  # seconds; what takes longer will never come, also with sanitizers on a slow machine on which other trees are built meanwhile
LOGS_SHOWN, LOG_LINE = 14000, 400  # characters of the logs of a case that failed, and of a line of them


class Failure(Exception):
    """What was promised did not hold."""


class Skip(Exception):
    """This machine cannot run it; the text says why."""


def check(condition, text, *values):
    if not condition:
        raise Failure(text % values if values else text)


def wait_until(what, condition, timeout=0.0, pause=0.005):
    """The condition's first true value. A bound on hanging, not a measurement: `timeout` counts only where it is more than HANGS."""
    timeout = max(timeout, HANGS)
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {timeout:g} s")
        time.sleep(pause)


PORTS_GIVEN = set()


def free_ports(n):
    """Below those that the kernel gives to connections: a server that is started again finds its port as it left it. None is given twice by this process: a server that is
    down for a while has no socket that would hold its own, and two sockets that do not listen may hold one port together."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as f:
        lowest = int(f.read().split()[0])
    ports = []
    while len(ports) < n:
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", random.SystemRandom().randrange(10000, lowest) if lowest > 20000 else 0))
            except OSError:
                continue
            port = s.getsockname()[1]
        if port not in PORTS_GIVEN:
            PORTS_GIVEN.add(port)
            ports.append(port)
    return ports


class Build:
    """A build tree, and whether sanitizers slow it down."""

    def __init__(self, directory):
        self.directory = os.path.abspath(directory)
        with open(os.path.join(self.directory, "meson-info", "intro-buildoptions.json")) as f:
            options = {o["name"]: o["value"] for o in json.load(f)}
        sanitize = options.get("b_sanitize", "none")
        self.sanitized = sanitize not in ("none", [], "")

    def path(self, program):
        path = os.path.join(self.directory, PLACES[program], program)
        check(os.path.exists(path), "%s is not built: ninja -C %s", path, self.directory)
        return path


class Process:
    """A program under test. Its stderr is a file; lines that are JSON are its log."""

    def __init__(self, name, argv, directory, env=None):
        self.name, self.argv = name, argv
        self.log = os.path.join(directory, name + ".log")
        self.expected_dead = False
        self._read, self._rest, self._events = 0, b"", []
        with open(self.log, "ab") as log:
            self._read = log.tell()
            # setpriv: should this harness itself be killed, nothing stays behind. It becomes the program: the pid is the same.
            self.popen = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *argv], stdin=subprocess.DEVNULL, stdout=log,
                                          stderr=log, env={**os.environ, **(env or {})})
        self.pid = self.popen.pid

    def alive(self):
        return self.popen.poll() is None

    def events(self):
        """The log's lines so far, of this process."""
        with open(self.log, "rb") as log:
            log.seek(self._read)
            data = log.read()
        self._read += len(data)
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    self._events.append(event)
        return self._events

    def find(self, msg, start=0, **fields):
        """The first log line from index `start` on with that msg and those fields, or None."""
        for event in self.events()[start:]:
            if event.get("msg") == msg and all(event.get(k) == v for k, v in fields.items()):
                return event
        return None

    def wait_for(self, msg, timeout=0.0, start=0, **fields):
        def look():
            found = self.find(msg, start, **fields)
            if found is None and not self.alive():
                raise Failure(f"{self.name} ended with {self.popen.returncode} instead of saying \"{msg}\":\n{self.tail()}")
            return found
        return wait_until(f"{self.name} says \"{msg}\"", look, timeout)

    def tail(self, n=15):
        with open(self.log, errors="replace") as log:
            return "".join(log.readlines()[-n:])

    def kill(self):
        """kill -9, and its end is awaited."""
        self.expected_dead = True
        if self.alive():
            self.popen.kill()
        self.popen.wait()

    def pause(self):
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self):
        os.kill(self.pid, signal.SIGCONT)

    def stop(self, timeout=HANGS):
        """SIGTERM; the exit status."""
        self.expected_dead = True
        if self.alive():
            self.popen.terminate()
        return self.wait(timeout)

    def wait(self, timeout=0.0):
        self.expected_dead = True
        timeout = max(timeout, HANGS)
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} did not end within {timeout:g} s:\n{self.tail()}") from None


def newest(path, size):
    """The last lines of a log, of so many characters altogether."""
    with open(path, "rb") as log:
        log.seek(max(0, os.path.getsize(path) - 16 * size))
        lines = log.read().decode(errors="replace").splitlines()
    kept = []
    for line in reversed(lines):
        line = line if len(line) <= LOG_LINE else line[:LOG_LINE] + "..."
        size -= len(line) + 1
        if size < 0:
            break
        kept.insert(0, line)
    return kept


def containers(runc_root):
    done = subprocess.run(["runc", "--root", runc_root, "list", "--quiet"], stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return done.stdout.split()


def delete_containers(runc_root):
    """Also half-restored ones, which runc does not list. Their rootfs is bind-mounted into their state: `runc delete --force` would
    erase it with that."""
    if os.path.isdir(runc_root):
        for name in sorted(set(containers(runc_root)) | {n for n in os.listdir(runc_root) if os.path.isdir(os.path.join(runc_root, n))}):
            subprocess.run(["umount", "-l", os.path.join(runc_root, name, "criu-root")], stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            subprocess.run(["runc", "--root", runc_root, "delete", "--force", name], stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Bench:
    def __init__(self, build, name, directory=None, keep=False):
        self.build = build
        if directory is None:
            os.makedirs(os.path.join(ROOT, "build", "tmp"), exist_ok=True)
            directory = tempfile.mkdtemp(prefix=name + ".", dir=os.path.join(ROOT, "build", "tmp"))
            self.ours = not keep
        else:
            os.makedirs(directory, exist_ok=True)
            self.ours = False
        self.directory = directory
        self.processes = []
        self.runc_roots = []
        self.at_end = []  # functions; called when all processes and containers are gone

    def path(self, *parts):
        return os.path.join(self.directory, *parts)

    def spawn(self, name, argv, env=None):
        argv = [self.build.path(argv[0]) if argv[0] in PLACES else argv[0], *argv[1:]]
        process = Process(name, argv, self.directory, env)
        self.processes.append(process)
        return process

    def run(self, *argv, status=0, timeout=0.0, text=None):
        """Runs a program to its end: (stdout, stderr). `status` None: any but one by a signal."""
        timeout = max(timeout, 4 * HANGS)
        argv = [self.build.path(argv[0]) if argv[0] in PLACES else argv[0], *argv[1:]]
        done = subprocess.run(argv, input=text, stdin=None if text is not None else subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout, errors="replace")
        check(not SANITIZER.search(done.stderr), "%s: %s", " ".join(argv), done.stderr)
        good = done.returncode >= 0 if status is None else done.returncode == status
        check(good, "%s ended with %d, not %s:\n%s%s", " ".join(argv), done.returncode, status, done.stdout[-3000:],
              done.stderr[-3000:])
        return done.stdout, done.stderr

    def __enter__(self):
        return self

    def close(self):
        """Ends everything; the list of what was wrong."""
        wrong = []
        for process in self.processes:
            code = process.popen.poll()
            if code is not None and not process.expected_dead:
                wrong.append(f"{process.name} died by itself with {code}:\n{process.tail()}")
        # the newest first: who uses a server goes before it
        for process in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
            if process.popen.poll() is None:
                process.popen.terminate()
                try:
                    code = process.popen.wait(HANGS)
                    asked = process.argv[0].endswith("counter") and code == -signal.SIGTERM
                    if code != 0 and not asked:
                        wrong.append(f"{process.name} ended with {code} when it was asked to stop:\n{process.tail()}")
                except subprocess.TimeoutExpired:
                    process.popen.kill()
                    process.popen.wait()
                    wrong.append(f"{process.name} did not stop within {HANGS:g} s of SIGTERM:\n{process.tail()}")
        for root in self.runc_roots:
            delete_containers(root)
        for function in reversed(self.at_end):
            function()
        for log in sorted({p.log for p in self.processes}):
            with open(log, errors="replace") as f:
                text = f.read()
            found = SANITIZER.search(text)
            if found:
                wrong.append(f"{os.path.basename(log)}: {text[max(0, found.start() - 200):found.start() + 5000]}")
        return wrong

    def logs(self):
        """The newest lines of every log, in the order of their times, within a bound: what can be known where the directory cannot be looked at."""
        lines, names = [], sorted({(p.name, p.log) for p in self.processes})
        for name, path in names:
            stamp = ""
            for line in newest(path, LOGS_SHOWN // len(names)):
                found = STAMP.search(line)  # a line without a time belongs to the one before it
                stamp = found.group(1) if found else stamp
                lines.append((stamp, f"{name}: {line}"))
        lines.sort(key=lambda line: line[0])  # stable
        return "\n".join(line for _, line in lines)

    def show_logs(self):
        print(f"the ends of the logs:\n{self.logs()}" if self.processes else "no process was started", flush=True)

    def __exit__(self, kind, error, trace):
        failing = error is not None and not isinstance(error, Skip)
        if failing:
            self.show_logs()  # first: when a test takes too long, meson gives it half a second
        # a second Ctrl-C must not cut the cleaning short
        previous = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            wrong = self.close()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        if wrong and not failing:
            self.show_logs()
        if self.ours and (failing or wrong):
            print(f"what it left: {self.directory}", file=sys.stderr)
        elif self.ours:
            shutil.rmtree(self.directory, ignore_errors=True)
        if wrong and (error is None or isinstance(error, Failure)):
            raise Failure("\n".join(([str(error)] if error else []) + wrong)) from error
        return False


class Cluster:
    """crsc-logd 1..n on loopback, or on another address of this machine."""

    def __init__(self, bench, n=3, flags=(), prefix="logd", cluster="test", certs=None, host="127.0.0.1"):
        """`certs`: a folder of scripts/make-certs: TLS. Clients then find their own certificate in the environment."""
        self.bench, self.n, self.prefix = bench, n, prefix
        self.ports = dict(enumerate(free_ports(n), 1))
        self.addresses = {i: f"{host}:{port}" for i, port in self.ports.items()}
        self.servers = ",".join(self.addresses.values())
        self.members = ",".join(f"{i}={a}" for i, a in self.addresses.items())
        # elections fast enough for tests, slow enough for a sanitized server on two cores; a disk that others keep busy is no reason to move leadership
        self.flags = ["--cluster", cluster, "--segment-size", "4MiB", "--slow-disk", "60s", "--election-timeout",
                      "1s" if bench.build.sanitized else "300ms", *flags]
        self.certs = certs
        self.running = {}

    def argv(self, i):
        plain = [] if self.addresses[i].startswith("127.") or self.certs else ["--allow-plaintext"]
        return ["crsc-logd", "--id", str(i), "--listen", self.addresses[i], "--initial-cluster", self.members, "--data-dir",
                self.data(i), *plain, *self.tls(i), *self.flags]

    def tls(self, i):
        if not self.certs:
            return []
        flags = ["--tls-ca", f"{self.certs}/ca.pem", "--tls-cert", f"{self.certs}/server-{i}.pem", "--tls-key", f"{self.certs}/server-{i}.key"]
        if os.path.exists(f"{self.certs}/peer-ca.pem"):
            flags += ["--tls-peer-ca", f"{self.certs}/peer-ca.pem", "--tls-peer-cert", f"{self.certs}/server-{i}-peer.pem",
                      "--tls-peer-key", f"{self.certs}/server-{i}-peer.key"]
        return flags

    def data(self, i):
        return self.bench.path(f"{self.prefix}-{i}")

    def start(self, i=None, wait=True):
        for k in [i] if i else range(1, self.n + 1):
            self.running[k] = self.bench.spawn(f"{self.prefix}-{k}", self.argv(k))
        if wait:
            for k in [i] if i else range(1, self.n + 1):
                self.running[k].wait_for("ready", 60)
        return self

    def start_without(self, absent):
        """All but one, which was there when the cluster was founded, and has nothing of what comes."""
        self.start()
        self.wait_leader()
        wait_until(f"server {absent} has founded", lambda: self.running[absent].find("leader elected"), 60)
        self.stop(absent)
        self.wait_leader()

    def kill(self, i):
        self.running.pop(i).kill()

    def stop(self, i):
        return self.running.pop(i).stop()

    def status(self, timeout="2s"):
        done = subprocess.run([self.bench.build.path("crsc-logctl"), "--servers", self.servers, "--output", "json",
                               "--timeout", timeout, "status"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True)
        try:
            return json.loads(done.stdout)
        except ValueError:
            return {"leader_id": None, "servers": []}

    def leader(self):
        """The running leader's id, or None."""
        leader = self.status()["leader_id"]
        return leader if leader in self.running else None

    def wait_leader(self, timeout=60, other_than=None):
        def look():
            leader = self.leader()
            return leader if leader != other_than else None
        return wait_until("a leader", look, timeout, pause=0.02)

    def logctl(self, *argv, status=0):
        patience = () if "--timeout" in argv else ("--timeout", "60s")
        out, _ = self.bench.run("crsc-logctl", "--servers", self.servers, "--output", "json", *patience, *argv, status=status)
        return out

    def streams(self):
        found = json.loads(self.logctl("streams"))
        return found["streams"] if isinstance(found, dict) else found


class Http:
    """A persistent connection; request() gives (status, headers, body)."""

    def __init__(self, port, timeout=60, host="127.0.0.1"):
        self.connection = http.client.HTTPConnection(host, port, timeout=timeout)

    def request(self, method, path, body=None, headers=None, chunked=False):
        self.connection.request(method, path, body, headers or {}, encode_chunked=chunked)
        answer = self.connection.getresponse()
        data = answer.read()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, data

    def json(self, method, path, body=None):
        """The parsed answer; a failure if its status is not 2xx."""
        status, _, data = self.request(method, path, json.dumps(body) if body is not None else None,
                                       {"Content-Type": "application/json"} if body is not None else None)
        check(200 <= status < 300, "%s %s: %d %s", method, path, status, data[:500])
        return json.loads(data)

    def close(self):
        self.connection.close()


def exchange(port, data, timeout=30.0, shut=False, limit=1 << 20):
    """Sends bytes over a new connection and gives what came back until it was closed, or nothing more came in time:
    (bytes, closed)."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as s:
        try:
            s.sendall(data)
            if shut:
                s.shutdown(socket.SHUT_WR)
            while len(got) < limit:
                piece = s.recv(65536)
                if not piece:
                    return got, True
                got += piece
        except TimeoutError:
            return got, False
        except OSError:
            return got, True
    return got, False


def main(tests):
    """Runs the functions given, each with a Bench of its own (parameters: bench, rng). Exit status 0, 1, or 77."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default=os.environ.get("CRSC_BUILD", os.path.join(ROOT, "build", "release")))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("CRSC_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31))
    parser.add_argument("--keep", action="store_true", help="keep the directories of tests that passed too")
    parser.add_argument("test", nargs="*", help="only these: " + " ".join(t.__name__ for t in tests))
    args = parser.parse_args()

    def stop(number, frame):
        print(f"asked to stop (it took too long?), seed {args.seed}, in:\n{''.join(traceback.format_stack(frame)[-6:])}", flush=True)
        raise SystemExit(128 + number)
    signal.signal(signal.SIGTERM, stop)
    build = Build(args.build)
    failed, skipped, ran = 0, [], 0
    print(f"seed {args.seed}", flush=True)
    for test in tests:
        name = test.__name__.removeprefix("test_")
        if args.test and name not in args.test and test.__name__ not in args.test:
            continue
        begun = time.monotonic()
        try:
            with Bench(build, name, keep=args.keep) as bench:
                test(bench, random.Random(f"{args.seed}/{name}"))
            ran += 1
            print(f"ok      {name}  {time.monotonic() - begun:.1f} s", flush=True)
        except Skip as why:
            skipped.append(f"{name}: {why}")
            print(f"skipped {name}: {why}", flush=True)
        except Failure as why:
            failed += 1
            print(f"FAILED  {name}  {time.monotonic() - begun:.1f} s (seed {args.seed}): {why}", flush=True)
            print("".join(traceback.format_tb(why.__traceback__)[-4:]), flush=True)
        except Exception:  # pylint: disable=broad-except
            failed += 1
            print(f"FAILED  {name}  {time.monotonic() - begun:.1f} s (seed {args.seed})", flush=True)
            traceback.print_exc(file=sys.stdout)
    if failed:
        sys.exit(1)
    sys.exit(SKIPPED if skipped and not ran else 0)
