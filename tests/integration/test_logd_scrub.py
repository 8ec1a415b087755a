#!/usr/bin/env python3
"""Bytes that change on a disk are found, never served, and fetched from the other servers: by the scrub, and by readers that meet them first; in old segments,
in Raft's part of the log, on followers and on the leader, on several servers at once."""
import contextlib
import glob
import json
import os
import re
import time
import urllib.request

import wire
from harness import Cluster, check, main, wait_until

STREAM = "scrub"
# Old segments, which are only read from, after a few MB; small caches, so that reads go to the disk.
FLAGS = ["--segment-size", "256KiB", "--log-keep", "256KiB", "--log-keep-max", "4MiB", "--index-commit", "20ms", "--cache-size", "1MiB"]
# All of it is Raft's.
RAFT = ["--segment-size", "256KiB", "--log-keep", "64MiB", "--log-keep-max", "64MiB", "--cache-size", "1MiB"]
STEADY = ["--election-timeout", "5s"]  # where it matters who leads: a busy machine alone moves nothing
NEVER, ALWAYS = ["--scrub-interval", "0s"], ["--scrub-interval", "300ms", "--scrub-rate", "0"]
UNAVAILABLE, CORRUPT = 8, 3


class Watched(Cluster):
    def argv(self, i):
        return [*super().argv(i), "--metrics-listen", "127.0.0.1:0"]

    def metric(self, i, name):
        with urllib.request.urlopen(f"http://{self.running[i].wait_for('ready')['metrics']}/metrics", timeout=60) as answer:
            return float(re.search(rf"^crsc_logd_{name} (\S+)$", answer.read().decode(), re.M)[1])


def load(bench, cluster, tag="x", count=6000, servers=None, size=700, window=16, seconds=60):
    out, _ = bench.run("crsc-appendload", "--servers", servers or cluster.servers, "--stream", f"{STREAM}-{tag}", "--out", bench.path(f"acked-{tag}"), "--seconds",
                       str(seconds), "--count", str(count), "--size", str(size), "--window", str(window), "--timeout", "60", timeout=180)
    check(json.loads(out.splitlines()[-1])["acked"] > 0, "nothing was acknowledged")


def verify(bench, cluster, tag="x", servers=None):
    """Every event, on every server by itself: L1 to L3."""
    out, _ = bench.run("crsc-appendload", "--verify", "--servers", servers or cluster.servers, "--stream", f"{STREAM}-{tag}", "--out", bench.path(f"acked-{tag}"),
                       "--timeout", "60", timeout=180)
    check(json.loads(out.splitlines()[-1])["violations"] == 0, "%s", out)


def segments(cluster, i):
    return sorted(glob.glob(os.path.join(cluster.data(i), "wal", "*.seg")))


def names(cluster, i):
    return [os.path.basename(p) for p in segments(cluster, i)]


def status(cluster, i):
    """What it says of itself. A busy machine may keep it from answering in time once; it is asked again."""
    def look():
        return next((s for s in cluster.status()["servers"] if s.get("id") == i and s["reachable"]), None)
    return wait_until(f"logd {i} says how it is", look, 60, 0.05)


def alarm(cluster, i):
    return status(cluster, i).get("alarm")


def change(path, at, data):
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(data)


def records(path):
    """(position, header, length) of each record of a segment, by its magic and its length: docs in logd/wal/segment.h."""
    with open(path, "rb") as f:
        data = f.read()
    at, found = 4096, []
    while at + 56 <= len(data) and data[at:at + 4] == b"REC1" and int.from_bytes(data[at + 12:at + 14], "little") != 3:
        length = int.from_bytes(data[at + 8:at + 12], "little")
        found.append((at, data[at:at + 56], length))
        at = (at + 56 + length + 7) & ~7
    return found


def event_in(path, rng, part=(0, 1)):
    """Where the payload of some event is in a file: (position, its number)."""
    with open(path, "rb") as f:
        data = f.read()
    events = [m for m in re.finditer(rb"[0-9a-f]+-0 (\d+) [a-z]{26}", data)]
    check(len(events) > 20, "%s has %d events", path, len(events))
    m = events[rng.randrange(int(len(events) * part[0]), int(len(events) * part[1]))]
    return m.start(), int(m.group(1))


