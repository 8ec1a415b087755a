"""Just enough of the protocol of crsc-logd (docs/PROTOCOL.md) to speak it wrongly."""
import socket
import struct

HELLO, ERROR, OPEN_PRODUCER, APPEND, RECORD_SNAPSHOT, READ, FOLLOW, STATUS, RAFT, REPLY = 1, 2, 16, 17, 19, 32, 33, 39, 64, 0x8000
HEADER = struct.Struct("<4sHHQIIII")


def _table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = _table()


def crc32c(*pieces):
    crc = 0xFFFFFFFF
    for piece in pieces:
        for byte in piece:
            crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def frame(kind, number, head=b"", body=b"", magic=b"CRS1", crc=None, head_len=None, body_len=None):
    begin = struct.pack("<4sHHQII", magic, kind, 0, number, len(head) if head_len is None else head_len,
                        len(body) if body_len is None else body_len)
    return begin + struct.pack("<II", crc32c(begin, head, body) if crc is None else crc, 0) + head + body


def varint(n):
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def field(number, value):
    """A protobuf field: an int, or bytes/str."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def hello(cluster="", version=1, node=0, instance=None):
    """`instance`: of a server, 16 hexadecimal digits as in its data directory's `identity`."""
    known = b"" if instance is None else bytes([5 << 3 | 1]) + int(instance, 16).to_bytes(8, "little")
    return frame(HELLO, 1, field(1, version) + field(2, cluster) + field(3, node) + field(4, "test") + known)


def dial(port, greet=True, timeout=60):
    s = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    if greet:
        s.sendall(hello())
        receive(s)
    return s


def receive(s):
    """The next frame: (type, id, head, body), or None when the connection was closed."""
    def exactly(n):
        data = b""
        while len(data) < n:
            try:
                piece = s.recv(n - len(data))
            except ConnectionResetError:
                return None
            if not piece:
                return None
            data += piece
        return data
    header = exactly(HEADER.size)
    if header is None:
        return None
    _, kind, _, number, head_len, body_len, _, _ = HEADER.unpack(header)
    head = exactly(head_len)
    body = exactly(body_len)
    return None if head is None or body is None else (kind, number, head, body)
