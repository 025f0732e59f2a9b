"""A Ray cluster on one machine: a head without processors, and nodes in network and mount namespaces of their own."""

import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

RAY = str(Path(sys.executable).parent / "ray")
HEAD = "10.214.7.1"


class Nodes:
    """``count`` nodes of one CPU each, blind to the folders ``hidden``; raises OSError where not allowed."""

    def __init__(self, temp, count, hidden=()):
        self.temp, self.count, self.hidden = temp, count, hidden
        self.token = secrets.token_hex(32)
        self.address = f"{HEAD}:{20000 + secrets.randbelow(10000)}"  # the last cluster's may not be free yet
        self._bridge = f"sekd{secrets.token_hex(3)}"
        self._spaces, self._nodes = [], []

    def __enter__(self):
        try:
            _ip("link", "add", self._bridge, "type", "bridge")
            _ip("addr", "add", f"{HEAD}/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
            self._start([], "--head", f"--port={self.address.partition(':')[2]}", "--num-cpus=0", HEAD)
            for index in range(self.count):
                self._join(index)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _join(self, index):
        space, address = f"{self._bridge}-{index}", f"10.214.7.{index + 2}"
        inner, outer = f"{self._bridge}i{index}", f"{self._bridge}o{index}"
        _ip("netns", "add", space)
        self._spaces.append(space)
        _ip("link", "add", outer, "type", "veth", "peer", "name", inner)
        _ip("link", "set", inner, "netns", space)
        _ip("link", "set", outer, "master", self._bridge, "up")
        _ip("-n", space, "addr", "add", f"{address}/24", "dev", inner)
        for device in (inner, "lo"):
            _ip("-n", space, "link", "set", device, "up")
        hide = "".join(f"mount -t tmpfs none '{folder}' && " for folder in self.hidden)
        within = ["ip", "netns", "exec", space, "unshare", "-m", "bash", "-c", hide + 'exec "$@"', "node"]
        scratch = {"SEKD_SCRATCH": str(self.temp / f"node{index}"), "SEKD_LOCKS": str(self.temp / f"locks{index}")}
        self._start(within, f"--address={self.address}", "--num-cpus=1", address, **scratch)

    def _start(self, within, *options, **environment):
        *options, address = options
        command = [RAY, "start", *options, f"--node-ip-address={address}", "--block", "--disable-usage-stats"]
        command += [f"--object-store-memory={100 << 20}", "--num-gpus=0"]
        if "--head" in options:
            command += [f"--temp-dir={self.temp}", "--include-dashboard=false"]
        secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        secret |= {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "2000"}  # a death shows sooner
        with open(self.temp / f"{address}.log", "w") as log:
            process = subprocess.Popen(
                [*within, *command],
                stdout=log,
                stderr=log,
                env=os.environ | secret | environment,
                start_new_session=True,
            )
        self._nodes.append(process)
        ends = time.monotonic() + 60
        while "Ray runtime started" not in (self.temp / f"{address}.log").read_text():
            if process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError((self.temp / f"{address}.log").read_text())
            time.sleep(0.2)

    def __exit__(self, *_):
        for node in reversed(self._nodes):
            for pid in family_of(node.pid):
                _kill(pid)
            node.wait()
        for space in self._spaces:
            subprocess.run(["ip", "netns", "del", space], capture_output=True)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True)


def family_of(root):
    """Process ``root`` and all below it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _ip(*arguments):
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
