#!/usr/bin/env python3
"""Two interceptors for one stream, each with its own app. The second fences the first, which stops answering, unlogged reads included, also
when it is cut off from the log and hears nothing of the second; and the second begins only when the first must have stopped."""
import contextlib
import http.client
import json
import socket
import threading
import time

from harness import Cluster, Http, check, free_ports, main, wait_until
from test_interceptor import Front


class Wire:
    """A TCP forwarder that can hold everything back, without closing anything."""

    def __init__(self, port):
        self.to, self.open = port, threading.Event()
        self.open.set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sockets = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                one, _ = self.listener.accept()
                self.open.wait()
                two = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                return
            self.sockets += [one, two]
            for a, b in ((one, two), (two, one)):
                threading.Thread(target=self.copy, args=(a, b), daemon=True).start()

    def copy(self, a, b):
        try:
            while data := a.recv(65536):
                self.open.wait()
                b.sendall(data)
        except OSError:
            pass
        for s in (a, b):
            s.close()

    def reset(self):
        """Ends all connections, as a host does that came back and knows nothing of them."""
        for s in self.sockets:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.open.set()
        self.listener.close()
        for s in self.sockets:
            s.close()


class Through:
    """A cluster as seen over a wire."""

    def __init__(self, wire):
        self.servers = f"127.0.0.1:{wire.port}"


class Reader(threading.Thread):
    """Reads the count without pause and notes when each answer was asked for and what it said."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.ended, self.answers, self.refused = port, False, [], 0
        self.start()

    def run(self):
        connection = None
        while not self.ended:
            try:
                connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
                begun = time.monotonic()
                connection.request("GET", "/count")
                answer = connection.getresponse()
                body = answer.read()
                if answer.status == 200:
                    self.answers.append((begun, json.loads(body)["count"]))
                else:
                    self.refused += 1
                    time.sleep(0.01)
            except (OSError, http.client.HTTPException):
                if connection:
                    connection.close()
                connection = None


def prepare(bench, lease):
    cluster = Cluster(bench, n=1).start()
    cluster.wait_leader()
    wire = Wire(cluster.ports[1])
    first = Front(bench, Through(wire), ("--lease", lease))
    first.start_app()
    first.wait_active()
    return cluster, wire, first


def take_over(bench, cluster, first, wire, cut, reset=False):
    reader = Reader(first.port)
    wait_until("reads are answered", lambda: len(reader.answers) > 10)
    for k in range(5):
        check(post(first.port, f"/add?id=a{k}") == 200, "a write")
    late = []  # writes of the first one's clients that are on their way to the log when it is cut off
    if cut:
        wire.open.clear()
        late = [Late(first.port, f"/add?id=c{k}") for k in range(8)]
    second = Front(bench, cluster, ("--lease", "500ms"))
    second.start_app()
    second.wait_active()
    written = []
    for k in range(200):
        check(post(second.port, f"/add?id=b{k}") == 200, "a write by the second")
        written.append((time.monotonic(), 6 + k))
    if not cut:
        wait_until("the first one refuses", lambda: reader.refused > 3)
    reader.ended = True
    reader.join(30)
    stale = [(begun, count) for begun, count in reader.answers if begun > written[0][0]]
    check(not stale, "the first one answered %d reads after the second had begun, the last %.3f s after: %s", len(stale), stale[-1][0] - written[0][0] if stale else 0, stale[:3])
    check({count for _, count in reader.answers} <= set(range(6)), "%s", reader.answers[-1])
    check(len(second.direct("GET", "/list")[2].split()) == 205, "writes were lost")
    if reset:
        wire.reset()
    wire.open.set()
    wait_until("the first one knows", lambda: "newer epoch" in first.status()["reason"])
    for write in late:
        write.join(90)
    check(not [w for w in late if w.answered not in (503, "nothing")], "writes of one that was fenced were answered: %s", [w.answered for w in late])
    check(first.admin("GET", "/readyz")[0] == 503 and post(first.port, "/add?id=late") == 503, "the first one serves")
    check(len(second.direct("GET", "/list")[2].split()) == 205, "a write of the first one came in")


class Late(threading.Thread):
    """A write whose client is told either that it was not done, or nothing."""

    def __init__(self, port, path):
        super().__init__(daemon=True)
        self.port, self.path, self.answered = port, path, None
        self.start()

    def run(self):
        try:
            self.answered = post(self.port, self.path)
        except (OSError, http.client.HTTPException):
            self.answered = "nothing"


def post(port, path):
    connection = Http(port, timeout=60)
    try:
        return connection.request("POST", path)[0]
    finally:
        connection.close()


def test_second_fences_first(bench, rng):
    cluster, wire, first = prepare(bench, "500ms")
    try:
        take_over(bench, cluster, first, wire, False)
    finally:
        wire.close()


def test_first_is_cut_off(bench, rng):
    cluster, wire, first = prepare(bench, "500ms")
    try:
        take_over(bench, cluster, first, wire, True)
    finally:
        wire.close()


def test_first_comes_back_anew(bench, rng):
    """Its connections ended meanwhile: who owns the stream now is answered before what became of its writes."""
    cluster, wire, first = prepare(bench, "500ms")
    try:
        take_over(bench, cluster, first, wire, True, reset=True)
    finally:
        wire.close()


def test_cut_off_for_a_while(bench, rng):
    """Nobody takes its place: what was asked meanwhile is answered when the log is there again."""
    _, wire, first = prepare(bench, "200ms")
    try:
        wire.open.clear()
        wait_until("its lease has run out", lambda: "lease" in first.status()["reason"])
        answers = []
        asked = [threading.Thread(target=lambda: answers.append(Http(first.port).request("GET", "/count")[2])),
                 threading.Thread(target=lambda: answers.append(post(first.port, "/add?id=x")))]
        for thread in asked:
            thread.start()
        time.sleep(0.3)
        check(not answers, "answered without a lease: %s", answers)
        wire.open.set()
        for thread in asked:
            thread.join(60)
        check(200 in answers and len(answers) == 2, "%s", answers)
        first.wait_active()
        wire.open.clear()
        wait_until("its lease has run out", lambda: "lease" in first.status()["reason"])
        check(first.process.stop(20) == 0, "SIGTERM while it is cut off: it waited for the log")
    finally:
        wire.close()


def test_release(bench, rng):
    """After a clean end nobody waits; after a death one does."""
    cluster, wire, first = prepare(bench, "60s")
    wire.close()  # not needed: the next ones are connected directly
    first.cluster = cluster
    first.process.kill()
    first.app.kill()
    (first.port, first.admin_port) = free_ports(2)
    first.start_interceptor()
    first.start_app()
    wait_until("it waits for the lease of the dead one", lambda: "lease" in first.status()["reason"])
    check(first.process.stop() == 0, "SIGTERM")
    first.app.kill()
    first.start_interceptor()
    first.start_app()
    begun = time.monotonic()
    first.wait_active()
    check(time.monotonic() - begun < 50, "after a clean end it waits for the lease, which is of a minute")


if __name__ == "__main__":
    main([test_second_fences_first, test_first_is_cut_off, test_first_comes_back_anew, test_cut_off_for_a_while, test_release])
