#!/usr/bin/env python3
"""Malformed input at every port, in every configuration file and flag: a clear error, no crash, and the service goes on with all its
data."""
import http.client
import json
import os
import re
import socket
import struct
import threading

import wire
from harness import Cluster, check, exchange, main, wait_until
from test_interceptor import Front, STREAM, prepare

LOG_STREAM = "malformed/default/workload/app"


# ---- the port of crsc-logd -------------------------------------------------------------------------------------------

def log_garbage(rng):
    """(what, bytes, whether a HELLO goes before)."""
    good = wire.frame(wire.STATUS, 7)
    append = wire.field(1, LOG_STREAM) + wire.field(2, 1) + wire.field(3, 1)
    cases = [
        ("nothing", b"", False),
        ("random bytes", rng.randbytes(5000), False),
        ("zeros", bytes(100_000), False),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", False),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(500), False),
        ("a wrong magic", wire.frame(wire.HELLO, 1, magic=b"CRS2"), False),
        ("half a header", wire.hello()[:17], False),
        ("no HELLO first", good, False),
        ("a HELLO of version 99", wire.hello(version=99), False),
        ("a HELLO of another cluster", wire.hello(cluster="elsewhere"), False),
        ("a HELLO of a server nobody knows", wire.hello(node=77), False),
        ("a HELLO that is no protobuf", wire.frame(wire.HELLO, 1, b"\xff\xff\xff\xff"), False),
        ("a huge head", wire.frame(wire.STATUS, 7, head_len=0xFFFFFFFF), True),
        ("a huge body", wire.frame(wire.APPEND, 7, body_len=0x7FFFFFFF), True),
        ("a wrong checksum", wire.frame(wire.STATUS, 7, crc=1), True),
        ("a bit turned over", bytes([*good[:9], good[9] ^ 4, *good[10:]]), True),
        ("a type that does not exist", wire.frame(999, 7), True),
        ("a reply nobody asked for", wire.frame(wire.STATUS | wire.REPLY, 7), True),
        ("a server's message from a client", wire.frame(wire.RAFT, 0, rng.randbytes(40)), True),
        ("a second HELLO", wire.hello(), True),
        ("bad protobuf in an append", wire.frame(wire.APPEND, 7, b"\x0a\xff\xff\xff\xff\x0f"), True),
        ("an append without events", wire.frame(wire.APPEND, 7, append), True),
        ("an append that lies about its sizes", wire.frame(wire.APPEND, 7, append + wire.field(4, wire.field(1, 1) + wire.field(3, 4_000_000_000)), b"x"), True),
        ("an append to a stream with a bad name", wire.frame(wire.OPEN_PRODUCER, 7, wire.field(1, "../etc passwd\n") + wire.field(2, "p")), True),
        ("a stream name of 5000 bytes", wire.frame(wire.OPEN_PRODUCER, 7, wire.field(1, "a" * 5000) + wire.field(2, "p")), True),
        ("a read from offset 0", wire.frame(wire.READ, 7, wire.field(1, LOG_STREAM)), True),
        ("a read of the end of time", wire.frame(wire.READ, 7, wire.field(1, LOG_STREAM) + wire.field(2, 2**64 - 1) + wire.field(3, 1)), True),
        ("a thousand follows", b"".join(wire.frame(wire.FOLLOW, i, wire.field(1, LOG_STREAM) + wire.field(2, 1) + wire.field(3, 1)) for i in range(1000)), True),
    ]
    for k in range(20):
        cases.append((f"random head {k}", wire.frame(rng.choice([16, 17, 18, 19, 32, 33, 34, 35, 36, 37, 38, 39, 64, 65]), k,
                                                     rng.randbytes(rng.randrange(60)), rng.randbytes(rng.randrange(60))), True))
    return cases


