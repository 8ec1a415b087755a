#!/usr/bin/env python3
"""crsc-logd with certificates: who gets in, what each role may do on the wire, and new certificates under load."""
import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import time

from harness import ROOT, Cluster, check, main, wait_until
from wire import ERROR, HELLO, OPEN_PRODUCER, RAFT, READ, REPLY, STATUS, field, frame, hello, receive

MAKE = os.path.join(ROOT, "scripts", "make-certs")


def make_certs(bench, *argv, options=(), name="certs"):
    directory = bench.path(name)
    done = subprocess.run([MAKE, *options, directory, *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    check(done.returncode == 0, "make-certs: %s", done.stdout)
    return directory


@contextlib.contextmanager
def identity(certs, name, ca="ca"):
    """Programs started meanwhile are this client."""
    names = {"CRSC_TLS_CA": f"{certs}/{ca}.pem", "CRSC_TLS_CERT": f"{certs}/{name}.pem", "CRSC_TLS_KEY": f"{certs}/{name}.key"} if name else {}
    before = dict(os.environ)
    os.environ.update(names)
    try:
        yield
    finally:
        for key in names:
            os.environ.pop(key)
        os.environ.update({k: v for k, v in before.items() if k in names})


def logctl(bench, cluster, *argv, status=0, timeout="60s"):
    return bench.run("crsc-logctl", "--servers", cluster.servers, "--timeout", timeout, *argv, status=status)


def load(bench, cluster, stream, tag, status=0, seconds=0.4, rate=1000):
    out, err = bench.run("crsc-appendload", "--servers", cluster.servers, "--stream", stream, "--out", bench.path(f"acked-{tag}"), "--seconds",
                         str(seconds), "--rate", str(rate), "--timeout", "60", status=status, timeout=120)
    return json.loads(out.splitlines()[-1])["acked"], err


def verify(bench, cluster, stream, tag):
    out, _ = bench.run("crsc-appendload", "--verify", "--servers", cluster.servers, "--stream", stream, "--out", bench.path(f"acked-{tag}"),
                       "--timeout", "60", timeout=120)
    check(json.loads(out.splitlines()[-1])["violations"] == 0, "%s", out)


def dial(port, certs, name, protocol=None, ca="ca", version=ssl.TLSVersion.TLSv1_3):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    context.load_verify_locations(f"{certs}/{ca}.pem")
    if name:
        context.load_cert_chain(f"{certs}/{name}.pem", f"{certs}/{name}.key")
    if protocol:
        context.set_alpn_protocols([protocol])
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=60), server_hostname="127.0.0.1")


def refused(f):
    """It ends in an alert or a close, whichever way the kernel shows it."""
    try:
        return f() is None
    except OSError:
        return True


def ask(s, kind, head, number=9):
    """The answer's type and head."""
    s.sendall(frame(kind, number, head))
    kind, _, head, _ = receive(s)
    return kind, head


