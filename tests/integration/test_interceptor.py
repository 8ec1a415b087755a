#!/usr/bin/env python3
"""crsc-interceptor in front of the counter, with three crsc-logd behind it. No container: this test plays the operator. It kills the
app at random moments, starts a fresh one (or one with the list that was saved at a drained offset), and tells the
interceptor which offset that state contains. At the end the app's list must be what the clients were told, write by write: each
id once, each answer the position of its id, each client's ids in its own order."""
import http.client
import json
import os
import threading
import time

from harness import Cluster, Failure, Http, check, free_ports, main, wait_until

STREAM = "test/default/workload/counter"


class Front:
    """The interceptor, the app, and the part of the operator."""

    def __init__(self, bench, cluster, flags=(), stream=STREAM, app_flags=()):
        self.bench, self.cluster, self.stream, self.app_flags = bench, cluster, stream, app_flags
        self.port, self.admin_port, self.app_port = free_ports(3)
        self.flags = flags
        self.started = 0
        self.saved = (0, None)  # the offset and file of the newest valid "checkpoint"
        self.app = None
        self.start_interceptor()

    def start_interceptor(self):
        self.process = self.bench.spawn("interceptor", [
            "crsc-interceptor", "--listen", f"127.0.0.1:{self.port}", "--admin-listen", f"127.0.0.1:{self.admin_port}",
            "--servers", self.cluster.servers, "--stream", self.stream, "--lease", "200ms", *self.flags])
        wait_until("the admin interface", lambda: self.status(strict=False), 30)

    def admin(self, method, path, body=None):
        connection = Http(self.admin_port)
        try:
            status, _, data = connection.request(method, path, json.dumps(body) if body is not None else None,
                                                 {"Content-Type": "application/json"} if body is not None else {})
        finally:
            connection.close()
        return status, data

    def status(self, strict=True):
        try:
            status, data = self.admin("GET", "/status")
        except OSError:
            if strict:
                raise
            return None
        check(status == 200, "GET /status: %d %s", status, data)
        return json.loads(data)

    def state(self):
        return self.status()["state"]

    def start_app(self, attach=True):
        offset, path = self.saved
        self.started += 1
        argv = ["counter", "--listen", f"127.0.0.1:{self.app_port}", *self.app_flags] + (["--restore", path] if path else [])
        self.app = self.bench.spawn("counter", argv)

        def answers():
            try:
                return self.direct("GET", "/count")
            except OSError:
                check(self.app.alive(), "the counter did not start:\n%s", self.app.tail())
                return None
        wait_until("the counter answers", answers, 20, 0.002)
        if attach:
            self.attach(offset)

    def attach(self, offset):
        status, data = self.admin("POST", "/attach", {"identity": f"counter-{self.started}-{self.app.pid}", "offset": offset,
                                                      "upstream": f"127.0.0.1:{self.app_port}"})
        check(status in (200, 202), "POST /attach: %d %s", status, data)

    def direct(self, method, path):
        connection = Http(self.app_port)
        try:
            return connection.request(method, path)
        finally:
            connection.close()

    def wait_active(self, timeout=60):
        wait_until("active", lambda: self.state() == "active", timeout, 0.002)

    def wait_lost(self):
        """Noticed; or never reached yet: an app that died before is like one that is slow to listen, until another is attached."""
        def noticed():
            now = self.status()
            return now["app"].get("lost", True) or now["app"]["suspect"] or now["reason"] == "connecting to the app"
        wait_until("the interceptor notices that the app is gone", noticed, 20, 0.001)

    def checkpoint(self, rng, die=False):
        """Drains, saves the list, resumes. True if the interceptor confirmed that nothing reached the app meanwhile."""
        token = f"t{rng.randrange(1 << 60):x}"
        status, data = self.admin("POST", "/checkpoint", {"token": token, "lease_ms": 5000, "drain_ms": 3000})
        if status != 200:
            return False
        offset = json.loads(data)["offset"]
        path = self.bench.path(f"saved-{token}")
        if die:
            self.app.kill()
            self.admin("POST", "/resume", {"token": token})
            return False
        saved, _, answer = self.direct("POST", f"/save?file={path}")
        check(saved == 200, "POST /save: %d %s", saved, answer)
        status, data = self.admin("POST", "/resume", {"token": token})
        valid = status == 200 and json.loads(data).get("valid", True)
        if valid:
            check(offset >= self.saved[0], "a later checkpoint has offset %d, an earlier one %d", offset, self.saved[0])
            if self.saved[1]:
                os.unlink(self.saved[1])
            self.saved = (offset, path)
        return valid


