#!/usr/bin/env python3
"""What crsc-logd shows to those who watch: /metrics as Prometheus reads it, /healthz, /readyz that means it, SIGUSR1."""
import contextlib
import http.client
import json
import math
import os
import re
import signal
import socket
import ssl
import subprocess
import time

import wire
from harness import ROOT, Cluster, check, main, wait_until

SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(.*)\})? (\S+)$')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)')


def get(port, path, tls=None, timeout=60):
    c = http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout, context=tls) if tls else \
        http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        c.request("GET", path)
        answer = c.getresponse()
        return answer.status, answer.getheader("Content-Type"), answer.read().decode()
    finally:
        c.close()


def parse(text):
    """What `promtool check metrics` looks at, and more: {(name, labels): value}."""
    types, helps, samples, family = {}, {}, {}, None
    check(text.endswith("\n"), "the last line has no end")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            _, _, name, words = line.split(" ", 3)
            check(name not in helps and words, "%s: help twice, or none", name)
            helps[name] = words
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            check(name not in types, "%s has two types", name)
            check(kind in ("counter", "gauge", "histogram"), "%s is a %s", name, kind)
            types[name], family = kind, name
        else:
            found = SAMPLE.match(line)
            check(found, "not a sample: %s", line)
            name, labels = found[1], found[3] or ""
            pairs = LABEL.findall(labels)
            check(",".join(f'{k}="{v}"' for k, v in pairs) == labels, "labels: %s", line)
            base = re.sub("_(bucket|sum|count)$", "", name) if types[family] == "histogram" else name
            check(base == family, "%s is among the samples of %s", name, family)
            value = float(found[4])
            key = (name, tuple(sorted(pairs)))
            check(key not in samples, "%s is there twice", line)
            check(not math.isnan(value) and value >= 0, "%s", line)
            samples[key] = value
    check(set(types) == set(helps), "types and helps: %s", set(types) ^ set(helps))
    for name, kind in types.items():
        check(kind != "counter" or name.endswith("_total") or name.endswith("_index") or name.endswith("_term"), "a counter is named %s", name)
        check(not name.endswith("_total") or kind == "counter", "%s is a %s", name, kind)
        if kind == "histogram":
            buckets = [(float(dict(labels)["le"]), v) for (n, labels), v in samples.items() if n == name + "_bucket"]
            check(buckets == sorted(buckets) and buckets[-1][0] == math.inf, "%s: bounds out of order", name)
            check([v for _, v in buckets] == sorted(v for _, v in buckets), "%s: not cumulative", name)
            check(buckets[-1][1] == samples[(name + "_count", ())], "%s: +Inf is not the count", name)
    return samples


def scrape(port, tls=None):
    status, kind, text = get(port, "/metrics", tls)
    check(status == 200 and kind.startswith("text/plain; version=0.0.4"), "%d %s", status, kind)
    return parse(text)


class Watched(Cluster):
    def argv(self, i):
        return [*super().argv(i), "--metrics-listen", "127.0.0.1:0"]

    def port(self, i):
        return int(self.running[i].wait_for("ready")["metrics"].rsplit(":", 1)[1])


def steady(bench):
    """All are connected to all, and a busy machine alone moves no leadership: (cluster, leader)."""
    cluster = Watched(bench, flags=["--election-timeout", "5s"]).start()
    for i in cluster.running:
        for p in cluster.running:
            wait_until(f"{i} is connected to {p}", lambda i=i, p=p: i == p or scrape(cluster.port(i)).get(("crsc_logd_peer_connected", (("peer", str(p)),))) == 1, 60)
    return cluster, cluster.wait_leader()


def ready(cluster, i, wanted):
    status, _, text = get(cluster.port(i), "/readyz")
    check(status in (200, 503) and (status == 200) == (text == "ready\n"), "%d %s", status, text)
    return (status == 200) == wanted and text


def test_metrics(bench, rng):
    cluster, leader = steady(bench)
    before = {i: scrape(cluster.port(i)) for i in cluster.running}
    out, _ = bench.run("crsc-appendload", "--servers", cluster.servers, "--stream", "m", "--out", bench.path("acked"), "--seconds", "1", "--rate", "800",
                       "--producers", "3")
    acked = json.loads(out.splitlines()[-1])["acked"]
    bench.run("crsc-logctl", "--servers", cluster.servers, "tail", "none", status=4)
    wait_until("the followers have applied it", lambda: len({scrape(cluster.port(i))[("crsc_logd_applied_index", ())] for i in cluster.running}) == 1)
    after = {i: scrape(cluster.port(i)) for i in cluster.running}
    for i, m in after.items():
        one = lambda name, **labels: m[(name, tuple(sorted(labels.items())))]  # pylint: disable=cell-var-from-loop
        leads = i == leader
        check(one("crsc_logd_info", cluster="test", id=str(i), version="0.1.0") == 1, "info")
        check(one("crsc_logd_role", role="leader" if leads else "follower") == 1, "role of %d", i)
        check(one("crsc_logd_role", role="follower" if leads else "leader") == 0, "role of %d", i)
        check(one("crsc_logd_leader_id") == leader and one("crsc_logd_has_leader") == 1, "leader")
        check(one("crsc_logd_streams") == 3, "streams")
        check(one("crsc_logd_fsync_seconds_count") > before[i][("crsc_logd_fsync_seconds_count", ())], "%d did not sync", i)
        check(one("crsc_logd_apply_seconds_count") > before[i][("crsc_logd_apply_seconds_count", ())], "%d did not apply", i)
        check(one("crsc_logd_connections", kind="peer") == 2, "peers of %d", i)
        for p in cluster.running:
            if p != i:
                check(one("crsc_logd_peer_connected", peer=str(p)) == 1, "%d is connected to %d", i, p)
        check((("crsc_logd_peer_lag_entries", (("peer", str(1 if leader != 1 else 2)),)) in m) == leads, "lag is the leader's to tell")
        check(one("crsc_logd_disk_bytes") >= one("crsc_logd_disk_free_bytes") > 0 and one("crsc_logd_wal_bytes") > 0, "disk")
        check(one("process_resident_memory_bytes") > 1 << 20 and one("process_open_fds") > 5, "process")
    lead = after[leader]
    check(lead[("crsc_logd_append_seconds_count", ())] >= 1, "appends were answered")
    frames = lead[("crsc_logd_requests_total", (("type", "append"),))]
    check(0 < frames <= acked and lead[("crsc_logd_append_seconds_count", ())] >= frames, "%d appends of %d events", frames, acked)
    check(lead[("crsc_logd_append_seconds_sum", ())] > 0, "in no time at all")
    refused = sum(after[i][("crsc_logd_refusals_total", (("code", "not-leader"),))] for i in after if i != leader)
    check(refused >= 0, "refusals")
    check(get(cluster.port(1), "/nothing")[0] == 404, "an unknown path")