def test_log_port(bench, rng):
    """Garbage to all three servers while they are under load."""
    cluster = Cluster(bench).start()
    cluster.wait_leader()
    loader = bench.spawn("appendload", ["crsc-appendload", "--servers", cluster.servers, "--stream", LOG_STREAM, "--out",
                                        bench.path("acked"), "--seconds", "8", "--rate", "500", "--timeout", "60"])
    wait_until("acknowledged appends", lambda: os.path.exists(bench.path("acked")))
    for what, data, greet in log_garbage(rng):
        for i, port in cluster.ports.items():
            got, closed = exchange(port, (wire.hello() if greet else b"") + data, timeout=20 if data else 0.2, shut=True, limit=1 << 16)
            check(got == b"" or got.startswith(b"CRS1"), "%s: logd %d answered %s", what, i, got[:100])
            check(closed or not data or len(got) >= 1 << 16, "%s: logd %d neither refused it nor closed", what, i)
            check(cluster.running[i].alive(), "%s: logd %d ended:\n%s", what, i, cluster.running[i].tail())
    refusals = [e for i in cluster.running for e in cluster.running[i].events() if e.get("msg") == "connection refused"]
    check(len(refusals) > 10 and all(e.get("reason") for e in refusals), "the log does not say why connections were refused: %s", refusals[:3])
    check(loader.wait(120) == 0, "the load met an error:\n%s", loader.tail())
    out, _ = bench.run("crsc-appendload", "--verify", "--servers", cluster.servers, "--stream", LOG_STREAM, "--out",
                       bench.path("acked"), "--timeout", "60", timeout=120)
    check(json.loads(out.splitlines()[-1])["violations"] == 0, "%s", out)


def test_log_port_errors_are_clear(bench, rng):
    """A request that is well framed and wrong is answered with a code and a sentence, and the connection goes on."""
    cluster = Cluster(bench, n=1).start()
    cluster.wait_leader()
    with wire.dial(cluster.ports[1]) as s:
        for what, kind, head in (("bad stream name", wire.OPEN_PRODUCER, wire.field(1, "no spaces, please") + wire.field(2, "p")),
                                 ("no events", wire.APPEND, wire.field(1, "s") + wire.field(2, 1) + wire.field(3, 1)),
                                 ("unknown stream", wire.READ, wire.field(1, "nobody/knows") + wire.field(2, 1))):
            s.sendall(wire.frame(kind, 9, head))
            answer = wire.receive(s)
            check(answer and answer[0] == wire.ERROR | wire.REPLY and answer[1] == 9, "%s: %s", what, answer)
            check(len(answer[2]) > 10, "%s: the refusal says nothing: %s", what, answer[2])
        s.sendall(wire.frame(wire.STATUS, 10))
        check(wire.receive(s)[:2] == (wire.STATUS | wire.REPLY, 10), "the connection does not go on")


def test_log_slow_and_many(bench, rng):
    """Connections that say nothing, byte by byte, and that never read do not keep others out."""
    cluster = Cluster(bench, n=1, flags=("--connections", "64")).start()
    cluster.wait_leader()
    held = []
    for _ in range(100):
        s = socket.create_connection(("127.0.0.1", cluster.ports[1]), timeout=60)
        held.append(s)
    for s in held:
        s.close()
    wait_until("it has noticed that they are gone", lambda: cluster.leader() == 1, 20)
    held = []

    def dial():  # until the places are free again
        s = socket.create_connection(("127.0.0.1", cluster.ports[1]), timeout=60)
        s.sendall(wire.hello())
        if wire.receive(s) is None:
            s.close()
            return False
        held.append(s)
        return True
    for _ in range(10):
        wait_until("a connection", dial, 20)
    for s in held:  # ask for much, read nothing
        s.settimeout(0.2)
        try:
            s.sendall(wire.frame(wire.STATUS, 1) * 20000)
        except OSError:
            pass
    wait_until("it still answers others", lambda: cluster.leader() == 1, 20)
    for s in held:
        s.close()


# ---- the interceptor's ports -----------------------------------------------------------------------------------------

def post(target, headers, body=b"", version=b"HTTP/1.1"):
    return b"POST " + target + b" " + version + b"\r\n" + b"".join(h + b"\r\n" for h in headers) + b"\r\n" + body