def test_roles_on_the_wire(bench, rng):
    certs = make_certs(bench)
    make_certs(bench, "client", "shop", "producer/shop/*", "reader/shop/*")
    cluster = Cluster(bench, certs=certs).start()
    with identity(certs, "admin"):
        leader = cluster.wait_leader()
        status = json.loads(logctl(bench, cluster, "--output", "json", "status")[0])
        check(len(status["servers"]) == 3 and all(s["reachable"] for s in status["servers"]), "%s", status)
        check(load(bench, cluster, "bank/vault", "bank")[0] > 0, "admin may append")
        verify(bench, cluster, "bank/vault", "bank")
    with identity(certs, "shop"):
        check(load(bench, cluster, "shop/cart", "shop")[0] > 0, "its own stream")
        verify(bench, cluster, "shop/cart", "shop")
        acked, _ = load(bench, cluster, "bank/vault", "no", status=1)
        check(acked == 0, "another's stream")
        streams = [s["name"] for s in json.loads(logctl(bench, cluster, "--output", "json", "streams")[0])["streams"]]
        check(streams == ["shop/cart-0"], "it sees its own streams only, not %s", streams)
        logctl(bench, cluster, "tail", "bank/vault-0", status=4)  # for it there is no such stream
        _, err = logctl(bench, cluster, "trim", "shop/cart-0", "--to", "5", "--force", status=1)
        check("denied" in err, "%s", err)
    with identity(certs, "reader"):
        check("bank/vault-0" in logctl(bench, cluster, "streams")[0], "a reader of all")
        logctl(bench, cluster, "tail", "bank/vault-0")
        acked, _ = load(bench, cluster, "bank/vault", "no", status=1)
        check(acked == 0, "a reader appended")
    with identity(certs, "operator"):
        logctl(bench, cluster, "trim", "shop/cart-0", "--to", "5", "--force")
        acked, _ = load(bench, cluster, "bank/vault", "no", status=1)
        check(acked == 0, "the operator appended")
    # a client's certificate makes no server, whatever it says in its HELLO
    for name, protocol in (("admin", None), ("admin", "crsc"), ("shop", "crsc-peer"), ("server-1", None)):
        s = dial(cluster.ports[leader], certs, name, protocol)
        s.sendall(hello("test", node=1 if leader != 1 else 2))
        answer = receive(s)
        check(answer is not None and answer[0] == ERROR | REPLY, "%s with %s was greeted as a server", name, protocol)
        s.close()
    # and one server is not another: over the right protocol, with a good certificate
    other = next(i for i in (1, 2, 3) if i != leader)
    third = next(i for i in (1, 2, 3) if i not in (leader, other))
    s = dial(cluster.ports[leader], certs, f"server-{other}", "crsc-peer")
    s.sendall(hello("test", node=third))
    answer = receive(s)
    check(answer[0] == ERROR | REPLY and b"crsc://role/peer/" in answer[2], "server %d passed for server %d: %s", other, third, answer)
    s.close()
    # while in its own name, with its own data directory, it may
    with open(os.path.join(cluster.data(other), "identity"), encoding="ascii") as f:
        instance = f.read().split()[-1]
    s = dial(cluster.ports[leader], certs, f"server-{other}", "crsc-peer")
    s.sendall(hello("test", node=other, instance=instance))
    check(receive(s)[0] == HELLO | REPLY, "server %d was refused in its own name", other)
    s.close()
    # requests between servers are for no client
    s = dial(cluster.ports[leader], certs, "admin")
    s.sendall(hello("test"))
    check(receive(s)[0] == HELLO | REPLY, "admin is greeted")
    kind, head = ask(s, RAFT, field(1, 2) + field(2, 1))
    check(kind == ERROR | REPLY and b"nobody" in head, "%s %s", kind, head)
    shop = dial(cluster.ports[leader], certs, "shop")
    shop.sendall(hello())
    receive(shop)
    kind, head = ask(shop, READ, field(1, "bank/vault-0") + field(2, 1))
    check(kind == ERROR | REPLY and b"reader/..." in head, "the refusal says what is needed: %s", head)
    shop.close()
    kind, head = ask(s, OPEN_PRODUCER, field(1, "x") + field(2, "p") + field(1, "y"))
    check(kind == ERROR | REPLY and b"checked" in head, "a stream named twice: %s", head)
    check(ask(s, STATUS, b"")[0] == STATUS | REPLY, "and the connection goes on")
    s.close()
    with identity(certs, "admin"):
        wait_until("a leader after all that", cluster.leader)