class Writers:
    """Clients that keep writing, each over its own connection, and note what they were answered."""

    def __init__(self, port, n=4, chunked=False, key=None):
        """`key`: gives the key of client k; then the positions are those among the writes of that key."""
        self.port, self.chunked, self.key = port, chunked, key
        self.acked = [[] for _ in range(n)]  # of each client: (id, position), in its order
        self.errors = []
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.write, args=(k,), daemon=True) for k in range(n)]
        for thread in self.threads:
            thread.start()

    def write(self, k):
        connection, number = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60), 0
        while not self.ended.is_set():
            number += 1
            name = f"c{k}-{number}"
            try:
                if self.key:
                    path = f"/of/{self.key(k)}?id={name}&ms={number % 3}"
                    name = f"{self.key(k)}.{name}"
                    connection.request("POST", path)
                elif self.chunked and number % 2:
                    connection.request("POST", "/add", iter([name[:2].encode(), name[2:].encode()]), encode_chunked=True,
                                       headers={"Transfer-Encoding": "chunked"})
                else:
                    connection.request("POST", f"/add?id={name}")
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200:
                    raise http.client.HTTPException(f"{answer.status} {body[:200]}")
                said = json.loads(body)
                if said["id"] != name:
                    raise http.client.HTTPException(f"the answer to {name} is that to {said['id']}")
                self.acked[k].append((name, said["n"]))
            except (OSError, http.client.HTTPException, ValueError) as e:
                self.errors.append(f"{name}: {type(e).__name__}: {e}")
                connection.close()
                if len(self.errors) > 20:
                    return
        connection.close()

    def total(self):
        return sum(map(len, self.acked))

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join(90)
            check(not thread.is_alive(), "a client still waits for an answer")


def compare(front, writers, extra=()):
    """The app's list against what clients were told. `extra`: ids of writes whose client may have got no answer."""
    connection = Http(front.port)
    status, _, body = connection.request("GET", "/list")
    connection.close()
    check(status == 200, "GET /list: %d", status)
    found = body.decode().split()
    check(not writers.errors, "clients saw errors: %s", writers.errors[:5])
    check(len(set(found)) == len(found), "doubled: %s", sorted({i for i in found if found.count(i) > 1})[:10] if len(found) < 20000 else "yes")
    told = 0
    for acked in writers.acked:
        positions = [n for _, n in acked]
        check(positions == sorted(positions), "a client's writes changed their order")
        for name, n in acked:
            check(n <= len(found), "%s was answered with position %d and the list has %d", name, n, len(found))
            check(found[n - 1] == name, "%s was answered with position %d, where the list has %s", name, n, found[n - 1])
            told += 1
    unknown = set(found) - {name for acked in writers.acked for name, _ in acked} - set(extra)
    check(not unknown, "in the list and never acknowledged: %s", sorted(unknown)[:10])
    return told


def compare_keyed(front, writers):
    """The same where only the order within each key, and what each client saw, are promised."""
    found = front.direct("GET", "/list")[2].decode().split()
    check(not writers.errors, "clients saw errors: %s", writers.errors[:5])
    check(len(set(found)) == len(found), "doubled: %s", sorted(set(i for i in found if found.count(i) > 1))[:10])
    place = {name: n for n, name in enumerate(found)}
    of_key = {}
    for name in found:
        of_key.setdefault(name.split(".")[0], []).append(name)
    for acked in writers.acked:
        check(all(name in place for name, _ in acked), "acknowledged and lost: %s", [n for n, _ in acked if n not in place][:5])
        places = [place[name] for name, _ in acked]
        check(places == sorted(places), "a client's writes, each sent after the answer to the one before, changed their order")
        for name, n in acked:
            key = name.split(".")[0]
            check(of_key[key][n - 1] == name, "%s was answered with position %d of %s, where %s is", name, n, key, of_key[key][n - 1])
    told = writers.total()
    check(len(found) == told, "%d in the list, %d acknowledged", len(found), told)
    return told