def test_ready_means_that_it_can_commit(bench, rng):
    cluster = Watched(bench).start()
    leader = cluster.wait_leader()
    for i in (1, 2, 3):
        wait_until(f"server {i} is ready", lambda i=i: ready(cluster, i, True))
        check(get(cluster.port(i), "/healthz")[::2] == (200, "ok\n"), "healthz")
    # without a majority: alive, and not ready, whoever asks; the leader does not know it yet when it is asked first
    others = [i for i in (1, 2, 3) if i != leader]
    for i in others:
        cluster.running[i].pause()
    text = ready(cluster, leader, False)
    check(text and "not ready: " in text, "the leader alone says: %s", text)
    check(get(cluster.port(leader), "/healthz")[0] == 200, "it is alive")
    cluster.running[others[0]].resume()
    for i in (leader, others[0]):
        wait_until(f"server {i} is ready with two of three", lambda i=i: ready(cluster, i, True))
    # a follower whose leader is gone is ready again only with a new one
    cluster.running[others[1]].resume()
    wait_until("all are there", lambda: ready(cluster, others[1], True))
    leader = cluster.wait_leader()
    others = [i for i in (1, 2, 3) if i != leader]
    cluster.kill(leader)
    for i in others:
        wait_until(f"server {i} is ready under a new leader", lambda i=i: ready(cluster, i, True))
    cluster.kill(others[0])
    wait_until("one of three is not ready", lambda: ready(cluster, others[1], False))
    cluster.start(others[0])
    for i in others:
        wait_until(f"server {i} is ready again", lambda i=i: ready(cluster, i, True))


def test_state_dump(bench, rng):
    cluster, leader = steady(bench)
    os.kill(cluster.running[leader].pid, signal.SIGHUP)  # nothing to read again, and nothing happens
    os.kill(cluster.running[leader].pid, signal.SIGUSR1)
    state = cluster.running[leader].wait_for("state")
    check(state["role"] == "leader" and state["id"] == leader and state["applied"] >= 1 and state["peers"] == 2, "%s", state)
    for i in (1, 2, 3):
        if i != leader:
            peer = cluster.running[leader].wait_for("state of peer", peer=i)
            check(peer["connected"] == 1 and peer["address"] == cluster.addresses[i], "%s", peer)


def test_readers_that_stop(bench, rng):
    """Who follows a stream and takes nothing costs the server no more than what it may queue for a connection (follow.h), however much it asked for."""
    readers, events, size, bound = 6, 400, 64 << 10, 3 << 20
    cluster = Watched(bench, n=1).start()
    cluster.wait_leader()
    bench.run("crsc-appendload", "--servers", cluster.servers, "--stream", "much", "--out", "/dev/null", "--size", str(size), "--count", str(events), "--seconds", "120")
    with contextlib.ExitStack() as stack:
        for _ in range(readers):
            s = stack.enter_context(socket.socket())
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
            s.connect(("127.0.0.1", cluster.ports[1]))
            s.sendall(wire.hello() + wire.frame(wire.FOLLOW, 1, wire.field(1, "much-0") + wire.field(2, 1) + wire.field(3, 64 << 20)))
        queued = lambda: scrape(cluster.port(1))[("crsc_logd_reply_queue_bytes", ())]  # noqa: E731
        wait_until("each has something queued", lambda: queued() > readers * (512 << 10))
        for _ in range(20):
            check(queued() <= readers * bound, "%d bytes queued for %d readers", queued(), readers)
            time.sleep(0.05)
    wait_until("what was queued goes with the connections", lambda: queued() == 0)


def test_metrics_over_tls(bench, rng):
    certs = bench.path("certs")
    done = subprocess.run([os.path.join(ROOT, "scripts", "make-certs"), certs], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    check(done.returncode == 0, "%s", done.stdout)
    cluster = Watched(bench, n=1, certs=certs, flags=["--metrics-tls"]).start()
    tls = ssl.create_default_context(cafile=f"{certs}/ca.pem")
    samples = scrape(cluster.port(1), tls)
    expiry = samples[("crsc_logd_tls_certificate_expiry_seconds", ())]
    check(expiry > samples[("process_start_time_seconds", ())] + 300 * 86400, "it ends at %d", expiry)
    wait_until("ready", lambda: get(cluster.port(1), "/readyz", tls)[0] == 200)
    try:
        get(cluster.port(1), "/healthz", ssl.create_default_context())
    except ssl.SSLCertVerificationError:
        return
    check(False, "the certificate was believed without its CA")


main([test_metrics, test_ready_means_that_it_can_commit, test_state_dump, test_readers_that_stop, test_metrics_over_tls])