def test_who_is_not_let_in(bench, rng):
    certs = make_certs(bench)
    others = make_certs(bench, name="others")
    make_certs(bench, "client", "expired", "admin", options=["--days", "0"])
    cluster = Cluster(bench, n=1, certs=certs).start()
    port = cluster.ports[1]

    def greets(*argv, **named):
        s = dial(*argv, **named)
        s.sendall(hello())
        return receive(s)
    check(greets(port, certs, "admin")[0] == HELLO | REPLY, "a good one")
    check(refused(lambda: greets(port, certs, None)), "without a certificate")
    check(refused(lambda: greets(port, certs, "admin", version=ssl.TLSVersion.TLSv1_2)), "TLS 1.2")
    check(refused(lambda: greets(port, certs, "admin", protocol="http/1.1")), "another protocol")
    time.sleep(1.1)  # good until the second in which it was made
    check(refused(lambda: greets(port, certs, "expired")), "an expired certificate")
    for name in ("admin", "server-1"):
        os.replace(f"{others}/{name}.pem", f"{certs}/strange-{name}.pem")
        os.replace(f"{others}/{name}.key", f"{certs}/strange-{name}.key")
        check(refused(lambda n=name: greets(port, certs, f"strange-{n}")), "a certificate of another CA")
    with socket.create_connection(("127.0.0.1", port), timeout=60) as s:
        s.sendall(hello())
        check(refused(lambda: receive(s)), "no TLS at all")
    for words in ("shows no certificate", "does not speak TLS 1.3", "certificate has expired", "is not accepted: unable to get local issuer",
                  "does not speak TLS"):
        wait_until(f"logd says \"{words}\"", lambda w=words: any(w in e.get("reason", "") for e in cluster.running[1].events()))
    # the tools say what is wrong, in a time that can be waited for
    enough = "10s" if bench.build.sanitized else "4s"  # for handshakes on a machine that does much else
    for name, ca, words in (("expired", "ca", "does not accept our certificate"), (None, None, "handshake|closed|does not answer"),
                            ("strange-admin", "ca", "does not accept our certificate")):
        with identity(certs, name, ca):
            _, err = logctl(bench, cluster, "streams", status=3, timeout=enough)
            check(re.search(words, err), "nothing like /%s/ in %s", words, err)
    with identity(others, "operator"):
        _, err = logctl(bench, cluster, "streams", status=3, timeout=enough)
        check("certificate is not accepted" in err, "%s", err)
    with identity(certs, "admin"):
        os.environ["CRSC_TLS_NAME"] = "logd.example"
        try:
            _, err = logctl(bench, cluster, "streams", status=3, timeout=enough)
        finally:
            del os.environ["CRSC_TLS_NAME"]
        check("is not for \"logd.example\"" in err, "%s", err)
        _, err = bench.run("crsc-logctl", "--servers", cluster.servers, "--tls-key", f"{certs}/none.key", "status", status=None)
        check("none.key" in err, "%s", err)


def test_separate_cas(bench, rng):
    """Servers among themselves by a CA of their own: the clients' CA cannot make a server, nor the servers' a client."""
    certs = make_certs(bench, options=["--separate-cas"])
    cluster = Cluster(bench, certs=certs).start()
    with identity(certs, "admin"):
        cluster.wait_leader()
    with identity(certs, "app"):
        check(load(bench, cluster, "a", "a")[0] > 0, "app may append")
        verify(bench, cluster, "a", "a")
    make_certs(bench, "server", "2", "127.0.0.1", name="certs")  # by the clients' CA, and named crsc://role/peer/2
    check(refused(lambda: dial(cluster.ports[1], certs, "server-2", "crsc-peer", ca="peer-ca").recv(1) or None), "a server made by the clients' CA")
    check(refused(lambda: dial(cluster.ports[1], certs, "server-2-peer", "crsc").recv(1) or None), "a client made by the servers' CA")
    # a server with another's certificate is left alone by the others, and says so
    cluster.kill(3)
    for end in ("pem", "key"):
        os.replace(f"{certs}/server-2-peer.{end}", f"{certs}/server-3-peer.{end}")
    cluster.start(3)
    for i in (1, 2, 3):
        wait_until(f"server {i} complains", lambda i=i: any("crsc://role/peer/3" in e.get("reason", "") for e in cluster.running[i].events()))
    with identity(certs, "admin"):
        check(cluster.wait_leader() != 3, "it leads without being known")


def serial(port, certs):
    with dial(port, certs, "admin") as s:
        return s.getpeercert()["serialNumber"]


