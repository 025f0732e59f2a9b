"""Two network namespaces with a link between them that delays and loses packets, carried by a thread of ours.

The kernel's own netem is a module that many machines lack.
"""

import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time

TUNSETIFF, TUN_WITHOUT_HEADER = 0x400454CA, 0x1001


class Link:
    """Namespaces ``near`` (10.213.7.1) and ``far`` (10.213.7.2); raises OSError where the machine does not allow it."""

    def __init__(self, delay_s, loss):
        self.delay_s, self.loss, self.lost, self.carried = delay_s, loss, 0, 0
        self.near, self.far = (f"sekd-{end}-{os.getpid()}" for end in ("near", "far"))
        self._rng, self._ended = random.Random(0), False
        self._ends = []

    def __enter__(self):
        addresses = ("10.213.7.1", "10.213.7.2")
        try:
            for index, space in enumerate((self.near, self.far)):
                _ip("netns", "add", space)
                self._ends.append(_tun(name := f"sekd{index}p{os.getpid() % 10**5}"))
                _ip("link", "set", name, "netns", space)
                _ip("-n", space, "addr", "add", addresses[index], "peer", addresses[1 - index], "dev", name)
                _ip("-n", space, "link", "set", name, "up")
        except OSError:
            self.__exit__()
            raise
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended = True
        if hasattr(self, "_thread"):
            self._thread.join()
        for end in self._ends:
            os.close(end)
        for space in (self.near, self.far):
            subprocess.run(["ip", "netns", "del", space], capture_output=True)

    def _carry(self):
        waiting = []
        while not self._ended:
            for end in select.select(self._ends, [], [], 0.002)[0]:
                packet = os.read(end, 4096)
                if self._rng.random() < self.loss:
                    self.lost += 1
                else:
                    other = self._ends[1 - self._ends.index(end)]
                    heapq.heappush(waiting, (time.monotonic() + self.delay_s, self.carried, other, packet))
                    self.carried += 1
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, other, packet = heapq.heappop(waiting)
                os.write(other, packet)


def _ip(*arguments):
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _tun(name):
    end = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH", name.encode(), TUN_WITHOUT_HEADER))
    except OSError:
        os.close(end)
        raise
    return end