def prepare(bench, n=3, flags=()):
    cluster = Cluster(bench, n=n).start()
    cluster.wait_leader()
    front = Front(bench, cluster, flags)
    front.start_app()
    front.wait_active()
    return cluster, front


def test_kill_rounds(bench, rng):
    """200 times: the app killed at a random moment, also while it is being replayed to, drained, or answering."""
    rounds = int(os.environ.get("CRSC_ROUNDS", "200"))
    cluster, front = prepare(bench)
    writers = Writers(front.port, chunked=True)
    checkpoints = broken = 0
    for _ in range(rounds):
        if writers.errors:
            break
        time.sleep(rng.choice([0, rng.uniform(0, 0.005), rng.uniform(0, 0.05)]))
        what = rng.random()
        if what < 0.3 and front.state() == "active":
            checkpoints += front.checkpoint(rng)
            time.sleep(rng.uniform(0, 0.01))
        if what > 0.93 and front.state() == "active":
            front.checkpoint(rng, die=True)
            broken += 1
        front.app.kill()
        if rng.random() < 0.5:
            front.wait_lost()  # else: the new one may be there before the old one is missed
        front.start_app()
        if rng.random() < 0.8:
            front.wait_active()
    front.wait_active()
    writers.stop()
    front.wait_active()
    told = compare(front, writers)
    status = front.status()
    check(status["requests"]["digest_mismatches"] == 0, "answers of the replay differed: %s", status)
    check(told > rounds, "only %d writes in %d rounds: this shows nothing", told, rounds)
    check(checkpoints > rounds // 50, "only %d checkpoints", checkpoints)
    print(f"  {rounds} rounds, {told} writes, {checkpoints} checkpoints, {broken} broken ones, "
          f"{status['requests']['replayed']} replayed", flush=True)


def test_orders(bench, rng):
    """Each ordering with each logging, and serial order with several requests in the app's connection; the app killed at random moments: exactly
    once, and in every order that somebody could see."""
    rounds = 6 if bench.build.sanitized else 15
    cluster = Cluster(bench, n=1).start()
    cluster.wait_leader()
    for ordering, logging, pipeline in ((o, l, p) for o in ("serial", "keyed:/of/{key}", "concurrent") for l in ("pessimistic", "optimistic")
                                        for p in (("1", "16") if o == "serial" else ("1",))):
        front = Front(bench, cluster, ("--ordering", ordering, "--logging", logging, "--app-pipeline", pipeline),
                      f"{STREAM}-{ordering[:5]}-{logging}-{pipeline}".replace(":", ""))
        front.start_app()
        front.wait_active()
        keys = {"s": None, "k": lambda k: f"key{k % 3}", "c": lambda k: f"own{k}"}[ordering[0]]
        writers = Writers(front.port, n=8, key=keys)
        checkpoints = 0
        for _ in range(rounds):
            time.sleep(rng.uniform(0, 0.05))
            if rng.random() < 0.4 and front.state() == "active":
                checkpoints += front.checkpoint(rng)
                time.sleep(rng.uniform(0, 0.02))
            front.app.kill()
            front.start_app()
            front.wait_active()
        writers.stop()
        told = compare_keyed(front, writers) if keys else compare(front, writers)
        status = front.status()
        check(status["requests"]["digest_mismatches"] == 0, "%s, %s: answers of the replay differed: %s", ordering, logging, status)
        check(told > rounds, "only %d writes", told)
        front.process.stop()
        front.app.kill()
        print(f"  {ordering}, {logging}, app-pipeline {pipeline}: {told} writes, {checkpoints} checkpoints, {status['requests']['replayed']} replayed", flush=True)


def test_fresh_starts_only(bench, rng):
    """Without any checkpoint every recovery replays from offset 1."""
    _, front = prepare(bench, n=1)
    writers = Writers(front.port, n=3)
    for _ in range(8):
        time.sleep(rng.uniform(0.05, 0.2))
        front.app.kill()
        front.start_app()
        front.wait_active()
    writers.stop()
    compare(front, writers)
    _, _, replays = front.direct("GET", "/replays")
    check(json.loads(replays)["replays"] > 0, "no request said Crsc-Replay")


def test_killed_interceptor(bench, rng):
    """kill -9 of the interceptor: clients lose their connections (there is nobody to hold them); what was acknowledged stays, and the
    new one holds until it is told which state the app has."""
    _, front = prepare(bench)
    sure, open_ = {}, set()
    number = 0
    rounds = 0
    while rounds < (6 if bench.build.sanitized else 15) or (len(sure) <= 20 and rounds < 200):
        rounds += 1
        connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=60)
        until = time.monotonic() + rng.uniform(0.02, 0.3)
        killer = threading.Timer(max(0.0, until - time.monotonic()), front.process.kill)
        killer.start()
        try:
            while True:
                number += 1
                open_.add(f"k{number}")
                connection.request("POST", f"/add?id=k{number}")
                answer = connection.getresponse()
                said = json.loads(answer.read())
                check(answer.status == 200, "%d", answer.status)
                open_.discard(f"k{number}")
                sure[said["id"]] = said["n"]
        except (OSError, http.client.HTTPException, ValueError):
            pass
        killer.join()
        connection.close()
        front.start_interceptor()
        check(front.state() != "active", "a new interceptor is active although nobody told it the app's offset")
        # what the app holds is not known any more: a fresh one, from the newest checkpoint
        front.app.kill()
        front.start_app()
        front.wait_active()
        if rng.random() < 0.4:
            front.checkpoint(rng)
    connection = Http(front.port)
    found = connection.request("GET", "/list")[2].decode().split()
    connection.close()
    check(len(set(found)) == len(found), "doubled")
    for name, n in sure.items():
        check(n <= len(found) and found[n - 1] == name, "%s was answered with position %d", name, n)
    check(set(found) <= set(sure) | open_, "in the list and never written: %s", set(found) - set(sure) - open_)
    check(len(sure) > 20, "only %d writes", len(sure))


