#!/usr/bin/env python3
"""crsc-logd on a disk that loses its power: a filesystem (forgetfs) that forgets, at a cut, what no sync had made durable. Again and again: appends
are acknowledged, the power goes off before some random write, sync or rename, also during the next start's own recovery; then everything that was ever
acknowledged must be there, at its offset, unchanged (L1), dense (L2), once (L3).

    tests/powerloss/test_powerloss.py [--build TREE] [--seed N]        CRSC_POWER_CUTS=1000 for a thousand cuts
"""
import json
import os
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from harness import Failure, Skip, check, free_ports, main, wait_until  # noqa: E402

STREAM = "power/default/workload/app"
ROUNDS = 25  # with one data directory: nothing is trimmed, and it only grows


class Disk:
    """A mounted forgetfs, and its switch."""

    def __init__(self, bench, rng, name="disk"):
        self.bench, self.rng = bench, rng
        self.path = bench.path(name)
        self.switch = os.path.join(self.path, ".power")

    def __enter__(self):
        if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
            raise Skip("mounting a FUSE filesystem needs root and /dev/fuse")
        os.makedirs(self.path)
        self.process = self.bench.spawn(f"forgetfs-{os.path.basename(self.path)}", ["forgetfs", self.path])
        try:
            wait_until("forgetfs is mounted", lambda: os.path.ismount(self.path) or not self.process.alive(), 10)
            if not self.process.alive():
                self.process.expected_dead = True
                raise Skip(f"FUSE cannot be used here: {self.process.tail()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", self.path], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        self.process.expected_dead = True
        try:
            self.process.popen.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        return False

    def tell(self, text):
        with open(self.switch, "w") as f:
            f.write(text)

    def cut_after(self, changes):
        self.tell(f"cut {changes} {self.rng.randrange(1 << 30)}")

    def is_off(self):
        with open(self.switch) as f:
            return f.read().startswith("off")

    def on(self):
        self.tell("on")


class Server:
    def __init__(self, bench, disk):
        self.bench, self.disk, self.port = bench, disk, free_ports(1)[0]
        self.servers = f"127.0.0.1:{self.port}"
        self.directory = os.path.join(disk.path, "logd-0")
        self.process = None

    def move(self, k):
        """To a new data directory. A new name, as a cut may bring back some of what was removed and not synced."""
        shutil.rmtree(self.directory)
        top = os.open(self.disk.path, os.O_RDONLY)
        os.fsync(top)
        os.close(top)
        self.directory = os.path.join(self.disk.path, f"logd-{k}")

    def start(self):
        self.process = self.bench.spawn("logd", ["crsc-logd", "--id", "1", "--listen", self.servers, "--data-dir", self.directory,
                                                 "--segment-size", "1MiB", "--index-commit", "20ms", "--election-timeout", "300ms"])
        self.process.expected_dead = True  # its disk fails: it must end, and it does; what it leaves is what counts

    def ready(self):
        return self.process.find("ready") is not None

    def wait_ready(self):
        wait_until("logd is ready or ends", lambda: self.ready() or not self.process.alive(), 60)
        if not self.ready():
            raise Failure(f"after a power cut crsc-logd does not start: it ended with {self.process.popen.returncode}\n{self.process.tail()}")


def test_the_disk_forgets(bench, rng):
    """What the other test rests on: synced bytes and names stay, unsynced ones may go, and some do."""
    with Disk(bench, rng) as disk:
        directory, kept = os.open(disk.path, os.O_RDONLY), os.path.join(disk.path, "kept")
        with open(kept, "wb") as f:
            f.write(b"a" * 8192)
            f.flush()
            os.fsync(f.fileno())
        os.fsync(directory)
        os.close(directory)
        lost_bytes = lost_names = 0
        for k in range(20):
            with open(kept, "r+b") as f:
                before = f.read()
                f.seek(4096)
                f.write(bytes([98 + k]) * 4096)
            with open(os.path.join(disk.path, f"new{k}"), "wb"):
                pass
            disk.cut_after(0)
            check(os.path.exists(kept), "a synced name is gone")
            try:
                os.unlink(kept)
                raise Failure("a call succeeded without power")
            except OSError:
                pass
            disk.on()
            with open(kept, "rb") as f:
                after = f.read()
            check(len(after) == 8192 and after[:4096] == b"a" * 4096, "synced bytes are gone")
            for at in range(4096, 8192, 512):
                check(after[at:at + 512] in (before[at:at + 512], bytes([98 + k]) * 512), "a sector is neither old nor new")
                lost_bytes += after[at:at + 512] == before[at:at + 512]
            lost_names += not os.path.exists(os.path.join(disk.path, f"new{k}"))
        check(lost_bytes > 10 and lost_names > 2, "nothing was forgotten: %d sectors, %d names", lost_bytes, lost_names)


def verify(bench, server, tag):
    out, _ = bench.run("crsc-appendload", "--verify", "--servers", server.servers, "--stream", f"{STREAM}-{tag}", "--out", bench.path(f"acked-{tag}"),
                       "--producers", "2", "--timeout", "120", status=None)
    found = json.loads(out.splitlines()[-1])
    check(found["violations"] == 0 and found["status"] == 0, "%s", out)
    return found["acked"]


def test_power_cuts(bench, rng):
    cuts = int(os.environ.get("CRSC_POWER_CUTS", "12" if bench.build.sanitized else "60"))
    acked = in_recovery = 0
    with Disk(bench, rng) as disk:
        server = Server(bench, disk)
        for k in range(cuts):
            server.start()
            if rng.random() < 0.25:  # in the middle of the start
                disk.cut_after(rng.randrange(0, 30))
                wait_until("ready, or the power is off", lambda: server.ready() or disk.is_off() or not server.process.alive(), 60)
                server.process.kill()
                in_recovery += disk.is_off()
                disk.on()
                server.start()
            server.wait_ready()
            disk.cut_after(rng.choice([rng.randrange(1, 40), rng.randrange(1, 400), rng.randrange(1, 2000)]))
            with open(bench.path(f"acked-{k}"), "wb"):
                pass  # the power may go off before the loader has begun
            loader = bench.spawn("load", ["crsc-appendload", "--servers", server.servers, "--stream", f"{STREAM}-{k}", "--out", bench.path(f"acked-{k}"),
                                          "--producers", "2", "--window", str(rng.choice([1, 8, 64])), "--seconds", "600", "--size",
                                          str(rng.choice([10, 700, 5000])), "--timeout", "600"])
            wait_until("the power is off", disk.is_off, 300, 0.002)
            time.sleep(rng.choice([0, 0.002]))  # what it does without a disk must not be an acknowledgement
            server.process.kill()
            loader.kill()
            disk.on()
            server.start()
            server.wait_ready()
            acked += verify(bench, server, k)
            last = k % ROUNDS == ROUNDS - 1 or k == cuts - 1
            if last:  # and all that came before
                for earlier in range(k - k % ROUNDS, k):
                    verify(bench, server, earlier)
            server.process.kill()
            if last:
                server.move(k + 1)
        check(acked > cuts, "only %d appends were acknowledged in %d rounds: this shows nothing", acked, cuts)
        print(f"  {cuts} power cuts under load and {in_recovery} during a start, {acked} acknowledged appends, none lost, moved or doubled", flush=True)


if __name__ == "__main__":
    main([test_the_disk_forgets, test_power_cuts])