SMUGGLED = b"POST /add?id=smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
HOST = b"Host: x"
# Each must be refused: a proxy and an app could read it differently.
REFUSED = {
    "length and chunked": post(b"/add?id=bad", [HOST, b"Content-Length: 4", b"Transfer-Encoding: chunked"], b"0\r\n\r\n" + SMUGGLED),
    "chunked and length": post(b"/add?id=bad", [HOST, b"Transfer-Encoding: chunked", b"Content-Length: 4"], b"0\r\n\r\n" + SMUGGLED),
    "two lengths": post(b"/add?id=bad", [HOST, b"Content-Length: 0", b"Content-Length: %d" % len(SMUGGLED)], SMUGGLED),
    "two lengths in one": post(b"/add?id=bad", [HOST, b"Content-Length: 0, %d" % len(SMUGGLED)], SMUGGLED),
    "length with a sign": post(b"/add?id=bad", [HOST, b"Content-Length: +3"], b"abc"),
    "negative length": post(b"/add?id=bad", [HOST, b"Content-Length: -1"], b"abc"),
    "length in hex": post(b"/add?id=bad", [HOST, b"Content-Length: 0x3"], b"abc"),
    "huge length": post(b"/add?id=bad", [HOST, b"Content-Length: 99999999999999999999999"], b"abc"),
    "empty length": post(b"/add?id=bad", [HOST, b"Content-Length: "], b""),
    "chunked twice": post(b"/add?id=bad", [HOST, b"Transfer-Encoding: chunked, chunked"], b"0\r\n\r\n"),
    "chunked not last": post(b"/add?id=bad", [HOST, b"Transfer-Encoding: chunked, identity"], b"0\r\n\r\n"),
    "an unknown coding": post(b"/add?id=bad", [HOST, b"Transfer-Encoding: xchunked"], b"0\r\n\r\n" + SMUGGLED),
    "chunked with a tab": post(b"/add?id=bad", [HOST, b"Transfer-Encoding:\x0bchunked"], b"0\r\n\r\n" + SMUGGLED),
    "space before the colon": post(b"/add?id=bad", [HOST, b"Content-Length : 3"], b"abc"),
    "space in a name": post(b"/add?id=bad", [HOST, b"X Y: z"]),
    "a folded header": post(b"/add?id=bad", [HOST, b"X: a\r\n b"]),
    "no name": post(b"/add?id=bad", [HOST, b": a"]),
    "no colon": post(b"/add?id=bad", [HOST, b"nonsense"]),
    "NUL in a value": post(b"/add?id=bad", [HOST, b"X: a\0b"]),
    "a bare CR in a value": post(b"/add?id=bad", [HOST, b"X: a\rTransfer-Encoding: chunked"]),
    "no Host": post(b"/add?id=bad", []),
    "two Hosts": post(b"/add?id=bad", [HOST, b"Host: y"]),
    "HTTP/2.0": post(b"/add?id=bad", [HOST], version=b"HTTP/2.0"),
    "HTTP/9.9": post(b"/add?id=bad", [HOST], version=b"HTTP/9.9"),
    "no version": b"POST /add?id=bad\r\n\r\n",
    "a space in the target": post(b"/add?id=bad x", [HOST]),
    "a made-up method": b"FROBNICATE /add?id=bad HTTP/1.1\r\nHost: x\r\n\r\n",
    "a chunk size that is no number": post(b"/add?id=bad", [HOST, b"Transfer-Encoding: chunked"], b"zz\r\nabc\r\n0\r\n\r\n"),
    "a negative chunk size": post(b"/add?id=bad", [HOST, b"Transfer-Encoding: chunked"], b"-1\r\nabc\r\n0\r\n\r\n"),
    "a chunk size that overflows": post(b"/add?id=bad", [HOST, b"Transfer-Encoding: chunked"], b"1" + b"0" * 16 + b"\r\nabc\r\n0\r\n\r\n"),
    "a chunk longer than it says": post(b"/add?id=bad", [HOST, b"Transfer-Encoding: chunked"], b"2\r\nabcdef\r\n0\r\n\r\n"),
    "0x in a chunk size": post(b"/add?id=bad", [HOST, b"Transfer-Encoding: chunked"], b"0x2\r\nab\r\n0\r\n\r\n"),
    "a giant header": post(b"/add?id=bad", [HOST, b"X: " + b"a" * (2 << 20)]),
    "very many headers": post(b"/add?id=bad", [HOST] + [b"X-%d: y" % i for i in range(100_000)]),
    "a giant target": post(b"/" + b"a" * (2 << 20), [HOST]),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}