def flip(path, at):
    with open(path, "rb") as f:
        f.seek(at)
        byte = f.read(1)
    change(path, at, bytes([byte[0] ^ 0x10]))


def flip_event(cluster, i, name, rng):
    path = os.path.join(cluster.data(i), "wal", name)
    at, _ = event_in(path, rng)
    flip(path, at + 30)
    return path


def old_segments(bench, cluster, flags_count=6000):
    """Loads until every server has segments that Raft does not need any more."""
    load(bench, cluster, count=flags_count)
    for i in cluster.running:
        wait_until(f"logd {i} begins its log later", lambda i=i: status(cluster, i).get("first_index", 0) > 100, 60, 0.05)


def healed(cluster, i, start=0):
    process = cluster.running[i]
    process.wait_for("the damaged segment is whole again", 60, start)
    wait_until(f"logd {i} has no alarm", lambda: alarm(cluster, i) == "", 30, 0.05)


def healthy(cluster):
    out, _ = cluster.bench.run("crsc-logctl", "--servers", cluster.servers, "--output", "json", "health", status=None)
    return json.loads(out)["healthy"]


def all_good(bench, cluster, tags=("x",)):
    """Now, and after everything was killed and started again; and as crsc-logctl check sees it."""
    for tag in tags:
        verify(bench, cluster, tag)
    for i in list(cluster.running):
        cluster.kill(i)
    for i in range(1, cluster.n + 1):
        found = json.loads(cluster.logctl("check", cluster.data(i)))
        check(found["damages"] == 0, "server %d: %s", i, found)
        left = [p for p in os.listdir(os.path.join(cluster.data(i), "wal")) if p.endswith(".tmp") and "repair" in p]
        check(not left, "left behind: %s", left)
    cluster.start()
    cluster.wait_leader()
    for tag in tags:
        verify(bench, cluster, tag)


def read(port, stream, offset):
    """One event, asked of this server: (code of the error or 0, payload)."""
    with contextlib.closing(wire.dial(port)) as s:
        s.sendall(wire.frame(wire.READ, 5, wire.field(1, stream) + wire.field(2, offset) + wire.field(3, offset)))
        kind, _, head, body = wire.receive(s)
    if kind == wire.READ | wire.REPLY:
        return 0, body
    check(kind == wire.ERROR | wire.REPLY and head[0] == 0x08, "frame of type %x", kind)
    return head[1], b""


def number_of(payload):
    return int(payload.split(b" ")[1])


def offset_of(cluster, i, path, at, stream):
    """The offset of the event whose payload is there."""
    with open(path, "rb") as f:
        f.seek(at)
        name, number = f.read(60).split(b" ")[:2]
    with open(cluster.bench.path("acked-x"), encoding="ascii") as f:
        for line in f:
            where, offset, _, who = line.split()
            if where == stream and who.endswith("/" + number.decode()) and name.decode().endswith(who.split("/")[0]):  # behind another one's letters
                return int(offset)
    raise AssertionError(f"event {name} {number} was not acknowledged")


def test_the_scrub_finds_and_repairs(bench, rng):
    """Old segments, of a follower and of the leader, while clients go on."""
    cluster = Watched(bench, flags=FLAGS + ALWAYS).start()
    leader = cluster.wait_leader()
    old_segments(bench, cluster)
    for victim in (next(i for i in (1, 2, 3) if i != leader), leader):
        start = len(cluster.running[victim].events())
        flip_event(cluster, victim, rng.choice(names(cluster, victim)[:5]), rng)
        cluster.running[victim].wait_for("damaged data is repaired from the other servers", 60, start)
        healed(cluster, victim, start)
        load(bench, cluster, f"after-{victim}", 200)
        check(cluster.metric(victim, "scrub_damaged_records_total") >= 1, "it counts no damage")
        check(cluster.metric(victim, "scrub_repaired_records_total") >= 1, "it counts no repair")
        check(cluster.metric(victim, "damaged_segments") == 0, "there is damage")
        wait_until("a pass ends", lambda v=victim: cluster.metric(v, "scrub_passes_total") > 0, 30, 0.1)
        check(cluster.metric(victim, "scrub_bytes_total") > 1 << 20, "it looked at little")
        told = status(cluster, victim)["scrub"]
        check(told["passes"] > 0 and told["found"] >= 1 and told["repaired"] >= 1 and told["damaged_segments"] == 0 and told["last_pass_us"] > 0, "%s", told)
    wait_until("all is well", lambda: healthy(cluster), 30, 0.1)
    all_good(bench, cluster, ("x", f"after-{leader}"))


