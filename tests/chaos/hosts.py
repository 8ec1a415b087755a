"""Hosts for the chaos test: a network namespace each, joined by a bridge in one more, and a small filesystem each. Names carry this process'
id; close() removes everything, also after a failure half-way."""
import contextlib
import ctypes
import os
import random
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from harness import Skip  # noqa: E402

NETWORK = "10.91.0."  # inside those namespaces only
CLONE_NEWNET = 0x40000000
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


def sh(*argv, check=True, text=None):
    done = subprocess.run(argv, input=text, stdin=None if text else subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if check and done.returncode != 0:
        raise OSError(f"{' '.join(argv)}: {done.stdout.strip()}")
    return done.stdout


class Hosts:
    """Hosts 1..n and the clients' host, which this process itself moves to."""

    def __init__(self, n, directory, disk_mib=0):
        if os.geteuid() != 0:
            raise Skip("network namespaces need root")
        self.n, self.directory, self.disk_mib = n, directory, disk_mib
        self.prefix = f"crsc{os.getpid()}"
        self.namespaces, self.mounts = [], []
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY)

    def __enter__(self):
        try:
            self.make()
        except OSError as why:
            self.close()
            raise Skip(f"no network namespaces or loop mounts here: {why}") from None
        except BaseException:
            self.close()
            raise
        return self

    def make(self):
        switch = self.namespace("switch")
        sh("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        sh("ip", "-n", switch, "link", "set", "bridge", "up")
        for k, name in [*((i, str(i)) for i in range(1, self.n + 1)), (100, "clients")]:
            host = self.namespace(name)
            sh("ip", "-n", switch, "link", "add", f"to{k}", "type", "veth", "peer", "name", "eth0", "netns", host)
            sh("ip", "-n", switch, "link", "set", f"to{k}", "master", "bridge", "up")
            sh("ip", "-n", host, "addr", "add", f"{NETWORK}{k}/24", "dev", "eth0")
            sh("ip", "-n", host, "link", "set", "eth0", "up")
            sh("ip", "-n", host, "link", "set", "lo", "up")
        for i in range(1, self.n + 1):
            self.heal(i)
            if self.disk_mib:
                self.make_disk(i)
        self.enter(f"/run/netns/{self.prefix}-clients")

    def namespace(self, name):
        sh("ip", "netns", "add", f"{self.prefix}-{name}")
        self.namespaces.append(f"{self.prefix}-{name}")
        return self.namespaces[-1]

    def make_disk(self, i):
        image, path = os.path.join(self.directory, f"disk-{i}.img"), self.disk(i)
        with open(image, "wb") as f:
            f.truncate(self.disk_mib << 20)
        os.makedirs(path, exist_ok=True)
        sh("mkfs.ext4", "-q", "-m", "0", image)
        sh("mount", "-o", "loop", image, path)
        self.mounts.append(path)

    def disk(self, i):
        return os.path.join(self.directory, f"disk-{i}")

    @staticmethod
    def enter(path):
        fd = os.open(path, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns {path}")
        finally:
            os.close(fd)

    def address(self, i, port):
        return f"{NETWORK}{i}:{port}"

    def argv(self, i, argv, rng=None):
        """The command on host i; with `rng` its monotonic clock begins somewhere else."""
        skew = ["unshare", "--time", "--monotonic", str(rng.randrange(1, 100000)), "--"] if rng else []
        return ["ip", "netns", "exec", f"{self.prefix}-{i}", *skew, *argv]

    @staticmethod
    def wrong_clock(rng):
        """Environment for a wall clock that is wrong and drifts; {} where there is no libfaketime."""
        if not os.path.exists(FAKETIME):
            return {}
        return {"LD_PRELOAD": FAKETIME, "FAKETIME": f"{rng.randrange(-90, 90):+d}s x{rng.uniform(0.9, 1.1):.3f}", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "DONT_FAKE_MONOTONIC": "1"}

    def heal(self, i):
        """Host i hears everybody."""
        sh("ip", "netns", "exec", f"{self.prefix}-{i}", "nft", "-f", "-",
           text="flush ruleset\ntable inet chaos {\n chain in { type filter hook input priority 0; policy accept; }\n}\n")

    def deaf(self, i, to):
        """Host i hears nothing any more of the hosts `to`, whatever these still hear of it."""
        for k in to:
            sh("ip", "netns", "exec", f"{self.prefix}-{i}", "nft", "add", "rule", "inet", "chaos", "in", "ip", "saddr", f"{NETWORK}{k}", "drop")

    def fill(self, i):
        """Nothing more can be written on host i's disk."""
        path = os.path.join(self.disk(i), "ballast")
        with open(path, "wb") as f:
            block = bytes(1 << 20)
            with contextlib.suppress(OSError):
                while True:
                    f.write(block)
                    f.flush()
            with contextlib.suppress(OSError):
                while True:
                    os.write(f.fileno(), bytes(4096))

    def free(self, i):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.disk(i), "ballast"))

    def close(self):
        with contextlib.suppress(OSError):
            self.enter(f"/proc/self/fd/{self.home}")
        for path in reversed(self.mounts):
            sh("umount", "-l", path, check=False)
        for name in reversed(self.namespaces):
            sh("ip", "netns", "delete", name, check=False)
        self.mounts, self.namespaces = [], []

    def __exit__(self, *_):
        self.close()
        os.close(self.home)
        return False


if __name__ == "__main__":  # by hand: makes them, shows them, removes them
    with Hosts(3, "/tmp") as hosts:
        print(sh("ip", "addr"), hosts.wrong_clock(random.Random(1)))
        print(sh("ping", "-c", "1", "-W", "1", NETWORK + "1", check=False))
