#!/usr/bin/env python3
"""The tests' own eyes: what compares must see a loss, a doubling, a changed order; what cleans up must see a crash and a sanitizer's
report. Without this a test that always passes would look like one that works."""
import importlib.machinery
import importlib.util
import os

from harness import LOGS_SHOWN, ROOT, Bench, Failure, Http, check, free_ports, main, wait_until
from stack import App
from test_interceptor import compare


def load_demo():
    path = os.path.join(ROOT, "tests", "demo", "demo")
    loader = importlib.machinery.SourceFileLoader("demo", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("demo", loader))
    loader.exec_module(module)
    return module


class Told:
    """What clients would have been told."""

    def __init__(self, port, acked, errors=()):
        self.port, self.acked, self.errors = port, acked, list(errors)


def counter(bench, ids):
    port, = free_ports(1)
    bench.spawn(f"counter-{port}", ["counter", "--listen", f"127.0.0.1:{port}"])
    connection = Http(port)

    def answers():
        try:
            return connection.request("GET", "/count")
        except OSError:
            connection.close()
            return None
    wait_until("the counter answers", answers)
    for name in ids:
        check(connection.request("POST", f"/add?id={name}")[0] == 200, "/add")
    connection.close()
    return port


def fails(function, *args):
    try:
        function(*args)
    except Failure as why:
        return str(why)
    raise Failure(f"{function.__name__} did not notice: {args}")


def test_compare(bench, rng):
    names = [f"c0-{i}" for i in range(1, 6)]
    good = [(name, n) for n, name in enumerate(names, 1)]

    def told(ids, acked, errors=()):
        port = counter(bench, ids)
        return Told(port, [acked]), Told(port, [acked], errors)
    compare(*told(names, good))
    check("position 5" in fails(compare, *told(names[:4], good)), "a lost one")
    check("doubled" in fails(compare, *told(names + names[1:2], good)), "a doubled one")
    check("position" in fails(compare, *told([names[1], names[0], *names[2:]], good)), "a changed order")
    check("never acknowledged" in fails(compare, *told(names + ["ghost"], good)), "one that nobody wrote")
    check("errors" in fails(compare, *told(names, good, ["c0-6: 502"])), "an error")
    check("order" in fails(compare, *told(names, [good[1], good[0]])), "a client's own order")


def test_demo_compare(bench, rng):
    demo = load_demo()
    app = App(os.path.join(ROOT, "tests", "demo", "apps", "counter.json"), bench.build)
    acknowledged = {n: n for n in range(1, 6)}

    def outcome(ids):
        out = demo.compare(app, counter(bench, ids), acknowledged, 5)
        return out.lost, out.doubled, out.misplaced
    check(outcome(range(1, 6)) == (0, 0, 0), "%s", outcome(range(1, 6)))
    check(outcome([1, 2, 3, 4])[0] == 1, "a lost one")
    check(outcome([1, 2, 3, 4, 5, 5])[1] == 1, "a doubled one")
    check(outcome([1, 2, 4, 3, 5])[2] == 2, "a changed order")
    pushgateway = App(os.path.join(ROOT, "tests", "demo", "apps", "pushgateway.json"), bench.build)
    text = ('demo_value{instance="1",job="demo"} 1\ndemo_value{instance="2",job="demo"} 7\n'
            'pushgateway_http_push_duration_seconds_count{method="put"} 3\n')
    real, demo.fetch = demo.fetch, lambda connection, path: text
    out = demo.compare(pushgateway, 1, {1: None, 2: None}, 2)
    check((out.lost, out.doubled, out.changed) == (0, 1, 1), "pushgateway: %s", vars(out))
    demo.fetch = real


def test_bench_notices(bench, rng):
    """A daemon that dies by itself, one that ends badly when asked, a sanitizer's report, an assertion."""
    for k, (argv, words) in enumerate(((["sh", "-c", "exit 3"], "died by itself with 3"), (["sh", "-c", "kill -ABRT $$"], "died by itself with -6"),
                        (["sh", "-c", "trap 'exit 1' TERM; while :; do sleep 0.05; done"], "ended with 1"),
                        (["sh", "-c", "trap 'exit 0' TERM; echo '==1==ERROR: AddressSanitizer: x' >&2; while :; do sleep 0.05; done"], "AddressSanitizer"),
                        (["sh", "-c", "trap 'exit 0' TERM; echo 'a.c:1:2: runtime error: x' >&2; while :; do sleep 0.05; done"], "runtime error"))):
        def whole(argv=argv, k=k):
            with Bench(bench.build, "inner", bench.path("inner")) as inner:
                process = inner.spawn(f"it-{k}", [*argv[:2], argv[2].replace("while", "echo ready; while", 1)])
                wait_until("it has ended, or has come to where it stays", lambda: not process.alive() or "ready" in process.tail())
        check(words in fails(whole), "%s", argv)


def test_logs(bench, rng):
    """What a failure shows: the newest lines of all logs, in the order of their times, each below the one it belongs to, within the bound."""
    def says(name, script):
        process = bench.spawn(name, ["sh", "-c", script])
        process.wait()
    says("a", """echo '{"ts":"2026-01-01T00:00:01Z","msg":"one"}'; echo tail of one; echo '{"ts":"2026-01-01T00:00:03Z","msg":"three"}'""")
    says("b", """echo '{"ts":"2026-01-01T00:00:02Z","msg":"two"}'""")
    lines = [line[:2] + (line.split('"')[-2] if '"' in line else line[3:]) for line in bench.logs().splitlines()]
    check(lines == ["a:one", "a:tail of one", "b:two", "a:three"], "%s", lines)
    says("c", "i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); echo line $i; done; printf '%05000d\\n' 7")
    text = bench.logs()
    check(len(text) < LOGS_SHOWN * 1.1 and "line 20000\n" in text and "0000..." in text and "line 1\n" not in text and "three" in text, "%d characters: %s", len(text), text[:300])


if __name__ == "__main__":
    main([test_compare, test_demo_compare, test_bench_notices, test_logs])