def test_log_leader_killed(bench, rng):
    """The log's leader dies under the interceptor: clients wait a little, and see no error."""
    cluster, front = prepare(bench)
    writers = Writers(front.port)
    for k in range(2 if bench.build.sanitized else 5):
        time.sleep(rng.uniform(0.1, 0.4))
        leader = cluster.wait_leader()
        before = writers.total()
        cluster.kill(leader)
        if k % 2:
            front.app.kill()
            front.start_app()
        cluster.wait_leader(other_than=leader)
        wait_until("writes go on", lambda n=before: writers.total() > n + 5 or writers.errors, 60)
        cluster.start(leader)
    writers.stop()
    front.wait_active()
    compare(front, writers)


def test_no_majority(bench, rng):
    """Without a majority nothing is acknowledged; with it again, everything goes on."""
    cluster, front = prepare(bench)
    writers = Writers(front.port, n=2)
    wait_until("some writes", lambda: writers.total() > 20)
    down = rng.sample([1, 2, 3], 2)
    for i in down:
        cluster.kill(i)
    time.sleep(1.0)  # what was answered before has come to the writers by then, but for one answer of each if they were kept waiting
    stuck = writers.total()
    time.sleep(1.0)
    check(writers.total() <= stuck + 2, "%d writes were acknowledged by one server of three", writers.total() - stuck)
    for i in down:
        cluster.start(i)
    wait_until("writes go on", lambda: writers.total() > stuck + 20 or writers.errors, 60)
    writers.stop()
    compare(front, writers)