# These a proxy may serve or refuse, but nothing may slip through behind them.
AMBIGUOUS = {
    "bare LF": b"POST /add?id=bad HTTP/1.1\nHost: x\nContent-Length: 0\n\n",
    "LF in a chunk": post(b"/add?id=bad", [HOST, b"Transfer-Encoding: chunked"], b"3\nabc\n0\n\n"),
    "equal lengths twice": post(b"/add?id=bad", [HOST, b"Content-Length: 3", b"Content-Length: 3"], b"abc"),
    "a chunk extension": post(b"/add?id=bad", [HOST, b"Transfer-Encoding: chunked"], b"3;x=y\r\nabc\r\n0\r\n\r\n"),
    "a body on GET": b"GET /count HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "an upgrade": b"GET /count HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" ,
    "CONNECT": b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n",
}
CUT = {
    "half a head": b"POST /add?id=bad HTTP/1.1\r\nHost: x\r\nContent-Le",
    "half a body": post(b"/add?id=bad", [HOST, b"Content-Length: 100"], b"abc"),
    "half a chunk": post(b"/add?id=bad", [HOST, b"Transfer-Encoding: chunked"], b"10\r\nabc"),
    "no last chunk": post(b"/add?id=bad", [HOST, b"Transfer-Encoding: chunked"], b"3\r\nabc\r\n"),
    "nothing": b"",
}


