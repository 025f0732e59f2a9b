"""Servers and ways to a server that behave badly."""

import contextlib
import socket
import threading


class _Listener:
    """Hands each connection to :meth:`meet`; all are closed at the end."""

    def __init__(self):
        self._listener, self._open = socket.create_server(("127.0.0.1", 0)), []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self._listener.getsockname()[1]

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes up accept
        self._thread.join(5)
        for connection in [self._listener, *self._open]:
            connection.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                with contextlib.suppress(OSError):
                    self.meet(connection)


class serving(_Listener):
    """Says the same to everyone."""

    def __init__(self, answer):
        super().__init__()
        self._answer = answer

    def meet(self, connection):
        connection.recv(65536)
        connection.sendall(self._answer)
        connection.shutdown(socket.SHUT_RDWR)


class dropping(_Listener):
    """A way to ``port`` whose first connections break after ``cut`` bytes, in turns on the way there and back."""

    def __init__(self, port, cut, times):
        super().__init__()
        self._to, self._cut, self._left = port, cut, times

    def meet(self, near):
        self._left -= 1
        there, back = (self._cut if self._left >= 0 and self._left % 2 == way else None for way in (0, 1))
        far = socket.create_connection(("127.0.0.1", self._to))
        self._open.append(far)
        for one, other, cut in ((near, far, there), (far, near, back)):
            threading.Thread(target=_carry, args=(one, other, cut), daemon=True).start()


def _carry(one, other, cut):
    with contextlib.suppress(OSError):
        while cut is None or cut > 0:
            chunk = one.recv(65536 if cut is None else cut)
            if not chunk:
                return other.shutdown(socket.SHUT_WR)
            other.sendall(chunk)
            cut = None if cut is None else cut - len(chunk)
        for end in (one, other):
            end.shutdown(socket.SHUT_RDWR)
