#!/usr/bin/env python3
"""The interceptor as an HTTP proxy: what passes and how, what an app learns of its client, bounds of time and size, where it listens and whom it
reaches. The app is http_app.py, which lies on purpose."""
import http.client
import json
import os
import re
import socket
import ssl
import threading
import time

from harness import Cluster, Http, check, exchange, free_ports, main, wait_until
from http_app import App
from test_interceptor import Front

STREAM = "test/default/workload/http"


class HttpFront(Front):
    """An interceptor whose app is an App of this process."""

    def __init__(self, bench, cluster, app, flags=(), stream=STREAM):
        self.lives = 0
        super().__init__(bench, cluster, flags, stream)
        self.use(app)

    def use(self, app, offset=0, timeout=60):
        self.lives += 1
        status, data = self.admin("POST", "/attach", {"identity": f"app-{self.lives}", "offset": offset, "upstream": app.upstream})
        check(status == 200, "POST /attach: %d %s", status, data)
        if timeout:
            self.wait_active(timeout)

    def ask(self, method, target, body=None, headers=None, **more):
        connection = Http(self.port)
        try:
            return connection.request(method, target, body, headers, **more)
        finally:
            connection.close()

    def metric(self, name):
        """Its value; 0 when it is not there."""
        text = self.admin("GET", "/metrics")[1].decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
        return float(found[1]) if found else 0.0


def prepare(bench, flags=(), address=("127.0.0.1", 0)):
    cluster = Cluster(bench, n=1).start()
    cluster.wait_leader()
    app = App(address)
    return cluster, app, HttpFront(bench, cluster, app, flags)


def field(head, name):
    """All values of a header in a head as it came."""
    return [v.strip().decode() for k, _, v in (line.partition(b":") for line in head.split(b"\r\n")[1:]) if k.lower() == name.lower().encode()]