def test_answers_unchanged(bench, rng):
    """Large, chunked, empty and slow answers, HEAD, keep-alive and pipelining come through as the app gave them."""
    _, front = prepare(bench, n=1)
    connection = Http(front.port)
    for path in ("/blob?bytes=0", "/blob?bytes=1", "/blob?bytes=70000", "/blob?bytes=3000000", "/chunked?n=0", "/chunked?n=1",
                 "/chunked?n=5000", "/count", "/nothing-here"):
        status, _, body = connection.request("GET", path)
        direct_status, _, direct = front.direct("GET", path)
        check((status, body) == (direct_status, direct), "GET %s: %d with %d bytes; the app itself: %d with %d", path, status,
              len(body), direct_status, len(direct))
    status, headers, body = connection.request("HEAD", "/blob?bytes=1234")
    check(status == 200 and body == b"" and headers.get("content-length") == "1234", "HEAD: %d %s", status, headers)
    big = rng.randbytes(700_000)
    for chunked in (False, True):
        status, _, body = connection.request("POST", "/echo", iter([big[:1000], big[1000:]]) if chunked else big,
                                             {"Transfer-Encoding": "chunked"} if chunked else {}, chunked=chunked)
        check(status == 200 and body == big, "POST /echo (chunked: %s): %d, %d bytes", chunked, status, len(body))
    status, _, body = connection.request("POST", "/echo", b"hello", {"Expect": "100-continue"})
    check(status == 200 and body == b"hello", "with Expect: 100-continue: %d %s", status, body)
    status, _, body = connection.request("POST", "/slow?ms=300&id=slow")
    check(status == 200 and json.loads(body)["id"] == "slow", "slow: %d %s", status, body)
    connection.close()
    from harness import exchange
    got, _ = exchange(front.port, b"".join(b"POST /add?id=p%d HTTP/1.1\r\nHost: x\r\n\r\n" % i for i in range(20))
                      + b"GET /count HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", timeout=20)
    check([got.find(b'"id":"p%d"' % i) for i in range(20)] == sorted(got.find(b'"id":"p%d"' % i) for i in range(20))
          and got.count(b"HTTP/1.1 200") == 21, "pipelined: %s", got[:3000])
    status, _, body = front.direct("GET", "/list")
    check(body.decode().split() == ["slow"] + [f"p{i}" for i in range(20)], "%s", body)


def test_unusual_apps(bench, rng):
    """An app whose answers differ at replay is counted; one that ends at a request (poison) does not take the interceptor with it."""
    _, front = prepare(bench, n=1)
    connection = Http(front.port)
    for _ in range(5):
        check(connection.request("POST", "/random")[0] == 200, "POST /random")
    wait_until("what they were answered is in the log, behind the mark", lambda: front.status()["offsets"]["last"] >= 11, 20)
    front.app.kill()
    front.start_app()
    front.wait_active()
    status = front.status()
    check(status["requests"]["digest_mismatches"] == 5, "5 answers differed: %s", status["requests"])
    check(connection.request("POST", "/add?id=after")[0] == 200, "it does not go on")
    connection.close()


