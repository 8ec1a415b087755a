#!/usr/bin/env python3
"""The demo, as a person runs it: its last line and exit status, and that it leaves nothing behind, also at Ctrl-C."""
import os
import re
import signal
import subprocess
import sys
import time

from harness import ROOT, Skip, check, containers, main
from stack import containers_work

DEMO = os.path.join(ROOT, "tests", "demo", "demo")
LINE = re.compile(r"^demo: PASS acknowledged=(\d+) lost=0 errors=0 restored=2 replayed=(\d+) of (\d+) "
                  r"detect_ms=[\d.]+ recover_ms=[\d.]+$")


def prepare():
    why = containers_work()
    if why:
        raise Skip(why)


def left_behind(directory):
    """Processes, mounts and containers of that directory."""
    found = containers(os.path.join(directory, "operator", "runc")) if os.path.isdir(os.path.join(directory, "operator", "runc")) else []
    with open("/proc/self/mounts") as f:
        found += [line for line in f if directory in line]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                line = f.read().replace(b"\0", b" ").decode(errors="replace")
            if directory in line and int(pid) != os.getpid() and "demo/demo" not in line:
                found.append(f"{pid} {line}")
        except OSError:
            continue
    return found


def demo(bench, *argv, interrupt_after=None):
    directory = bench.path("demo")
    # what a shell starts with "&" ignores Ctrl-C, and so would the demo
    process = subprocess.Popen([sys.executable, DEMO, "--build", bench.build.directory, "--dir", directory, *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        first = process.stdout.readline() if interrupt_after is not None else ""  # it runs
        if interrupt_after is not None:
            time.sleep(interrupt_after)
            process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=400)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    out = first + out
    lines = out.rstrip().splitlines()
    check(not left_behind(directory), "it left behind: %s\n%s", left_behind(directory), out)
    return process.returncode, lines[-1] if lines else "", out


def test_demo_auto(bench, rng):
    prepare()
    code, last, out = demo(bench, "--mode", "auto", "--seconds", "12")
    found = LINE.match(last)
    check(code == 0 and found, "exit status %d:\n%s", code, out)
    check(int(found[1]) == int(found[3]) > 100, "%s", last)
    if "CRIU cannot run here" not in out:
        check(int(found[2]) < int(found[1]), "not only the tail was replayed: %s", last)
    print("  " + last, flush=True)


def test_demo_replay(bench, rng):
    prepare()
    code, last, out = demo(bench, "--mode", "replay", "--seconds", "8", "--app", "counter")
    check(code == 0 and LINE.match(last), "exit status %d:\n%s", code, out)
    print("  " + last, flush=True)


def test_demo_interrupted(bench, rng):
    prepare()
    code, last, out = demo(bench, "--app", "counter", interrupt_after=rng.uniform(0, 5))
    check(code == 1 and last.startswith("demo: FAIL interrupted"), "exit status %d:\n%s", code, out)


if __name__ == "__main__":
    main([test_demo_auto, test_demo_replay, test_demo_interrupted])