def test_two_servers_at_once(bench, rng):
    """Different records, and the same one: the third server has them."""
    cluster = Cluster(bench, flags=FLAGS + ALWAYS).start()
    cluster.wait_leader()
    old_segments(bench, cluster)
    name = rng.choice(sorted(set(names(cluster, 1)) & set(names(cluster, 2)))[:4])
    passes = {i: status(cluster, i)["scrub"]["passes"] for i in (1, 2)}
    starts = {i: len(cluster.running[i].events()) for i in (1, 2)}
    paths = {i: os.path.join(cluster.data(i), "wal", name) for i in (1, 2)}
    for i in (1, 2):
        at, _ = event_in(paths[i], rng, (0, 0.4) if i == 1 else (0.6, 1))
        flip(paths[i], at + 12)
    with open(paths[1], "rb") as f:
        at, same = event_in(paths[1], rng, (0.4, 0.6))
        f.seek(at)
        payload = f.read(60)
    flip(paths[1], at + 40)
    with open(paths[2], "rb") as f:
        where = f.read().find(payload[:40])
    if where > 0:  # the same event is there, too
        flip(paths[2], where + 33)
    for i in (1, 2):  # what was changed while a pass was there already is found by the next one
        healed(cluster, i, starts[i])
        before = max(passes[i], status(cluster, i)["scrub"]["passes"])
        wait_until("another whole pass", lambda i=i, n=before: status(cluster, i)["scrub"]["passes"] >= n + 2 and alarm(cluster, i) == "", pause=0.1)
    check(same > 0, "an event")
    all_good(bench, cluster)