def test_idempotency_key(bench, rng):
    """A repeated Idempotency-Key is answered from the record: while the first is on its way, after a death of the app, after one of
    the interceptor; it never reaches the app twice."""
    _, front = prepare(bench, n=1)

    def post(path, key, body=None):
        connection = Http(front.port, timeout=60)
        try:
            status, _, data = connection.request("POST", path, body, {"Idempotency-Key": key})
            return status, data
        finally:
            connection.close()

    def count():
        return json.loads(front.direct("GET", "/count")[2])["count"]

    class Asked(threading.Thread):
        def __init__(self, *args):
            super().__init__(daemon=True)
            self.args, self.answer = args, None
            self.start()

        def run(self):
            try:
                self.answer = post(*self.args)
            except (OSError, http.client.HTTPException):
                self.answer = "closed"

        def wait(self):
            self.join(60)
            return self.answer

    first = post("/add?id=a", "one")
    check(first == (200, b'{"n":1,"id":"a"}'), "%s", first)
    check(post("/add?id=a", "one") == first and count() == 1, "a repetition was executed")
    status, data = post("/add?id=b", "one")
    check(status == 422 and b"Idempotency-Key" in data, "another request with the same key: %d %s", status, data)
    check(post("/add?id=a", "two")[1] == b'{"n":2,"id":"a"}', "another key is another request")
    check(post("/add?id=x", "k" * 256)[0] == 400 and count() == 2, "a key too long")
    # while it is on its way
    logged = front.status()["requests"]["logged"]
    both = [Asked("/slow?ms=400&id=c", "three") for _ in range(3)]
    check({a.wait() for a in both} == {(200, b'{"n":3,"id":"c"}')}, "%s", [a.answer for a in both])
    check(front.status()["requests"]["logged"] == logged + 1 and count() == 3, "it was logged or executed more than once")
    # the app dies meanwhile
    both = [Asked("/slow?ms=600&id=d", "four") for _ in range(2)]
    wait_until("the app has it", lambda: count() == 4)
    front.app.kill()
    front.start_app()
    check({a.wait() for a in both} == {(200, b'{"n":4,"id":"d"}')}, "%s", [a.answer for a in both])
    # the interceptor dies: answers come back from the log
    front.process.kill()
    front.app.kill()
    front.start_interceptor()
    front.start_app()
    front.wait_active()
    check(post("/add?id=a", "one") == first and count() == 4, "forgotten with the interceptor")
    check(post("/slow?ms=600&id=d", "four")[1] == b'{"n":4,"id":"d"}', "forgotten with the interceptor")
    check(post("/add?id=b", "one")[0] == 422, "another request with the same key, after a restart")
    # it dies while one is on its way: the repetition waits for the replay
    lost = Asked("/slow?ms=4000&id=e", "five")
    wait_until("the app has it", lambda: count() == 5)
    front.process.kill()
    front.app.kill()
    check(lost.wait() == "closed", "%s", lost.answer)
    front.start_interceptor()
    again = Asked("/slow?ms=4000&id=e", "five")
    time.sleep(0.2)
    check(again.answer is None, "answered without an app: %s", again.answer)
    front.start_app()
    check(again.wait() == (200, b'{"n":5,"id":"e"}') and count() == 5, "%s", again.answer)
    # an answer too large for a record
    check(post("/echo", "six", b"x" * 100000)[0] == 200, "POST /echo")
    check(post("/echo", "six", b"x" * 100000)[0] == 409, "an answer that was not recorded")
    # clients that do not wait
    waiting = [Asked("/slow?ms=300&id=f", "seven") for _ in range(2)]
    connection = http.client.HTTPConnection("127.0.0.1", front.port)
    connection.request("POST", "/slow?ms=300&id=f", headers={"Idempotency-Key": "seven"})
    connection.close()
    check({a.wait() for a in waiting} == {(200, b'{"n":6,"id":"f"}')} and count() == 6, "%s", [a.answer for a in waiting])
    check(front.status()["requests"]["repeated"] >= 2, "%s", front.status()["requests"])


def test_bounded_hold(bench, rng):
    """With no app and more clients than may wait, the rest get 503 with Retry-After at once; those that wait are answered later."""
    _, front = prepare(bench, n=1, flags=("--hold-requests", "4"))
    front.app.kill()
    front.wait_lost()
    waiting = Writers(front.port, n=0)
    results, lock = [], threading.Lock()

    def ask(k):
        connection = Http(front.port, timeout=60)
        status, headers, _ = connection.request("POST", f"/add?id=h{k}")
        with lock:
            results.append((k, status, headers.get("retry-after")))
        connection.close()
    threads = [threading.Thread(target=ask, args=(k,), daemon=True) for k in range(12)]
    for thread in threads:
        thread.start()
    wait_until("8 are refused", lambda: len(results) >= 8, 30)
    check(all(status == 503 and after for _, status, after in results), "%s", results)
    front.start_app()
    for thread in threads:
        thread.join(60)
    accepted = sorted(f"h{k}" for k, status, _ in results if status == 200)
    check(len(accepted) == 4, "%s", results)
    found = front.direct("GET", "/list")[2].decode().split()
    check(sorted(found) == accepted, "%s in the app, %s were answered", found, accepted)
    waiting.stop()


if __name__ == "__main__":
    main([test_kill_rounds, test_orders, test_fresh_starts_only, test_killed_interceptor, test_log_leader_killed, test_no_majority,
          test_answers_unchanged, test_unusual_apps, test_idempotency_key, test_bounded_hold])