def test_new_certificates_under_load(bench, rng):
    certs = make_certs(bench)
    cluster = Cluster(bench, certs=certs).start()
    with identity(certs, "admin"):
        leader = cluster.wait_leader()
    with identity(certs, "app"):
        loader = bench.spawn("appendload", ["crsc-appendload", "--servers", cluster.servers, "--stream", "roll", "--out", bench.path("acked-roll"),
                                            "--seconds", "5", "--rate", "500", "--timeout", "60"])
    wait_until("an acknowledged append", lambda: os.path.exists(bench.path("acked-roll")) and os.path.getsize(bench.path("acked-roll")) > 0)
    before = {i: serial(cluster.ports[i], certs) for i in cluster.ports}
    make_certs(bench)  # all anew, by the same CA
    for process in cluster.running.values():
        os.kill(process.pid, signal.SIGHUP)
    for i, port in cluster.ports.items():
        cluster.running[i].wait_for("TLS files loaded again")
        check(serial(port, certs) != before[i], "server %d still shows the old certificate", i)
    # by themselves, when the files change
    before = serial(cluster.ports[leader], certs)
    make_certs(bench, "server", str(leader), "127.0.0.1", "localhost")
    wait_until("the leader shows its newest certificate", lambda: serial(cluster.ports[leader], certs) != before, pause=0.2)
    # files that are not good change nothing
    start = len(cluster.running[leader].events())
    with open(f"{certs}/server-{leader}.key", "r+", encoding="ascii") as f:
        good = f.read()
        f.seek(0)
        f.write("garbage")
        f.truncate()
    cluster.running[leader].wait_for("TLS files cannot be loaded: the old ones stay in use", start=start)
    serial(cluster.ports[leader], certs)
    with open(f"{certs}/server-{leader}.key", "w", encoding="ascii") as f:
        f.write(good)
    check(loader.wait(120) == 0, "an append failed:\n%s", loader.tail())
    # and a server that comes back finds the others, all with new certificates
    cluster.kill(leader)
    cluster.start(leader)
    with identity(certs, "app"):
        verify(bench, cluster, "roll", "roll")


def test_plaintext_is_for_loopback(bench, rng):
    def start(*flags, status=2):
        return bench.run("crsc-logd", "--data-dir", bench.path("never"), *flags, status=status)[1]
    err = start("--listen", "0.0.0.0:0")
    check("no TLS" in err and "allow-plaintext" in err, "%s", err)
    err = start("--listen", "[::]:0")
    check("no TLS" in err, "%s", err)
    check(not os.path.exists(bench.path("never")), "it made its data directory")
    certs = make_certs(bench)
    tls = ["--tls-ca", f"{certs}/ca.pem", "--tls-cert", f"{certs}/server-1.pem", "--tls-key", f"{certs}/server-1.key"]
    check("go together" in start(*tls[:4]), "a part of the TLS settings")
    check("tls-peer" in start("--tls-peer-ca", f"{certs}/ca.pem"), "peers' TLS alone")
    check("none.pem" in start(*tls[:2], "--tls-cert", f"{certs}/none.pem", *tls[4:], status=1), "a file that is not there")
    check("does not belong" in start(*tls[:4], "--tls-key", f"{certs}/server-2.key"), "another's key")
    for flags in ([*tls], ["--allow-plaintext"]):
        server = bench.spawn("open", ["crsc-logd", "--listen", "0.0.0.0:0", "--data-dir", bench.path("open"), "--segment-size", "64KiB", *flags])
        server.wait_for("ready")
        check(server.stop() == 0, "it did not stop cleanly")


def test_limits_of_a_connection(bench, rng):
    cluster = Cluster(bench, n=1, flags=["--client-idle", "3s", "--client-frame-max", "9MiB", "--client-requests", "16"]).start()
    cluster.wait_leader()
    port = cluster.ports[1]

    def connect(greet=True):
        s = socket.create_connection(("127.0.0.1", port), timeout=60)
        if greet:
            s.sendall(hello())
            receive(s)
        return s
    with connect(False) as s:
        check(refused(lambda: s.sendall(frame(HELLO, 1, b"\x0a\xff\xff\x07" + b"x" * 100000)) or receive(s)), "100 kB as the first frame")
    with connect() as s:
        s.sendall(frame(READ, 2, b"", body_len=10 << 20)[:32])
        check(refused(lambda: receive(s)), "a frame of 10 MiB")
    with connect() as s:
        begun = time.monotonic()
        kind, _, head, _ = receive(s)
        check(kind == ERROR | REPLY and b"client-idle" in head and time.monotonic() - begun >= 3, "silence: %s", head)
        check(receive(s) is None, "and it is closed")
    # more requests than may be open are all answered, in time
    with connect() as s:
        s.sendall(b"".join(frame(STATUS, 10 + k, field(1, 1)) for k in range(500)))
        check(sorted(receive(s)[1] for _ in range(500)) == list(range(10, 510)), "500 answers to 500 requests")
    check(load(bench, cluster, "limits", "limits", seconds=3)[0] > 0, "libcrsc lives with the smallest limits")


main([test_roles_on_the_wire, test_who_is_not_let_in, test_separate_cas, test_new_certificates_under_load, test_plaintext_is_for_loopback,
      test_limits_of_a_connection])