def statuses(answer):
    """The status of every answer in these bytes, roughly: what begins a line like a status line."""
    return [int(line.split(b" ")[1]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.") and len(line.split(b" ")) > 1]


def test_data_port(bench, rng):
    cluster, front = prepare(bench, n=1)
    check(exchange(front.port, post(b"/add?id=first", [HOST, b"Connection: close"]))[0].startswith(b"HTTP/1.1 200"), "a good one")
    for what, data in REFUSED.items():
        got, closed = exchange(front.port, data, timeout=60, shut=False)
        found = statuses(got)
        check(closed, "%s: the connection stays open after %s", what, found)
        check(len(found) <= 1 and all(400 <= s < 600 for s in found), "%s: answered with %s", what, found or got[:200])
        check(front.process.alive(), "%s: the interceptor ended:\n%s", what, front.process.tail())
    for what, data in AMBIGUOUS.items():
        exchange(front.port, data.replace(b"id=bad", b"id=ambiguous"), timeout=2, shut=True)
        check(front.process.alive(), "%s: the interceptor ended:\n%s", what, front.process.tail())
    for what, data in CUT.items():
        exchange(front.port, data, timeout=2, shut=True)
        check(front.process.alive(), "%s: the interceptor ended:\n%s", what, front.process.tail())
    words = [b"POST ", b"GET ", b"/add?id=bad", b" HTTP/1.1", b"\r\n", b"\n", b"\r", b"Content-Length: ", b"Transfer-Encoding: chunked",
             b"Host: x", b"0\r\n\r\n", b"ffffffff", b"\0", b"\xff", b":", b" ", b"Expect: 100-continue", b"Connection: close", b",", b";"]
    for _ in range(300):
        exchange(front.port, b"".join(rng.choice(words) for _ in range(rng.randrange(1, 25))), timeout=0.5, shut=True)
    check(front.process.alive(), "random words: the interceptor ended:\n%s", front.process.tail())
    check(exchange(front.port, post(b"/add?id=last", [HOST, b"Connection: close"]))[0].startswith(b"HTTP/1.1 200"), "it does not go on")
    found = front.direct("GET", "/list")[2].decode().split()
    check(found[0] == "first" and found[-1] == "last", "%s", found)
    check("smuggled" not in found and "bad" not in [f for f in found if f != "ambiguous"] or found.count("bad") <= 0, "slipped through: %s", found)
    # and nothing of it is in the log either: a fresh app gets the same list
    front.app.kill()
    front.start_app()
    front.wait_active()
    check(front.direct("GET", "/list")[2].decode().split() == found, "a replay gives another list")


def test_admin_port(bench, rng):
    cluster, front = prepare(bench, n=1)
    http_cases = [
        ("POST", "/attach", "{"), ("POST", "/attach", "[]"), ("POST", "/attach", "null"), ("POST", "/attach", ""),
        ("POST", "/attach", "{}"), ("POST", "/attach", '{"identity":5,"offset":"x","upstream":7}'),
        ("POST", "/attach", '{"identity":"i","offset":-1,"upstream":"127.0.0.1:1"}'),
        ("POST", "/attach", '{"identity":"i","offset":0,"upstream":"nonsense"}'),
        ("POST", "/attach", '{"identity":"i","offset":0,"upstream":"127.0.0.1:99999"}'),
        ("POST", "/attach", '{"identity":"' + "x" * 100_000 + '","offset":0,"upstream":"127.0.0.1:1"}'),
        ("POST", "/attach", "[" * 50_000), ("POST", "/attach", "\xff\xfe"),
        ("POST", "/checkpoint", "{"), ("POST", "/checkpoint", "{}"), ("POST", "/checkpoint", '{"token":""}'),
        ("POST", "/checkpoint", '{"token":"t","lease_ms":-5,"drain_ms":1e99}'),
        ("POST", "/checkpoint", '{"token":"t","lease_ms":"soon"}'),
        ("POST", "/resume", "{"), ("POST", "/resume", '{"token":"nobody has this"}'), ("POST", "/resume", "{}"),
        ("GET", "/nothing", None), ("DELETE", "/status", None), ("GET", "/attach", None), ("POST", "/status", "{}"),
        ("POST", "/checkpoint", "x" * (4 << 20)),
    ]
    for method, path, body in http_cases:
        what = f"{method} {path} {str(body)[:60]}"
        try:
            connection = http.client.HTTPConnection("127.0.0.1", front.admin_port, timeout=60)
            connection.request(method, path, body.encode("latin-1") if body is not None else None)
            answer = connection.getresponse()
            data = answer.read()
            check(400 <= answer.status < 500, "%s: answered with %d %s", what, answer.status, data[:200])
            check(len(data) > 3, "%s: %d, and no word why", what, answer.status)
        except (BrokenPipeError, ConnectionResetError):
            pass  # closed before all of a body over the limit was sent
        finally:
            connection.close()
        check(front.process.alive(), "%s: the interceptor ended:\n%s", what, front.process.tail())
        front.wait_active()
    for what, data in {**REFUSED, **CUT}.items():
        got, _ = exchange(front.admin_port, data.replace(b"/add?id=bad", b"/resume"), timeout=2, shut=True)
        check(not any(200 <= s < 300 for s in statuses(got)), "%s: answered with %s", what, statuses(got))
        check(front.process.alive(), "%s: the interceptor ended:\n%s", what, front.process.tail())
    check(exchange(front.port, post(b"/add?id=last", [HOST, b"Connection: close"]))[0].startswith(b"HTTP/1.1 200"), "it does not go on")


# ---- configuration ---------------------------------------------------------------------------------------------------

def test_configuration(bench, rng):
    """Every program: an unknown name, a value out of range, a file that is no YAML: status 2 and a sentence that names it."""
    def file(name, text, mode="w"):
        with open(bench.path(name), mode) as f:
            f.write(text)
        return bench.path(name)
    bad_yaml = file("bad.yaml", "a: [1, 2\n b: }\n\t- x")
    unknown = file("unknown.yaml", "frobnicate: 3\n")
    binary = file("binary.yaml", rng.randbytes(3000), "wb")
    nested = file("nested.yaml", "listen:\n  deep: 1\n")
    sequence = file("list.yaml", "- 1\n- 2\n")
    daemons = {
        "crsc-logd": ["--data-dir", bench.path("never")],
        "crsc-interceptor": ["--stream", STREAM, "--servers", "127.0.0.1:1"],
        "crsc-operator": ["--servers", "127.0.0.1:1", "--state-dir", bench.path("never")],
    }
    common = [(["--frobnicate", "1"], "frobnicate"), (["--config", bench.path("missing")], "missing"), (["--config", bad_yaml], "bad.yaml"),
              (["--config", unknown], "frobnicate"), (["--config", binary], "binary.yaml"), (["--config", nested], "listen|nested"),
              (["--config", sequence], "list.yaml"), (["--log-level", "loud"], "log-level"), (["nonsense"], "nonsense"), (["--config"], "config")]
    own = {
        "crsc-logd": [(["--id", "0"], "id"), (["--id", "abc"], "id"), (["--id", "99999999999999999999"], "id"),
                      (["--listen", "nowhere"], "listen|nowhere"), (["--listen", "127.0.0.1:99999"], "port|listen|99999"),
                      (["--initial-cluster", "1=a:1,1=b:2"], "twice"), (["--initial-cluster", "2=127.0.0.1:1"], "id"),
                      (["--initial-cluster", ",,,"], "initial-cluster"), (["--segment-size", "5"], "segment-size"),
                      (["--segment-size", "65537"], "4096"), (["--election-timeout", "soon"], "election-timeout"),
                      (["--election-timeout", "1"], "election-timeout"), (["--cluster", ""], "cluster"),
                      (["--heartbeat", "9s"], "heartbeat")],
        "crsc-interceptor": [(["--listen", "nowhere"], "listen|nowhere"), (["--admin-listen", "127.0.0.1:99999"], "admin|port|99999"),
                             (["--servers", ""], "servers"), (["--stream", "bad name\n"], "stream")],
        "crsc-operator": [(["--workload", bench.path("missing")], "missing"), (["--workload", bad_yaml], "bad.yaml"),
                          (["--workload", unknown], "frobnicate"), (["--workload", binary], "binary.yaml"),
                          (["--workload", file("w1.yaml", "name: x\ncheckpoint-interval: often\n")], "checkpoint-interval|w1.yaml"),
                          (["--workload", file("w2.yaml", "name: x\n")], "w2.yaml|stream|bundle|required|missing"),
                          (["--workload", file("w3.yaml", "name: '../../x y'\nstream: a\nbundle: /\nupstream: 127.0.0.1:1\ninterceptor: 127.0.0.1:2\n")], "name")],
    }
    needed = {"crsc-operator": ["--workload", file("good.yaml", f"name: x\nstream: {STREAM}\nbundle: /nowhere\n"
                                                   "upstream: 127.0.0.1:1\ninterceptor: 127.0.0.1:2\n")]}
    for program, base in daemons.items():
        for argv, words in [(needed.get(program, []) + argv, words) for argv, words in common] + own[program]:
            _, err = bench.run(program, *base, *argv, status=2)
            check(re.search(words, err), "%s %s: it does not name what is wrong (/%s/): %s", program, argv, words, err)
        out, _ = bench.run(program, "--help")
        check("--config" in out and "Exit status" in out, "%s --help teaches too little:\n%s", program, out)
        out, _ = bench.run(program, "--version")
        check(program in out, "%s --version: %s", program, out)
    for argv, status in ((["--frobnicate"], 2), ([], 2), (["frobnicate"], 2), (["--servers", "nowhere", "status"], 2),
                         (["--servers", "127.0.0.1:1", "--timeout", "300ms", "status"], 3), (["events"], 2),
                         (["events", "x", "--from", "0"], 2), (["--output", "xml", "status"], 2)):
        _, err = bench.run("crsc-logctl", *argv, status=status)
        check(len(err) > 5, "crsc-logctl %s: ends with %d and no word why", argv, status)
    check(not os.path.exists(bench.path("never")), "a program with a wrong configuration made its data directory")


if __name__ == "__main__":
    main([test_log_port, test_log_port_errors_are_clear, test_log_slow_and_many, test_data_port, test_admin_port, test_configuration])
