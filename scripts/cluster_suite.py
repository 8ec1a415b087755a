"""The last suite of run-tests: a chosen handful of the cases that tests/cluster/test_operator.py has on two real Kubernetes nodes.

Kubernetes' and containerd's programs are built from their Go modules once, which takes ten minutes and more: prepare() does that aside, from the beginning of the
run on, and run() follows when the other suites are done. A machine that cannot do it has one line that says why, and `skipped` in it.
"""
import os
import re
import time

import aside

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PREPARED = ((["scripts/install-deps", "cluster"], "SKIP"), (["tests/cluster/build"], "FAIL"))  # and what it means when they fail
# what protection is about, the rights and images that it needs, and its end; `make cluster-test` has them all, and takes half an hour
CASES = ("annotate", "kill_app", "delete_pod", "lost_node", "end", "uninstall", "helm")
BUILD_LIMIT, LIMIT = 2700, 1200  # seconds: what all of the preparation may take, with tests beside it, and the cases
SKIPPED = 77
NODE_GRACE = "20s"  # until a silent node is called lost: a node of a machine that does much else may be silent for a while
CASE = re.compile(r"^(ok|FAILED) +(\w+) +([\d.]+) s: ", re.M)


def result(name, result, output, duration=0.0):
    """As meson's log of tests has it."""
    return {"name": name, "result": result, "stdout": output, "duration": duration}


def prepare():
    """None, or the result that says why there will be no cluster."""
    if os.geteuid() != 0:
        return result("nodes", "SKIP", "a cluster needs root")
    begun = time.monotonic()
    for command, trouble in PREPARED:
        status, output = aside.prepare(command, True, max(1.0, begun + BUILD_LIMIT - time.monotonic()), cwd=ROOT)
        if status < 0 and time.monotonic() - begun >= BUILD_LIMIT:
            return result("nodes", "SKIP", f"its programs could not be had within {BUILD_LIMIT // 60} minutes\n{output}")
        if status != 0:
            return result("nodes", "SKIP" if status == SKIPPED else trouble, f"{' '.join(command)} ended with {status}\n{output}")
    return None


def run(release, cases):
    """The results of the cases, with what is installed in the tree `release`."""
    log = os.path.join(ROOT, "build", "cluster", "suite.log")
    status, output = aside.run_tests([os.path.join(ROOT, "tests", "cluster", "test_operator.py"), "--build", release, *(cases or CASES)], log, LIMIT,
                                   env={**os.environ, "CRSC_NODE_GRACE": os.environ.get("CRSC_NODE_GRACE", NODE_GRACE)})
    if status == SKIPPED:
        return [result("nodes", "SKIP", output)]
    return of_output(status, output)


def of_output(status, output):
    found = list(CASE.finditer(output))
    results = [result(case[2], "OK" if case[1] == "ok" else "FAIL", output[case.start():], float(case[3])) for case in found]
    if status == 0 and not found or status != 0 and all(case[1] == "ok" for case in found):  # it did not come to any, or ended between two
        results.append(result("nodes", "FAIL", f"{output}\ntest_operator.py ended with {status}"))
    return results
