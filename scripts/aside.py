"""Programs that run-tests starts, and what it takes to leave none behind.

Those *aside* prepare what is needed later (the next trees, Kubernetes' programs) while tests run, with what the tests leave of the processors. Each has a session
of its own, which Ctrl-C does not reach: whoever starts some calls stop() at the end, whatever happened.
"""
import contextlib
import os
import signal
import subprocess

GRACE = 120  # seconds that a program has to clean up after itself when it is told to end: a cluster has much to take down

running = []  # aside


def step_back():
    """In a child: whatever the tests want of the processors, they get first. (A nice value counts within a session; the session has its own.)"""
    os.setsid()
    os.nice(19)
    with contextlib.suppress(OSError):  # a kernel without autogroups
        with open("/proc/self/autogroup", "w") as f:
            f.write("19")


def prepare(command, aside, limit=None, **more):
    """Runs it. Its exit status, and what it said; with a `limit` in seconds, after which it is ended."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          preexec_fn=step_back if aside else None, **more) as process:
        if aside:
            running.append(process)
        try:
            output = process.communicate(timeout=limit)[0]
        except subprocess.TimeoutExpired:
            end_group(process)
            output = last_words(process) + f"\nended: it took more than {limit:.0f} s"
    return process.returncode, output


def last_words(process):
    """What one said that was told to end, and does within some seconds."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.communicate(timeout=10)[0]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.communicate(timeout=10)[0]
    return ""  # somebody outside its group holds the pipe


def end_group(process):
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)


def stop():
    """Ends what is aside."""
    for process in running:
        end_group(process)


def run_tests(command, log, limit=None, **more):
    """Runs a program that runs tests, in a session of its own. Its exit status (negative: ended by a signal) and what it said. When we are broken off, or after `limit`
    seconds, it is told to end, and has time to clean up after itself."""
    with open(log, "w+", errors="replace") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True, **more)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(limit)
        finally:
            end_politely(process)
        said.seek(0)
        return process.returncode, said.read()


def end_politely(process):
    if process.poll() is not None:
        return
    previous = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)}  # an impatient second Ctrl-C
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for number, handler in previous.items():
        signal.signal(number, handler)
