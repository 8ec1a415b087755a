"""An app for the HTTP tests, written with sockets so that it can do what no library lets one do. It notes the head, body and trailers of each
request as they came (of a body over BODY_KEPT its SHA-256), and answers as the path says:

  /echo             the body; /seen: the number of requests so far
  /trailers         in chunks, with the trailers X-Sum and (which no proxy may pass) Set-Cookie
  /early            103, then 200          /204 /304  without a body; /304?N says Content-Length: N
  /old              as HTTP/1.0: up to the end of the connection
  /slow?MS          MS later               /half      a head that promises 1000 bytes, ten of them, then silence
  /cut              the same, then the end /drop      ends the connection
  /big?BYTES        that many              /nonsense  no HTTP
  /close            200, then the end      /behind?MS  how many requests came behind it within that time
  /toolarge         413, before the body came; it is not read
  /upgrade          101, then echoes bytes, but "bye" ends it
"""
import hashlib
import os
import socket
import threading
import time
from urllib.parse import urlsplit

BODY_KEPT = 4 << 20


class App:
    """`address`: ("127.0.0.1", 0), ("::1", 0), or a path."""

    def __init__(self, address):
        self.family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        if self.family == socket.AF_UNIX and os.path.exists(address):
            os.unlink(address)
        self.listener = socket.socket(self.family)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(address)
        self.listener.listen(128)
        name = self.listener.getsockname()
        self.upstream = f"unix:{name}" if self.family == socket.AF_UNIX else f"[{name[0]}]:{name[1]}" if self.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"
        self.requests, self.connections, self.lock = [], [], threading.Lock()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def close(self):
        for s in [self.listener, *self.connections]:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()

    def of(self, target):
        """The requests for that target, as they came: (head, body, trailers)."""
        with self.lock:
            return [r for r in self.requests if r[0].split(b" ", 2)[1] == target.encode()]

    def serve(self, connection):
        stream = connection.makefile("rb", buffering=1 << 16)
        try:
            while self.one(connection, stream):
                pass
        except (OSError, ValueError):
            pass
        finally:
            stream.close()
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.close()

    @staticmethod
    def lines(stream):
        got = b""
        while True:
            line = stream.readline(1 << 20)
            if not line or line == b"\r\n":
                return got
            got += line

    def one(self, connection, stream):
        head = self.lines(stream)
        if not head:
            return False
        fields = {k.strip().lower(): v.strip() for k, _, v in (line.partition(b":") for line in head.split(b"\r\n")[1:])}
        if b" /toolarge " in head:
            with self.lock:
                self.requests.append((head, b"", b""))
            connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
            time.sleep(0.5)
            return False
        body, length, trailers, sha = [], 0, b"", hashlib.sha256()

        def take(piece):
            sha.update(piece)
            if length <= BODY_KEPT:
                body.append(piece)
        if fields.get(b"transfer-encoding") == b"chunked":
            while size := int(stream.readline(), 16):
                length += size
                while size:
                    piece = stream.read(min(size, 1 << 20))
                    size -= len(piece)
                    take(piece)
                stream.readline()
            trailers = self.lines(stream)
        else:
            left = int(fields.get(b"content-length", b"0"))
            while left and (piece := stream.read(min(left, 1 << 20))):
                left -= len(piece)
                length += len(piece)
                take(piece)
            if left:
                return False
        body = b"".join(body) if length <= BODY_KEPT else b"sha256:" + sha.hexdigest().encode()
        with self.lock:
            self.requests.append((head, body, trailers))
        return self.answer(connection, stream, head.split(b" ")[1].decode(), head.startswith(b"HEAD"), body)

    def answer(self, connection, stream, target, asked_head, body):
        path, query = urlsplit(target).path, urlsplit(target).query

        def plain(data, status=b"200 OK", extra=b""):
            connection.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n" % (status, len(data), extra) + (b"" if asked_head else data))
            return True
        if path == "/echo":
            return plain(body)
        if path == "/trailers":
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\nSet-Cookie: a=b\r\n\r\n")
            return True
        if path == "/early":
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
            return plain(b"late")
        if path in ("/204", "/304"):
            connection.sendall(b"HTTP/1.1 %s X\r\nETag: \"e\"\r\n%s\r\n" % (path[1:].encode(), b"Content-Length: %s\r\n" % query.encode() if query else b""))
            return True
        if path == "/close":
            plain(b"closed", extra=b"Connection: close\r\n")
            connection.shutdown(socket.SHUT_WR)  # a reset for what it does not read would take the answer away (RFC 9112, 9.6)
            while connection.recv(1 << 16):
                pass
            return False
        if path == "/behind":
            time.sleep(int(query) / 1000)
            try:
                came = connection.recv(1 << 20, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                came = b""
            return plain(b"%d" % came.count(b"POST /"))
        if path == "/old":
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nto the end")
            return False
        if path == "/slow":
            time.sleep(int(query) / 1000)
            return plain(b"slow")
        if path in ("/half", "/cut"):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n0123456789")
            if path == "/half":
                time.sleep(5)
            return False
        if path == "/drop":
            return False
        if path == "/nonsense":
            connection.sendall(b"what?\r\n\r\n")
            return False
        if path == "/big":
            left = 0 if asked_head else int(query)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % int(query))
            block = bytes(range(256)) * 4096
            while left:
                n = min(left, len(block))
                connection.sendall(block[:n])
                left -= n
            return True
        if path == "/upgrade":
            connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello")
            while data := connection.recv(65536):
                connection.sendall(data)
                if data.endswith(b"bye"):
                    return False
            return False
        return plain(b"%d" % len(self.requests))