def test_pipeline(bench, rng):
    """With app-pipeline several logged requests are in the app's connection; each is executed once, in the log's order, also those that were behind an
    answer that ends the connection. Where nobody can know how far the app got it is suspect, and the next one gets them one by one."""
    cluster, app, front = prepare(bench, ("--app-pipeline", "8", "--offset-header", "true"))
    answers, lock = [], threading.Lock()

    def ask(target, body="x"):
        status, fields, data = front.ask("POST", target, body)
        with lock:
            answers.append((target, body, status, data, int(fields.get("crsc-offset", 0))))

    def together(*targets):
        threads = [threading.Thread(target=ask, args=target) for target in targets]
        for k, thread in enumerate(threads):
            thread.start()
            if k == 0:
                wait_until("the app has the first", lambda: app.of(targets[0][0]))
        for thread in threads:
            thread.join()
    together(("/behind?4000",), *(("/echo", f"a{k}") for k in range(5)))
    check(next(int(a[3]) for a in answers if a[0] == "/behind?4000") == 5, "the app's connection had %s", answers)

    def client(k):
        for n in range(30):
            ask(rng.choice(("/echo", "/echo", "/echo", "/204", "/close", "/big?70000")), f"c{k}-{n}")
    threads = [threading.Thread(target=client, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wrong = [a for a in answers if a[2] != (204 if a[0] == "/204" else 200) or (a[0] == "/echo" and a[3] != a[1].encode())]
    check(not wrong and len(answers) == 246, "%d answers, wrong: %s", len(answers), wrong[:3])
    in_log = [a[1].encode() for a in sorted(answers, key=lambda a: a[4])]
    check([body for _, body, _ in app.requests] == in_log, "executed in another order than logged, or not once")
    check(not any(b"Crsc-Replay" in head for head, _, _ in app.requests), "one was said to be a replay")
    hold = threading.Thread(target=ask, args=("/behind?3000", "h"))
    hold.start()
    wait_until("the app has it", lambda: app.of("/behind?3000"))
    bad = threading.Thread(target=ask, args=("/nonsense", "n"))
    bad.start()
    wait_until("it is logged", lambda: front.status()["requests"]["logged"] == 248)
    rest = [threading.Thread(target=ask, args=("/echo", f"r{k}")) for k in range(3)]
    for thread in rest:
        thread.start()
    wait_until("suspect", lambda: front.status()["app"]["suspect"], 20)
    fresh = App(("127.0.0.1", 0))
    front.use(fresh)
    for thread in (hold, bad, *rest):
        thread.join()
    check([a[2] for a in answers if a[0] == "/nonsense"] == [502], "%s", answers[-5:])
    check(sorted(a[3] for a in answers[-4:] if a[0] == "/echo") == [b"r0", b"r1", b"r2"], "%s", answers[-5:])
    check([r[1] for r in fresh.requests[:246]] == in_log and len(fresh.requests) == 251, "replayed: %d", len(fresh.requests))
    check(front.status()["requests"]["digest_mismatches"] <= 2, "only /behind may differ: %s", front.status()["requests"])


def test_messages(bench, rng):
    """What the app answers reaches the client, whatever its form: trailers both ways, 1xx, 204, 304, HEAD, HTTP/1.0 on either side, and
    the same again when it is replayed."""
    _, app, front = prepare(bench)
    got, _ = exchange(front.port, b"POST /trailers HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTE: trailers\r\nTrailer: X-A\r\nTransfer-Encoding: chunked\r\n\r\n"
                      b"2\r\nhi\r\n1\r\n!\r\n0\r\nX-A: 1\r\nAuthorization: 7\r\nHost: evil\r\n\r\n")
    head, body, trailers = app.of("/trailers")[0]
    check(body == b"hi!" and trailers == b"X-A: 1\r\n" and field(head, "Trailer") == ["X-A"] and field(head, "TE") == ["trailers"],
          "trailers to the app: %s", (head, body, trailers))
    check(b"\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n" in got and b"Trailer: X-Sum" in got, "trailers of the app: %s", got)
    got, _ = exchange(front.port, b"GET /trailers HTTP/1.0\r\n\r\n", timeout=60)
    check(got.startswith(b"HTTP/1.1 200") and got.endswith(b"\r\n\r\nabc") and b"Content-Length: 3" in got, "to an old client: %s", got)
    for method in ("GET", "POST"):
        check(front.ask(method, "/early")[::2] == (200, b"late"), "an interim answer before the real one")
        check(front.ask(method, "/old")[::2] == (200, b"to the end"), "an app of HTTP/1.0")
        for status in (204, 304):
            found, headers, body = front.ask(method, f"/{status}")
            check((found, body) == (status, b"") and headers["etag"] == '"e"' and "content-length" not in headers, "%s %s", found, headers)
    connection = Http(front.port)
    found, headers, body = connection.request("HEAD", "/big?5000000000")
    check((found, body, headers["content-length"]) == (200, b"", "5000000000"), "HEAD: %s %s", found, headers)
    check(connection.request("GET", "/echo")[0] == 200, "the connection is of no use after HEAD")
    connection.close()
    # HTTP/1.0 keeps a connection only when it asks for that
    got, closed = exchange(front.port, b"POST /echo HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi", timeout=60)
    check(closed and got.endswith(b"\r\n\r\nhi") and b"Connection: close" in got, "HTTP/1.0: %s", got)
    got, closed = exchange(front.port, b"POST /echo HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi" * 2, timeout=3)
    check(not closed and got.count(b"200 OK") == 2, "HTTP/1.0 with keep-alive: %s", got)
    got, closed = exchange(front.port, b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", timeout=60)
    check(closed and b"Connection: close" in got, "Connection: close: %s", got)
    with socket.create_connection(("127.0.0.1", front.port), timeout=60) as s:
        s.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        check(s.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n", "no 100 before the body")
        s.sendall(b"abc")
        check(s.recv(1000).endswith(b"\r\n\r\nabc"), "no answer behind the body")
    # h2c is offered by clients that do well without
    got, _ = exchange(front.port, b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
                      b"Content-Length: 3\r\n\r\nh2c", timeout=3)
    check(got.startswith(b"HTTP/1.1 200") and got.endswith(b"h2c"), "a client that offers h2c: %s", got)
    head = app.of("/echo")[-1][0]
    check(not field(head, "Upgrade") and not field(head, "HTTP2-Settings") and not field(head, "Connection"), "hop-by-hop: %s", head)
    for status, target in ((502, "/nonsense"), (502, "/drop")):
        check(front.ask("GET", target)[0] == status, "GET %s", target)
    # all of it again, from the log
    logged = [r for r in app.requests if not r[0].startswith((b"GET", b"HEAD"))]
    app.close()
    again = App(("127.0.0.1", 0))
    front.use(again)
    same = [(re.sub(rb"Crsc-Replay: 1\r\n", b"", h), b, t) for h, b, t in again.requests]
    check(same == logged and all(b"Crsc-Replay: 1" in h for h, _, _ in again.requests), "a replay is not what was sent first:\n%s\n%s", same, logged)
    check(front.status()["requests"]["digest_mismatches"] == 0, "%s", front.status())
    again.close()


def test_strange(bench, rng):
    """What nobody should send, and somebody does."""
    _, app, front = prepare(bench)
    connection = Http(front.port)
    for method in ("GET", "POST", "HEAD"):  # a length that is another answer's; what follows on both connections is in step
        found, headers, body = connection.request(method, "/304?1234")
        check((found, body, headers["content-length"]) == (304, b"", "1234"), "%s: %s %s %s", method, found, headers, body)
        check(connection.request("POST", "/echo", b"in step")[::2] == (200, b"in step"), "out of step after a 304 with a length to %s", method)
    for method in ("GET", "POST"):
        check(connection.request(method, "/upgrade")[0] == 502, "%s: a 101 that nobody asked for", method)
        check(connection.request("POST", "/echo", b"in step")[::2] == (200, b"in step"), "out of step after a 101")
    connection.close()
    # Connection names what it must not; fields that look like ours to who turns - into _; a quotation that swallows what follows
    got, _ = exchange(front.port, b"POST /a HTTP/1.1\r\nHost: good:1\r\nConnection: Host, Content-Length, close\r\nX_Forwarded_For: 6.6.6.6\r\nCrsc_Replay: 1\r\n"
                      b"Forwarded: for=\"6.6.6.6\r\nContent-Length: 2\r\n\r\nhi", timeout=60)
    head, body, _ = app.of("/a")[0]
    check(got.startswith(b"HTTP/1.1 200") and body == b"hi" and field(head, "Host") == ["good:1"], "%s, %s", head, body)
    check(field(head, "Forwarded") == ['for=127.0.0.1;proto=http;host="good:1"'] and field(head, "X-Forwarded-For") == ["127.0.0.1"], "%s", head)
    check(not field(head, "X_Forwarded_For") and not field(head, "Crsc_Replay"), "a twin of our own fields passed: %s", head)
    before = len(app.requests)
    for text in (b"GET http://one/ HTTP/1.1\r\nHost: two\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a/../b\r\n\r\n",
                 b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 200_000):
        got, closed = exchange(front.port, text, timeout=60)
        late = len(text) > 100_000 and not got  # who goes on sending for longer than he is listened to is reset, and the answer with it
        check(closed and (got.startswith(b"HTTP/1.1 400") or late), "%s: %s", text[:60], got)
    check(len(app.requests) == before, "it reached the app: %s", app.requests[before:])
    # a refusal is told at once to who waits for 100; nobody is told to go on
    for text, status in ((b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 99999999999999\r\n\r\n", b"413"),
                         (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\n", b"417")):
        got, closed = exchange(front.port, text, timeout=60)
        check(closed and got.split(b" ")[1] == status and got.count(b"HTTP/1.1 ") == 1, "%s: %s", text, got)
    app.close()


def test_forwarded(bench, rng):
    """The app learns who its client is, in both forms; what came is kept before it; a client cannot play the replay."""
    cluster, app, front = prepare(bench)
    front.ask("POST", "/a", b"x", {"Host": "h'[:1", "X-Forwarded-For": "192.0.2.7", "Forwarded": "for=192.0.2.7", "Crsc-Replay": "1"})
    head = app.of("/a")[0][0]
    check(field(head, "X-Forwarded-For") == ["192.0.2.7, 127.0.0.1"] and field(head, "X-Forwarded-Proto") == ["http"] and
          field(head, "X-Forwarded-Host") == ["h'[:1"], "%s", head)
    check(field(head, "Forwarded") == ['for=192.0.2.7, for=127.0.0.1;proto=http;host="h\'[:1"'], "%s", head)
    check(not field(head, "Crsc-Replay"), "the client's word for a replay: %s", head)
    front.ask("GET", "/b", headers={"X-Forwarded-Proto": "https", "X-Forwarded-Host": "outer"})
    head = app.of("/b")[0][0]
    check(field(head, "X-Forwarded-Proto") == ["https"] and field(head, "X-Forwarded-Host") == ["outer"], "%s", head)
    front.process.stop()
    for kind, x, standard in (("off", 0, 0), ("x-forwarded", 1, 0), ("forwarded", 0, 1)):
        front = HttpFront(bench, cluster, app, ("--forwarded", kind), f"{STREAM}-{kind}")
        front.ask("POST", f"/{kind}")
        head = app.of(f"/{kind}")[0][0]
        check((len(field(head, "X-Forwarded-For")), len(field(head, "Forwarded"))) == (x, standard), "%s: %s", kind, head)
        front.process.stop()
    app.close()


def test_offset_and_trace(bench, rng):
    """Crsc-Offset when it is asked for: the place in the log, also of an answer from the record or in parts; W3C trace contexts pass, and are in the log lines."""
    cluster, app, front = prepare(bench)
    check("crsc-offset" not in front.ask("POST", "/echo", b"x")[1], "said without having been asked for")
    front.process.stop()
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    parent = f"00-{trace}-00f067aa0ba902b7-01"
    front = HttpFront(bench, cluster, app, ("--offset-header", "--access-log", "--answer-buffer", "64KiB"), STREAM + "-2")
    offsets = [int(front.ask("POST", target, b"x", {"Idempotency-Key": "k", "traceparent": parent} if target == "/echo" else {})[1]["crsc-offset"])
               for target in ("/echo", "/big?1000000", "/204")]
    check(offsets == sorted(offsets) and offsets[0] == 2, "behind the interceptor's mark: %s", offsets)
    check(int(front.ask("POST", "/echo", b"x", {"Idempotency-Key": "k"})[1]["crsc-offset"]) == 2, "of a repetition")
    check("crsc-offset" not in front.ask("GET", "/echo")[1], "of a read")
    events = cluster.logctl("events", STREAM + "-2", "--from", str(offsets[1]), "--to", str(offsets[1]))
    check("/big" in events, "offset %d is another request: %s", offsets[1], events)
    check(field(app.of("/echo")[-2][0], "traceparent") == [parent], "traceparent did not pass: %s", app.of("/echo")[-2])
    line = front.process.wait_for("answered", trace=trace)
    check(line["method"] == "POST" and line["target"] == "/echo" and str(line["status"]) == "200" and str(line["offset"]) == "2", "%s", line)
    app.close()


def test_addresses(bench, rng):
    """IPv6 to listen and to reach; an app at a Unix socket, which dies and comes back at the same path: that is another app."""
    cluster = Cluster(bench, n=1).start()
    cluster.wait_leader()
    app = App(("::1", 0))
    port, admin = free_ports(2)
    front = HttpFront.__new__(HttpFront)
    front.bench, front.cluster, front.stream, front.port, front.admin_port, front.lives = bench, cluster, STREAM, port, admin, 0
    front.process = bench.spawn("interceptor", ["crsc-interceptor", "--listen", f"[::1]:{port}", "--admin-listen", f"127.0.0.1:{admin}",
                                                "--servers", cluster.servers, "--stream", STREAM])
    wait_until("the admin interface", lambda: front.status(strict=False), 30)
    front.use(app)
    connection = http.client.HTTPConnection("::1", port, timeout=30)
    connection.request("POST", "/six", b"x")
    check(connection.getresponse().read() == b"1", "over IPv6")
    connection.close()
    check(field(app.of("/six")[0][0], "Forwarded")[0].startswith('for="[::1]";proto=http;host="[::1]:'), "%s", app.of("/six")[0][0])
    app.close()
    front.process.stop()
    path = bench.path("app.sock")
    app = App(path)
    front = HttpFront(bench, cluster, app, (), STREAM + "-unix")
    check(front.ask("POST", "/u")[::2] == (200, b"1") and front.ask("GET", "/u")[::2] == (200, b"2"), "over a Unix socket")
    front.checkpoint_offset = json.loads(front.admin("POST", "/checkpoint", {"token": "t"})[1])["offset"]
    check(json.loads(front.admin("POST", "/resume", {"token": "t"})[1])["unbroken"], "a drain over a Unix socket")
    os.chmod(path, 0o600)
    check(front.ask("POST", "/u")[0] == 200, "chmod of the socket made it another app")
    app.close()
    wait_until("it is lost", lambda: front.status()["app"]["lost"])
    other = App(path)
    time.sleep(0.3)
    check(front.status()["app"]["lost"] and not other.requests, "another process at the same path was taken for the dead one: %s", front.status())
    front.use(other)
    check([r[0].split(b" ")[1] for r in other.requests] == [b"/u", b"/u"], "%s", other.requests)
    status, data = front.admin("POST", "/attach", {"identity": "x", "offset": 0, "upstream": "unix:relative"})
    check(status == 400 and b"unix:/path" in data, "%d %s", status, data)
    other.close()


def test_client_times(bench, rng):
    """Each phase has its bound: headers, body, idle, and an answer that is not taken; what came too late is not logged."""
    flags = ("--header-timeout", "2s", "--body-timeout", "4s", "--idle-timeout", "3s", "--send-timeout", "2s")
    _, app, front = prepare(bench, flags)

    def drip(first, piece, n, pause):
        """What came back, and whether it was closed before all pieces were sent."""
        with socket.create_connection(("127.0.0.1", front.port), timeout=60) as s:
            s.sendall(first)
            s.settimeout(pause)
            for _ in range(n):
                try:
                    got = s.recv(1000)
                    return got, True
                except TimeoutError:
                    s.sendall(piece)
            s.settimeout(60)
            return s.recv(1000), False
    got, early = drip(b"POST /echo HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n", 300, 0.1)
    check(early and got.startswith(b"HTTP/1.1 408"), "headers in drops (slowloris): %s", got)
    got, early = drip(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", b"", 300, 0.1)
    check(early and got.startswith(b"HTTP/1.1 408"), "a body that does not come: %s", got)
    got, early = drip(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", b"x", 10, 0.3)
    check(got.endswith(b"xxxxxxxxxx"), "a slow body that comes: %s", got)
    got, early = drip(b"", b"", 300, 0.1)
    check(early and got == b"", "an idle connection: %s", got)
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.settimeout(60)
        s.connect(("127.0.0.1", front.port))
        s.sendall(b"GET /big?100000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(6)
        taken = 0
        try:
            while piece := s.recv(1 << 20):
                taken += len(piece)
        except ConnectionResetError:
            pass
        check(taken < 100_000_000, "a client that took nothing for 6 s got all of it")
    check(front.metric('crsc_interceptor_refused_total{status="408"}') == 2, "not counted")
    wait_until("the answer is noted", lambda: front.status()["offsets"]["last"] >= 3)
    check(front.status()["offsets"]["last"] == 3, "something is in the log that never was whole: %s", front.status()["offsets"])
    app.close()


def test_app_times(bench, rng):
    """An app that is late, or stops in the middle: 504, or a cut. A logged request is executed once all the same, and the rest goes on."""
    _, app, front = prepare(bench, ("--app-first-byte-timeout", "400ms", "--app-body-timeout", "400ms", "--app-connect-timeout", "400ms"))
    status, _, data = front.ask("GET", "/slow?3000")
    check(status == 504 and b"in time" in data, "a late answer to a read: %d %s", status, data)
    status, _, data = front.ask("POST", "/slow?1500")
    check(status == 504 and b"exactly once" in data, "a late answer to a logged request: %d %s", status, data)
    check(front.ask("POST", "/echo", b"next")[::2] == (504, data) or front.ask("POST", "/echo", b"next")[0] == 200, "what follows")
    wait_until("it goes on", lambda: front.ask("POST", "/echo", b"on")[0] == 200)
    check(len(app.of("/slow?1500")) == 1, "it was executed more than once")
    check(front.ask("GET", "/half")[0] == 504, "an answer that stops in the middle")
    check(front.metric('crsc_interceptor_refused_total{status="504"}') >= 3, "not counted")
    check(front.process.find("the app is slow") is not None, "not in the log")
    front.wait_active()
    app.close()


def test_app_gone(bench, rng):
    """An app that is gone in the middle of a long answer: the client's connection is cut, he does not take the half for the whole; a client that is gone
    before the answer leaves nothing behind."""
    _, app, front = prepare(bench, ("--answer-buffer", "4KiB"))
    got, closed = exchange(front.port, b"GET /cut HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", timeout=60)
    check(got.startswith(b"HTTP/1.1 502"), "a short half answer: %s", got[:200])
    with socket.create_connection(("127.0.0.1", front.port), timeout=60) as s:
        s.sendall(b"POST /slow?300 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        wait_until("the app has it", lambda: app.of("/slow?300"))
    with socket.create_connection(("127.0.0.1", front.port), timeout=60) as s:
        s.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
    check(front.ask("POST", "/echo", b"x")[0] == 200, "it does not go on")
    check(not app.of("/half") and len(app.of("/echo")) == 1, "half a request reached the app")
    # the app dies in the middle of a long answer
    with socket.create_connection(("127.0.0.1", front.port), timeout=60) as s:
        s.sendall(b"GET /big?500000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        check(s.recv(1000).startswith(b"HTTP/1.1 200"), "no answer")
        app.close()
        taken = 0
        try:
            while piece := s.recv(1 << 20):
                taken += len(piece)
        except ConnectionResetError:
            pass
        check(taken < 500_000_000, "it got a whole answer from a dead app")
    other = App(("127.0.0.1", 0))
    front.use(other)
    check(front.ask("POST", "/echo", b"y")[0] == 200, "it does not go on with another app")
    other.close()


def make_certificate(bench, name, signer=None):
    """name.pem and name.key; signed by itself, or by `signer`."""
    key, cert = bench.path(f"{name}.key"), bench.path(f"{name}.pem")
    own = [] if signer is None else ["-CA", bench.path(f"{signer}.pem"), "-CAkey", bench.path(f"{signer}.key")]
    bench.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={name}",
              "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-addext", f"basicConstraints=critical,CA:{'FALSE' if signer else 'TRUE'}",
              *own, "-keyout", key, "-out", cert)
    return cert, key


def test_tls(bench, rng):
    """TLS on the data port: all that goes without it; what is no TLS is let go; a new certificate is taken without a restart, by connections
    that come from then on; clients' certificates when they are asked for."""
    make_certificate(bench, "ca")
    make_certificate(bench, "one", "ca")
    make_certificate(bench, "two", "ca")
    cert, key = bench.path("live.pem"), bench.path("live.key")

    def use(name):
        for suffix, to in ((".key", key), (".pem", cert)):
            with open(bench.path(name + suffix), "rb") as f, open(to + ".new", "wb") as out:
                out.write(f.read())
            os.rename(to + ".new", to)
    use("one")
    cluster, app, front = prepare(bench, ("--tls-cert", cert, "--tls-key", key, "--header-timeout", "3s", "--answer-buffer", "64KiB"))
    trust = ssl.create_default_context(cafile=bench.path("ca.pem"))

    def dial(context=trust):
        return http.client.HTTPSConnection("127.0.0.1", front.port, timeout=30, context=context)

    def shown():
        with trust.wrap_socket(socket.create_connection(("127.0.0.1", front.port), timeout=60), server_hostname="127.0.0.1") as s:
            return dict(pair[0] for pair in s.getpeercert()["subject"])["commonName"]
    old = dial()
    for size in (0, 1, 100_000, 1_000_000):
        data = rng.randbytes(size)
        old.request("POST", "/echo", data)
        check(old.getresponse().read() == data, "%d bytes over TLS", size)
    old.request("GET", "/big?30000000")
    check(len(old.getresponse().read()) == 30_000_000, "a long answer over TLS")
    check(field(app.of("/echo")[0][0], "X-Forwarded-Proto") == ["https"], "%s", app.of("/echo")[0][0])
    with trust.wrap_socket(socket.create_connection(("127.0.0.1", front.port), timeout=60), server_hostname="127.0.0.1") as s:
        s.sendall(b"".join(b"POST /echo HTTP/1.1\r\nHost: x\r\n%sContent-Length: 2\r\n\r\n%02d" % (b"Connection: close\r\n" if i == 49 else b"", i) for i in range(50)))
        got = b""
        while piece := s.recv(65536):
            got += piece
    check(re.findall(rb"\r\n\r\n(\d\d)", got) == [b"%02d" % i for i in range(50)], "pipelined over TLS: %s", got[-300:])
    got, closed = exchange(front.port, b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n", timeout=60)
    check(closed and b"HTTP" not in got, "plain HTTP at a TLS port: %s", got)
    got, closed = exchange(front.port, b"", timeout=60)
    check(closed, "a handshake that does not begin")
    check(shown() == "one", "%s", shown())
    use("two")
    wait_until("the new certificate", lambda: shown() == "two")
    old.request("POST", "/echo", b"still")
    check(old.getresponse().read() == b"still", "a connection from before")
    old.close()
    front.process.stop()
    front = HttpFront(bench, cluster, app, ("--tls-cert", cert, "--tls-key", key, "--tls-client-ca", bench.path("ca.pem")), STREAM + "-mutual")
    check_refused = dial()
    try:
        check_refused.request("POST", "/echo", b"no")
        check_refused.getresponse()
        refused = False
    except (OSError, http.client.HTTPException):
        refused = True
    check(refused, "a client without a certificate was served")
    known = ssl.create_default_context(cafile=bench.path("ca.pem"))
    known.load_cert_chain(bench.path("one.pem"), bench.path("one.key"))
    connection = dial(known)
    connection.request("POST", "/echo", b"known")
    check(connection.getresponse().read() == b"known", "a client with a certificate")
    connection.close()
    _, said = bench.run("crsc-interceptor", "--stream", STREAM, "--servers", "127.0.0.1:1", "--tls-cert", cert, status=2)
    check("tls-key" in said, "%s", said)
    app.close()


def test_upgrade(bench, rng):
    """Refused by default. Where it passes: bytes both ways, more than fits into any buffer; what the app answers instead; a drain and the app's death end it."""
    cluster, app, front = prepare(bench)
    ask = b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\nSec-X: y\r\n\r\n"
    got, closed = exchange(front.port, ask % b"/upgrade", timeout=60)
    check(closed and got.startswith(b"HTTP/1.1 501") and b"logged" in got and not app.requests, "by default: %s", got)
    got, closed = exchange(front.port, b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", timeout=60)
    check(closed and got.startswith(b"HTTP/1.1 501"), "CONNECT: %s", got)
    front.process.stop()
    front = HttpFront(bench, cluster, app, ("--upgrade", "pass"), STREAM + "-pass")

    def upgraded():
        s = socket.create_connection(("127.0.0.1", front.port), timeout=60)
        s.sendall(ask % b"/upgrade" + b"first")
        got = b""
        while not got.endswith(b"hellofirst"):
            piece = s.recv(1000)
            check(piece, "it ended behind %s", got)
            got += piece
        check(got.startswith(b"HTTP/1.1 101") and b"\r\nUpgrade: echo\r\n" in got and b"\r\nConnection: Upgrade\r\n" in got, "%s", got)
        return s
    with upgraded() as s:
        head = app.of("/upgrade")[0][0]
        check(field(head, "Upgrade") == ["echo"] and field(head, "Connection") == ["Upgrade"] and field(head, "Sec-X") == ["y"], "%s", head)
        data, back = rng.randbytes(20_000_000), []
        taker = threading.Thread(target=lambda: back.extend(iter(lambda: s.recv(1 << 16), b"")), daemon=True)
        taker.start()
        s.sendall(data + b"bye")
        taker.join(60)
        check(b"".join(back) == data + b"bye", "%d bytes came back", sum(map(len, back)))
    wait_until("none is left", lambda: front.metric("crsc_interceptor_tunnels") == 0)
    got, closed = exchange(front.port, ask % b"/echo", timeout=60)
    check(closed and got.startswith(b"HTTP/1.1 200"), "an app that does not upgrade: %s", got)
    check(exchange(front.port, ask % b"/drop", timeout=60)[0].startswith(b"HTTP/1.1 502"), "an app that ends instead")
    check(front.status()["offsets"]["last"] < 2, "something of it was logged: %s", front.status()["offsets"])
    with upgraded() as s:
        check(front.metric("crsc_interceptor_tunnels") == 1, "not counted")
        check(front.admin("POST", "/checkpoint", {"token": "u"})[0] == 200, "a drain")
        check(s.recv(1000) == b"", "a drain leaves it open")
        got, _ = exchange(front.port, ask % b"/upgrade", timeout=60)
        check(got.startswith(b"HTTP/1.1 503") and b"Retry-After" in got, "while drained: %s", got)
        check(front.admin("POST", "/resume", {"token": "u"})[0] == 200, "POST /resume")
    front.wait_active()
    with upgraded() as s:
        app.close()
        check(s.recv(1000) == b"", "the app's death leaves it open")
    check(front.process.alive(), "the interceptor ended")


def test_limits(bench, rng):
    """Header count and size, body, connections: a clear status, counted; nothing of it is logged."""
    _, app, front = prepare(bench, ("--max-headers", "12", "--max-header-bytes", "2KiB", "--max-body", "1000", "--max-connections", "5", "--retry-after", "7"))

    def status(data):
        got, closed = exchange(front.port, data, timeout=60)
        check(closed, "the connection stays open: %s", got)
        return got.split(b" ")[1] if got else b""
    many = b"".join(b"X-%d: y\r\n" % i for i in range(12))
    check(status(b"POST /a HTTP/1.1\r\nHost: x\r\n" + many + b"\r\n") == b"431", "too many headers")
    check(status(b"POST /a HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 2100 + b"\r\n\r\n") == b"431", "too large a header")
    check(status(b"POST /" + b"a" * 2100 + b" HTTP/1.1\r\n") == b"431", "too long a target")
    check(status(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n") == b"413", "too large a body")
    check(status(b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"y" * 1001) == b"413", "too large a body in chunks")
    check(status(b"POST /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n") == b"413", "100-continue for too large a body")
    wait_until("they are gone", lambda: front.ask("POST", "/echo", b"z" * 1000)[0] == 200)
    held = []

    def hold():  # the connections from before may not have been seen to be gone
        s = socket.create_connection(("127.0.0.1", front.port), timeout=60)
        s.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
        if not s.recv(1000).startswith(b"HTTP/1.1 200"):
            s.close()
            return False
        held.append(s)
        return True
    for _ in range(5):
        wait_until("a connection within the bound", hold)
    got, closed = exchange(front.port, b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n", timeout=60)
    check(closed and got.startswith(b"HTTP/1.1 503") and b"Retry-After: 7\r\n" in got, "over the bound: %s", got)
    for s in held:
        s.close()
    wait_until("there is room again", lambda: front.ask("POST", "/echo", b"z")[0] == 200)
    check(front.metric('crsc_interceptor_refused_total{status="431"}') == 3 and front.metric('crsc_interceptor_refused_total{status="413"}') == 3 and
          front.metric('crsc_interceptor_refused_total{status="503"}') >= 1, "not counted: %s", front.admin("GET", "/metrics")[1].decode())
    check(not app.of("/a"), "it reached the app")
    app.close()


if __name__ == "__main__":
    main([test_messages, test_pipeline, test_strange, test_forwarded, test_offset_and_trace, test_addresses, test_client_times, test_app_times, test_app_gone, test_tls, test_upgrade, test_limits])
