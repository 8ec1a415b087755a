#!/usr/bin/env python3
"""Request bodies that are too large to be held: into the log in parts while they come, out of it to the app, the first time as in a replay; at flat
memory; one event, whole or not at all, whoever dies in between. CRSC_UPLOAD_BYTES=5000000000 for a run by hand."""
import hashlib
import http.client
import json
import os
import re
import socket
import threading
import time

from harness import Cluster, check, main, wait_until
from http_app import App
from test_http import STREAM, HttpFront, field, prepare

MIB = 1 << 20


class Upload(threading.Thread):
    """A client that sends `size` bytes, which follow from `seed`. It stops before `pause_at` until go() is called."""

    def __init__(self, port, target, size, seed=1, headers=(), pause_at=None, chunked=False):
        super().__init__(daemon=True)
        self.port, self.target, self.size, self.seed, self.headers, self.chunked = port, target, size, seed, headers, chunked
        self.pause_at, self.paused, self.going = pause_at, threading.Event(), threading.Event()
        self.sha, self.status, self.answer, self.fields = hashlib.sha256(), None, None, {}
        self.start()

    @staticmethod
    def block(seed):
        return hashlib.shake_128(b"%d" % seed).digest(MIB)

    def noted(self):
        """What the app notes of it."""
        if self.size > 4 * MIB:
            return b"sha256:" + self.sha.hexdigest().encode()
        return (self.block(self.seed) * (self.size // MIB + 1))[:self.size]

    def run(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=120 + self.size / 1e6) as s:
                self.send(s)
                answer = http.client.HTTPResponse(s)
                answer.begin()
                self.answer = answer.read()
                self.fields = {k.lower(): v for k, v in answer.getheaders()}
                self.status = answer.status
        except (OSError, http.client.HTTPException) as e:
            self.status = f"{type(e).__name__}: {e}"

    def send(self, s):
        framing = "Transfer-Encoding: chunked" if self.chunked else f"Content-Length: {self.size}"
        s.sendall("".join([f"POST {self.target} HTTP/1.1\r\nHost: x\r\n{framing}\r\n", *(f"{h}\r\n" for h in self.headers), "\r\n"]).encode())
        block, at = self.block(self.seed), 0
        while at < self.size:
            if self.pause_at is not None and at >= self.pause_at:
                self.paused.set()
                self.going.wait(60)
                self.pause_at = None
            piece = block[:min(self.size - at, len(block))]
            self.sha.update(piece)
            s.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if self.chunked else piece)
            at += len(piece)
        if self.chunked:
            s.sendall(b"0\r\nX-Sum: 17\r\n\r\n")

    def go(self):
        self.going.set()

    def wait(self, timeout=300):
        self.join(timeout)
        check(not self.is_alive(), "the client still waits for an answer to %s", self.target)
        return self.status


def memory(process):
    """The most it ever had, in bytes."""
    with open(f"/proc/{process.pid}/status", encoding="ascii") as f:
        return int(re.search(r"VmHWM:\s+(\d+)", f.read())[1]) * 1024


def bodies(app, target):
    return [body for _, body, _ in app.of(target)]


def test_large(bench, rng):
    """200 MB up, the same down, and up again in a replay: what came is what was sent, and the interceptor's memory does not grow with it."""
    size = int(os.environ.get("CRSC_UPLOAD_BYTES", "20000000" if bench.build.sanitized else "200000000"))
    _, app, front = prepare(bench)
    begun = time.monotonic()
    up = Upload(front.port, "/large", size)
    check(up.wait(3600) == 200, "%s %s", up.status, up.answer)
    took = time.monotonic() - begun
    check(bodies(app, "/large") == [up.noted()], "another body came")
    check(field(app.of("/large")[0][0], "Content-Length") == [str(size)], "%s", app.of("/large")[0][0])
    connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=60)
    begun = time.monotonic()
    connection.request("GET", f"/big?{size}")
    answer, got = connection.getresponse(), 0
    while piece := answer.read(MIB):
        got += len(piece)
    connection.close()
    check(got == size, "%d bytes came down", got)
    down = time.monotonic() - begun
    app.close()
    begun = time.monotonic()
    again = App(("127.0.0.1", 0))
    front.use(again, timeout=3600)
    replayed = time.monotonic() - begun
    check(bodies(again, "/large") == [up.noted()] and field(again.of("/large")[0][0], "Crsc-Replay") == ["1"], "a replay gave another body")
    most = memory(front.process)
    check(bench.build.sanitized or most < 64 * MIB, "the interceptor took %d MiB", most // MIB)
    print(f"  {size} bytes: up {took:.1f} s, down {down:.1f} s, replayed {replayed:.1f} s; at most {most / MIB:.1f} MiB", flush=True)
    again.close()


def test_cut(bench, rng):
    """An upload that breaks off leaves nothing that is replayed: the client gone, the interceptor killed, a chunk that is none, too large when it was
    nearly there."""
    cluster, app, front = prepare(bench, ("--max-body", "6MiB"))
    with socket.create_connection(("127.0.0.1", front.port), timeout=60) as s:
        s.sendall(b"POST /gone HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n" + bytes(4_000_000))
        wait_until("parts in the log", lambda: front.status()["offsets"]["last"] >= 6)
    for target, last, status in (("/chunk", b"zz\r\n", b"400"), ("/over", b"400000\r\n" + bytes(4 * MIB), b"413")):
        with socket.create_connection(("127.0.0.1", front.port), timeout=60) as s:
            s.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n300000\r\n%s\r\n%s" % (target.encode(), bytes(3 * MIB), last))
            got = s.recv(1000)
            check(got.startswith(b"HTTP/1.1 " + status), "%s: %s", target, got)
    up = Upload(front.port, "/declared", 7 * MIB, headers=["Expect: 100-continue"])
    check(up.wait() == 413 or "Error" in str(up.status), "a body that is declared too large: %s", up.status)
    check(front.ask("GET", "/body", bytes(2 * MIB))[0] == 413, "a large body of what is not logged")
    up = Upload(front.port, "/killed", 5 * MIB, pause_at=4 * MIB)
    up.paused.wait(60)
    wait_until("parts in the log", lambda: front.status()["offsets"]["last"] > 12)
    front.process.kill()
    up.go()
    check(up.wait() != 200, "answered by a dead interceptor")
    front.start_interceptor()
    app.close()
    again = App(("127.0.0.1", 0))
    front.use(again)
    check(front.ask("POST", "/last", b"x")[0] == 200, "it does not go on")
    check([r[0].split(b" ")[1] for r in again.requests] == [b"/last"] and not app.requests, "half of something came: %s", again.requests)
    again.close()


def test_app_dies(bench, rng):
    """The app dies while it receives the body: the next one gets it whole, once, and the client gets that answer."""
    _, app, front = prepare(bench)
    check(front.ask("POST", "/first", b"x")[0] == 200, "POST")

    class Dies(App):
        def one(self, connection, stream):
            if b"/large" in connection.recv(4096, socket.MSG_PEEK):
                stream.read(2 * MIB)
                self.close()
                return False
            return super().one(connection, stream)
    app.close()
    up = Upload(front.port, "/large", 20 * MIB)
    for _ in range(3):
        front.use(Dies(("127.0.0.1", 0)), timeout=0)
        wait_until("it is noticed", lambda: front.status()["app"]["lost"] or front.status()["app"]["suspect"])
    good = App(("127.0.0.1", 0))
    front.use(good)
    check(up.wait() == 200, "%s", up.status)
    check([r[0].split(b" ")[1] for r in good.requests] == [b"/first", b"/large"] and bodies(good, "/large") == [up.noted()], "%s", good.requests)
    good.close()


def test_log_lost(bench, rng):
    """The log's leader is killed in the middle of uploads: they go on under the next epoch, whole."""
    cluster = Cluster(bench, n=3).start()
    cluster.wait_leader()
    app = App(("127.0.0.1", 0))
    front = HttpFront(bench, cluster, app)
    ups = [Upload(front.port, f"/up{k}", 12 * MIB, seed=k, pause_at=(4 + k) * MIB) for k in range(3)]
    for up in ups:
        up.paused.wait(60)
    leader = cluster.wait_leader()
    cluster.kill(leader)
    for up in ups:
        up.go()
    check([up.wait() for up in ups] == [200, 200, 200], "%s", [up.status for up in ups])
    for k, up in enumerate(ups):
        check(bodies(app, f"/up{k}") == [up.noted()], "another body")
    app.close()
    cluster.start(leader)
    again = App(("127.0.0.1", 0))
    front.use(again)
    for k, up in enumerate(ups):
        check(bodies(again, f"/up{k}") == [up.noted()], "another body in the replay")
    again.close()


def test_interleaved(bench, rng):
    """Several at a time, in chunks and with trailers, between small requests, in each logging; over max-uploads 503."""
    cluster = Cluster(bench, n=1).start()
    cluster.wait_leader()
    for logging, ordering in (("pessimistic", "serial"), ("optimistic", "concurrent")):
        app = App(("127.0.0.1", 0))
        front = HttpFront(bench, cluster, app, ("--logging", logging, "--ordering", ordering, "--max-uploads", "4", "--offset-header"), f"{STREAM}-{logging}")
        ups = [Upload(front.port, f"/up{k}", 5 * MIB + k, seed=k, pause_at=3 * MIB, chunked=k % 2 == 0) for k in range(4)]
        for up in ups:
            up.paused.wait(60)
        check(front.ask("POST", "/small", b"x")[0] == 200, "a small one between")
        over = Upload(front.port, "/over", 2 * MIB)
        check(over.wait() == 503 or "Error" in str(over.status), "over max-uploads: %s", over.status)
        for up in ups:
            up.go()
        check([up.wait() for up in ups] == [200] * 4, "%s, %s: %s", logging, ordering, [(up.status, up.answer) for up in ups])
        for k, up in enumerate(ups):
            (head, body, trailers), = app.of(f"/up{k}")
            check(body == up.noted() and trailers == (b"X-Sum: 17\r\n" if up.chunked else b""), "%s: up%d: %s", logging, k, (head, trailers))
            check(int(up.fields["crsc-offset"]) > 10, "%s", up.fields)
        early = Upload(front.port, "/toolarge", 20 * MIB)
        check((early.wait(), early.answer) == (413, b"big"), "an app that answers before it has the body: %s %s", early.status, early.answer)
        check(front.ask("POST", "/small", b"y")[0] == 200, "it does not go on")
        front.process.stop()
        app.close()


def test_idempotency(bench, rng):
    """A large request's Idempotency-Key: repeated, with another body, and after a restart."""
    cluster, app, front = prepare(bench)
    key = ["Idempotency-Key: large"]
    first = Upload(front.port, "/once", 3 * MIB, headers=key)
    check(first.wait() == 200, "%s", first.status)
    second = Upload(front.port, "/once", 3 * MIB, headers=key, chunked=True)
    check((second.wait(), second.answer) == (200, first.answer) and len(app.requests) == 1, "repeated: %s %s", second.status, second.answer)
    other = Upload(front.port, "/once", 3 * MIB, seed=2, headers=key)
    check(other.wait() == 422, "another body: %s", other.status)
    front.process.kill()
    app.close()
    front.start_interceptor()
    again = App(("127.0.0.1", 0))
    front.use(again)
    third = Upload(front.port, "/once", 3 * MIB, headers=key)
    check((third.wait(), third.answer) == (200, first.answer) and len(again.requests) == 1, "after a restart: %s %s", third.status, third.answer)
    again.close()


def test_checkpoint_between(bench, rng):
    """A checkpoint is taken, and the log trimmed up to it, while uploads go on: what comes behind it needs nothing before it. Where the log was
    trimmed too early the client is told so, and nothing is logged."""
    cluster, app, front = prepare(bench)

    def checkpoint(token):
        status, data = front.admin("POST", "/checkpoint", {"token": token, "drain_ms": 10000, "lease_ms": 20000})
        check(status == 200, "POST /checkpoint: %d %s", status, data)
        offset = json.loads(data)["offset"]
        check(json.loads(front.admin("POST", "/resume", {"token": token})[1])["unbroken"], "broken")
        return offset
    one, two = (Upload(front.port, f"/up{k}", 8 * MIB + k, seed=k, pause_at=5 * MIB) for k in (1, 2))
    one.paused.wait(60)
    two.paused.wait(60)
    wait_until("parts in the log", lambda: front.status()["offsets"]["last"] >= 8)
    check(front.ask("POST", "/small", b"x")[0] == 200, "POST")
    offset = checkpoint("a")
    one.go()
    check(one.wait() == 200, "%s %s", one.status, one.answer)
    # its parts are behind the checkpoint now: what is before may go
    cluster.logctl("trim", STREAM, "--to", str(offset), "--force")
    app.close()
    again = App(("127.0.0.1", 0))
    front.use(again, offset)
    check([r[0].split(b" ")[1] for r in again.requests] == [b"/up1"] and bodies(again, "/up1") == [one.noted()], "%s", again.requests)
    two.go()
    check(two.wait() == 503 and b"again" in two.answer, "%s %s", two.status, two.answer)
    check(front.ask("POST", "/small", b"y")[0] == 200 and not again.of("/up2"), "half of something came")
    again.close()


if __name__ == "__main__":
    main([test_large, test_cut, test_app_dies, test_log_lost, test_interleaved, test_idempotency, test_checkpoint_between])