def test_raft_needs_it(bench, rng):
    """Payloads, headers, a whole sector, a segment's header: in the part of the log that is read at the next start, which would refuse it."""
    cluster = Cluster(bench, flags=RAFT + ALWAYS).start()
    leader = cluster.wait_leader()
    load(bench, cluster)
    for victim, how in ((leader, "payload"), (leader % 3 + 1, "header"), (leader, "sector"), ((leader + 1) % 3 + 1, "segment")):
        start = len(cluster.running[victim].events())
        path = rng.choice(segments(cluster, victim)[1:-4])
        found = records(path)
        at, _, length = rng.choice([r for r in found[1:-2] if r[2] > 1000])
        if how == "payload":
            flip(path, at + 56 + rng.randrange(length))
        elif how == "header":
            flip(path, at + rng.randrange(8, 52))
        elif how == "sector":
            change(path, (at + 600) // 512 * 512, bytes(512))
        else:
            flip(path, rng.randrange(40))
        cluster.running[victim].wait_for("damaged data is repaired from the other servers", 60, start)
        healed(cluster, victim, start)
        print(f"{how} of logd {victim} repaired")
    all_good(bench, cluster)


def test_what_cannot_be_put_back_as_it_was(bench, rng):
    """Hundreds of small records at once, a file that is gone: the log begins behind them, and then each append is fetched by itself. Where the disk is so slow that
    many appends shared a record, there may be so few of those that they can be put back: then they are."""
    cluster = Cluster(bench, flags=RAFT + ALWAYS).start()
    leader = cluster.wait_leader()
    load(bench, cluster, count=4000, size=100, window=1, seconds=170)  # one at a time: a busy machine takes long
    check(len(segments(cluster, leader)) > 3, "only %s: the second may be the newest", segments(cluster, leader))
    for victim, how in ((leader, "zeros"), (leader % 3 + 1, "gone")):
        start = len(cluster.running[victim].events())
        path = segments(cluster, victim)[1]
        if how == "zeros":
            change(path, 20480, bytes(200 << 10))
        else:
            os.unlink(path)
        process = cluster.running[victim]

        def seen(p=process, start=start):
            found = p.find("damaged data is not repaired; it is tried again", start) or p.find("the damaged segment is whole again", start)
            if found is None and cluster.leader():
                load(bench, cluster, "beside", 1)  # it may be the newest one: it is looked at when the next one is begun
            return found
        if "is not repaired" in wait_until("it is looked at", seen, 60)["msg"]:
            wait_until("the log begins behind it", lambda v=victim: status(cluster, v).get("first_index", 0) > 200, 60, 0.1)
        healed(cluster, victim, start)
        check(os.path.getsize(path) == 256 << 10, "its size is another")
        print(f"{how}: logd {victim} is whole again")
    all_good(bench, cluster)


MOVES = ["--segment-size", "256KiB", "--log-keep", "256KiB", "--log-keep-max", "1MiB", "--index-commit", "20ms", "--background-rate", "0", "--retention-interval", "200ms"]


def moved(cluster, i):
    return [p for p in segments(cluster, i) if int(os.path.basename(p)[:-4]) >= 1 << 62]


def move_events(bench, cluster):
    """All streams but one, whose name this is, are trimmed, so that what is left is moved to files of its own."""
    out, _ = bench.run("crsc-appendload", "--servers", cluster.servers, "--stream", STREAM, "--producers", "12", "--out", bench.path("acked"), "--seconds", "60", "--count",
                       "9000", "--size", "700", "--window", "16", "--timeout", "60", timeout=180)
    check(json.loads(out.splitlines()[-1])["acked"] > 0, "%s", out)
    kept, *others = sorted(s["name"] for s in cluster.streams())
    for s in others:
        cluster.logctl("retention", "set", s, "--max-bytes", "2KiB", "--beyond-snapshots")
    return kept


def moved_at_rest(cluster, i):
    """Two seconds without a change: they may be moved again, to another file."""
    seen = []

    def at_rest():
        seen.append(moved(cluster, i))
        return len(seen) > 20 and seen[-1] and all(s == seen[-1] for s in seen[-20:]) and seen[-1]
    return wait_until("events are moved, and stay", at_rest, 90, 0.1)


def frames_in(path, stream):
    """(position, length, number of its first event) of each frame of that stream in a file that events were moved to: docs in common/frame.h."""
    with open(path, "rb") as f:
        data = f.read()
    at, found = 4096, []
    while data[at:at + 4] == b"CRS1":
        head, body = int.from_bytes(data[at + 16:at + 20], "little"), int.from_bytes(data[at + 20:at + 24], "little")
        if stream.encode() in data[at + 32:at + 32 + head]:
            found.append((at, 32 + head + body, number_of(data[at + 32 + head:at + 32 + head + 60])))
        at += 32 + head + body
    return found


def test_moved_events(bench, rng):
    """Files that live events were moved to (logd/wal/moved.h): a payload, and a frame's header, behind which nobody knows where the next one is."""
    cluster = Cluster(bench, flags=[*MOVES, *ALWAYS]).start()
    cluster.wait_leader()
    move_events(bench, cluster)
    for victim in (1, 2):
        path = moved_at_rest(cluster, victim)[0]
        with open(path, "rb") as f:
            data = f.read()
        frames = [m.start() for m in re.finditer(rb"CRS1\x11\x00", data)]
        check(len(frames) > 10, "%s has %d frames", path, len(frames))
        start = len(cluster.running[victim].events())
        at = frames[rng.randrange(1, len(frames) // 2)]
        flip(path, at + (200 if victim == 1 else 17))  # 17: in the length of its head
        healed(cluster, victim, start)
        with open(path, "rb") as f:
            check(f.read() == data, "it is not what it was")
    for i in list(cluster.running):
        cluster.kill(i)
        check(json.loads(cluster.logctl("check", cluster.data(i)))["damages"] == 0, "server %d", i)


def test_a_row_that_is_wrong(bench, rng):
    """Two appends have changed places: each is whole, the file too, and neither is the one that its row of the index means. A follower, and the leader, which
    hands over first: another server's state takes the place of what is there, while clients go on."""
    cluster = Cluster(bench, flags=[*MOVES, *ALWAYS]).start()
    cluster.wait_leader()
    kept = move_events(bench, cluster)
    leader = cluster.wait_leader()
    for victim in (leader % 3 + 1, leader):
        path = max(moved_at_rest(cluster, victim), key=lambda p: len(frames_in(p, kept)))
        process = cluster.running[victim]
        start = len(process.events())
        frames = frames_in(path, kept)
        pairs = [(a[0], b[0], a[1]) for a in frames for b in frames if a[1] == b[1] and a[2] < b[2]]
        check(pairs, "%s has %d appends that nobody trims, no two of one length", path, len(frames))
        one, other, length = rng.choice(pairs)
        with open(path, "r+b") as f:
            f.seek(one)
            first = f.read(length)
            f.seek(other)
            second = f.read(length)
            f.seek(other)
            f.write(first)
            f.seek(one)
            f.write(second)
        process.wait_for("the index is damaged", 60, start)
        load(bench, cluster, f"meanwhile-{victim}", 200)
        process.wait_for("the index is damaged: this server starts again, to fetch the state", 90, start)
        process.wait_for("the fetched state is verified", 90, start)
        wait_until("all is well", lambda: healthy(cluster), 90, 0.1)
        check(process.find("damaged data is not repaired; it is tried again", start) is None, "it took a whole file for damaged")
    for i in list(cluster.running):
        cluster.kill(i)
        check(json.loads(cluster.logctl("check", cluster.data(i)))["damages"] == 0, "server %d", i)
    cluster.start()
    cluster.wait_leader()
    verify(bench, cluster, f"meanwhile-{leader}")


def test_a_leader_that_cannot_repair_hands_over(bench, rng):
    """The repaired file cannot be written: the alarm is told to all, a healthy server leads, and it is repaired as soon as that is possible."""
    cluster = Watched(bench, flags=FLAGS + ALWAYS + STEADY).start()
    cluster.wait_leader()
    old_segments(bench, cluster)
    leader = cluster.wait_leader()
    others = [i for i in (1, 2, 3) if i != leader]
    obstacle = os.path.join(cluster.data(leader), "wal", "repair.tmp")
    os.mkdir(obstacle)
    flip_event(cluster, leader, names(cluster, leader)[1], rng)
    cluster.running[leader].wait_for("leadership is handed over, as data is damaged", 60)
    wait_until("another one leads", lambda: cluster.leader() in others, 60, 0.05)
    wait_until("it says why", lambda: "cannot be written" in alarm(cluster, leader), pause=0.05)
    wait_until("it counts the damage", lambda: cluster.metric(leader, "damaged_segments") == 1, pause=0.05)
    wait_until("the others know", lambda: f'crsc_logd_peer_alarm{{peer="{leader}"}} 1' in urllib.request.urlopen(
        f"http://{cluster.running[others[0]].wait_for('ready')['metrics']}/metrics", timeout=30).read().decode(), 30, 0.1)
    load(bench, cluster, "meanwhile", 200)
    os.rmdir(obstacle)
    healed(cluster, leader)
    wait_until("all is well", lambda: healthy(cluster), 30, 0.1)
    all_good(bench, cluster, ("x", "meanwhile"))


def test_a_reader_meets_it_first(bench, rng):
    """Without the scrub: the read is refused, in a way that sends clients elsewhere; soon after it is answered."""
    cluster = Cluster(bench, flags=FLAGS + NEVER).start()
    cluster.wait_leader()
    old_segments(bench, cluster)
    stream = f"{STREAM}-x-0"
    for victim in (1, 2, 3):
        process = cluster.running[victim]
        start = len(process.events())
        path = os.path.join(cluster.data(victim), "wal", rng.choice(names(cluster, victim)[:4]))
        at, _ = event_in(path, rng)
        offset = offset_of(cluster, victim, path, at, stream)
        flip(path, at + 28)
        before = os.stat(path).st_ino
        code, payload = read(cluster.ports[victim], stream, offset)
        check(code == UNAVAILABLE and not payload, "logd %d answered %d with %d bytes", victim, code, len(payload))
        process.wait_for("damaged data was met: it is not served, and looked at", 10, start)
        out = json.loads(bench.run("crsc-logctl", "--servers", cluster.servers, "--output", "json", "--timeout", "60s", "events", stream, "--from", str(offset), "--to", str(offset))[0])
        check(out, "another server answers")
        healed(cluster, victim, start)
        code, payload = read(cluster.ports[victim], stream, offset)
        check(code == 0 and payload, "it is still refused: %d", code)
        check(os.stat(path).st_ino != before, "it was written over, not beside")
        check(process.alive(), "logd %d is gone", victim)
    all_good(bench, cluster)


def test_the_newest_segment(bench, rng):
    """It is looked at as far as it is settled; what is damaged in it is repaired when the next one is begun."""
    cluster = Watched(bench, flags=["--segment-size", "1MiB", "--cache-size", "1MiB", *ALWAYS]).start()
    leader = cluster.wait_leader()
    load(bench, cluster, count=600)
    victim = leader % 3 + 1
    path = segments(cluster, victim)[-1]
    check(len(segments(cluster, victim)) == 1, "%s", segments(cluster, victim))
    wait_until("it is looked at", lambda: status(cluster, victim)["scrub"]["passes"] > 1, 30, 0.05)
    check(alarm(cluster, victim) == "", "%s", alarm(cluster, victim))
    start = len(cluster.running[victim].events())
    at, _, length = rng.choice([r for r in records(path)[5:-20] if r[2] > 500])
    flip(path, at + 56 + rng.randrange(length))
    wait_until("it is known", lambda: "when the next segment is begun" in alarm(cluster, victim), 30, 0.05)
    load(bench, cluster, "next", 5)
    healed(cluster, victim, start)
    check(len(segments(cluster, victim)) == 2, "%s", segments(cluster, victim))
    all_good(bench, cluster, ("x", "next"))


def test_replication_meets_it(bench, rng):
    """The leader would have to send a damaged entry to a server that was away: it does not, it repairs it, and then does."""
    cluster = Cluster(bench, flags=RAFT + NEVER + STEADY).start()
    leader = cluster.wait_leader()
    load(bench, cluster, "early", 50)
    away = leader % 3 + 1
    cluster.kill(away)
    load(bench, cluster)
    leader = cluster.wait_leader()
    process = cluster.running[leader]
    start = len(process.events())
    path = segments(cluster, leader)[5]
    at, _, length = rng.choice([r for r in records(path)[1:-2] if r[2] > 500])
    flip(path, at + 56 + rng.randrange(length))
    cluster.start(away)
    healed(cluster, leader, start)
    verify(bench, cluster)
    check(process.alive(), "the leader is gone")
    all_good(bench, cluster, ("x", "early"))


def test_alone(bench, rng):
    """Nobody else has it: the alarm stays, and says so; everything else is served; trimmed, it is forgotten."""
    cluster = Cluster(bench, n=1, flags=FLAGS + ALWAYS).start()
    cluster.wait_leader()
    old_segments(bench, cluster)
    stream = f"{STREAM}-x-0"
    path = segments(cluster, 1)[2]
    at, _ = event_in(path, rng, (0.4, 0.6))
    offset = offset_of(cluster, 1, path, at, stream)
    flip(path, at + 26)
    cluster.running[1].wait_for("damaged data is not repaired; it is tried again", 60)
    text = alarm(cluster, 1)
    check("data damaged: 1 record in segment" in text and "OPERATIONS" in text, "%s", text)
    check(not healthy(cluster), "it says that all is well")
    cluster.logctl("backup", bench.path("backup"), status=1)  # not a copy of damaged bytes
    for _ in range(3):
        check(read(cluster.ports[1], stream, offset)[0] == CORRUPT, "it was served")
        for good in (1, offset - 40, offset + 40, 6000):
            code, payload = read(cluster.ports[1], stream, good)
            check(code == 0 and payload, "offset %d: %d", good, code)
        time.sleep(0.2)
    load(bench, cluster, "more", 100)
    cluster.kill(1)
    found = json.loads(cluster.logctl("check", cluster.data(1), status=1))
    check(found["damages"] == 1, "%s", found)
    cluster.start()
    cluster.wait_leader()
    wait_until("the alarm is there again", lambda: "OPERATIONS" in (alarm(cluster, 1) or ""), 30, 0.05)
    cluster.logctl("trim", stream, "--to", "6000", "--force")
    wait_until("what nobody needs is not missed", lambda: alarm(cluster, 1) == "", 90, 0.1)
    verify(bench, cluster, "more")


if __name__ == "__main__":
    main([test_the_scrub_finds_and_repairs, test_two_servers_at_once, test_raft_needs_it, test_what_cannot_be_put_back_as_it_was, test_moved_events, test_a_row_that_is_wrong,
          test_a_leader_that_cannot_repair_hands_over, test_a_reader_meets_it_first, test_the_newest_segment, test_replication_meets_it,
          test_alone])
