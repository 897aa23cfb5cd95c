#!/usr/bin/env python3
"""Holds `/echo` against RFC 6455, octet by octet.

    python3 tests/clients/python/rfc6455.py target/release/tidewheel

The cases are those of the Autobahn test suite's fuzzing client, under its numbers (12 and 13, which
are about compression, shrink to: it is offered and declined). No WebSocket library stands between
the tables below and the socket. Every case says what it sends and what exactly must come back:
which frames, then which close code, then the server's end of the TCP connection; a reset, one
octet more or one less fails it. Autobahn lets some of this pass as "non-strict"; nothing here does.
"""

import asyncio
import base64
import hashlib
import os
import re
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
CASE_SECONDS_MAX = 20
# After its close frame the server ends the connection; it must not wait for us to do so.
END_SECONDS_MAX = 1.0
KIB, MIB = 1024, 1024 * 1024


# ------------------------------------------------------------------------------- octets

def masked(key, payload):
    if not payload:
        return b""
    pad = (key * (len(payload) // 4 + 1))[: len(payload)]
    number = int.from_bytes(payload, "little") ^ int.from_bytes(pad, "little")
    return number.to_bytes(len(payload), "little")


def frame(opcode, payload=b"", fin=True, rsv=0, mask=True, length=None):
    """A client's frame. `length` claims another one than the payload has: (octets, value)."""
    head = bytearray([fin << 7 | rsv << 4 | opcode])
    bit = 0x80 if mask else 0
    size = len(payload)
    if length is not None:
        octets, value = length
        head.append(bit | {2: 126, 8: 127}[octets])
        head += value.to_bytes(octets, "big")
    elif size < 126:
        head.append(bit | size)
    elif size < 65536:
        head += struct.pack("!BH", bit | 126, size)
    else:
        head += struct.pack("!BQ", bit | 127, size)
    if not mask:
        return bytes(head) + payload
    key = os.urandom(4)
    return bytes(head) + key + masked(key, payload)


def close(code=None, reason=b""):
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def fragments(opcode, parts):
    """A message in as many frames as there are parts."""
    last = len(parts) - 1
    return [frame(CONT if i else opcode, part, fin=i == last) for i, part in enumerate(parts)]


def cut(data, size):
    return [data[i:i + size] for i in range(0, len(data), size)]


# ------------------------------------------------------------------------------- cases

class Quiet:
    """Send nothing for a while, in which nothing may come either."""

    def __init__(self, seconds):
        self.seconds = seconds


class Until:
    """Send nothing until this many frames have come."""

    def __init__(self, frames):
        self.frames = frames


@dataclass
class Case:
    name: str
    send: list
    """Octets, each item in a write of its own, and pauses."""
    expect: list = field(default_factory=list)
    """The frames that come before the close: (opcode, payload)."""
    code: object = 1000
    """The code of the server's close frame; None for a close frame without one."""
    closer: str = "client"
    """`client`: a close with 1000 is sent when all has come. `server`: none is; `sent`: it is in
    `send`, and what comes before it may be given up where the server could not write."""
    chop: int = 0
    """Write octets in pieces of this size."""
    may_give_up: bool = False


def fault(name, send, code, expect=(), **more):
    return Case(name, send, list(expect), code, closer="server", **more)


def closing(name, send, code, expect=(), **more):
    return Case(name, send, list(expect), code, closer="sent", **more)


def group_1_framing():
    for digit, opcode, octet in ((1, TEXT, b"*"), (2, BINARY, b"\xfe")):
        for case, size in enumerate((0, 125, 126, 127, 128, 65535, 65536), 1):
            payload = octet * size
            yield Case(f"1.{digit}.{case}", [frame(opcode, payload)], [(opcode, payload)])
        payload = octet * 65536
        yield Case(f"1.{digit}.8", [frame(opcode, payload)], [(opcode, payload)], chop=997)
    for name, broken in (
        ("unmasked", frame(TEXT, b"Hello", mask=False)),
        ("unmasked and empty", frame(TEXT, b"", mask=False)),
        ("length of 125 in 16 bits", frame(TEXT, b"x" * 125, length=(2, 125))),
        ("length of 65535 in 64 bits", frame(TEXT, b"x" * 65535, length=(8, 65535))),
        ("length with its highest bit set", frame(TEXT, b"", length=(8, 1 << 63))),
    ):
        yield fault(f"1.3 {name}", [broken, frame(PING)], 1002)
        yield fault(f"1.3 {name}, octet by octet", [broken[:200], frame(PING)], 1002, chop=1)
    yield fault("1.4 16 MiB and one octet announced", [frame(TEXT, b"", length=(8, 16 * MIB + 1))], 1009)
    yield fault("1.4 2^62 octets announced", [frame(BINARY, b"", length=(8, 1 << 62))], 1009)


def group_2_pings():
    tens = [b"payload-%d" % i for i in range(10)]
    for case, payload, chop in (
        ("2.1", b"", 0),
        ("2.2", b"Hello, world!", 0),
        ("2.3", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", 0),
        ("2.4", b"\xfe" * 125, 0),
        ("2.6", b"\xfe" * 125, 1),
    ):
        yield Case(case, [frame(PING, payload)], [(PONG, payload)], chop=chop)
    yield fault("2.5", [frame(PING, b"\xfe" * 126)], 1002)
    yield closing("2.7", [frame(PONG), close(1000)], 1000)
    yield closing("2.8", [frame(PONG, b"unsolicited pong payload"), close(1000)], 1000)
    yield Case("2.9", [frame(PONG, b"unsolicited"), frame(PING, b"ping")], [(PONG, b"ping")])
    yield Case("2.10", [frame(PING, p) for p in tens], [(PONG, p) for p in tens])
    yield Case("2.11", [frame(PING, p) for p in tens], [(PONG, p) for p in tens], chop=1)


def group_3_reserved_bits():
    hello = b"Hello, world!"
    yield fault("3.1", [frame(TEXT, hello, rsv=1)], 1002)
    for case, rsv, chop, joined in (("3.2", 2, 0, True), ("3.3", 3, 0, False), ("3.4", 4, 1, False)):
        sent = [frame(TEXT, hello), frame(TEXT, hello, rsv=rsv), frame(PING)]
        yield fault(case, [b"".join(sent)] if joined else sent, 1002, [(TEXT, hello)], chop=chop)
    yield fault("3.5", [frame(BINARY, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", rsv=5)], 1002)
    yield fault("3.6", [frame(PING, hello, rsv=6)], 1002)
    yield fault("3.7", [frame(CLOSE, rsv=7)], 1002)


def group_4_opcodes():
    hello = b"Hello, world!"
    for digit, first in ((1, 3), (2, 11)):
        yield fault(f"4.{digit}.1", [frame(first)], 1002)
        yield fault(f"4.{digit}.2", [frame(first + 1, b"reserved opcode payload")], 1002)
        for case, payload, chop in ((3, b"", 0), (4, hello, 0), (5, hello, 1)):
            sent = [frame(TEXT, hello), frame(first + case - 1, payload), frame(PING)]
            yield fault(f"4.{digit}.{case}", sent, 1002, [(TEXT, hello)], chop=chop)


def group_5_fragmentation():
    one, two = b"fragment1", b"fragment2"
    whole = [(TEXT, one + two)]
    yield fault("5.1", [frame(PING, one, fin=False), frame(CONT, two)], 1002)
    yield fault("5.2", [frame(PONG, one, fin=False), frame(CONT, two)], 1002)
    for case, chop, joined in (("5.3", 0, True), ("5.4", 0, False), ("5.5", 1, False)):
        sent = fragments(TEXT, [one, two])
        yield Case(case, [b"".join(sent)] if joined else sent, whole, chop=chop)
    for case, chop, joined in (("5.6", 0, True), ("5.7", 0, False), ("5.8", 1, False)):
        first, last = fragments(TEXT, [one, two])
        sent = [first, frame(PING, b"ping payload"), last]
        expect = [(PONG, b"ping payload")] + whole
        yield Case(case, [b"".join(sent)] if joined else sent, expect, chop=chop)
    number = 9
    for fin in (True, False):
        for chop, joined in ((0, True), (0, False), (1, False)):
            sent = [frame(CONT, b"non-continuation payload", fin=fin), frame(TEXT, b"Hello, world!")]
            yield fault(f"5.{number}", [b"".join(sent)] if joined else sent, 1002, chop=chop)
            number += 1
    sent = fragments(TEXT, [one, two]) + [frame(CONT, b"fragment3", fin=False), frame(TEXT, b"fragment4")]
    yield fault("5.15", [b"".join(sent)], 1002, whole)
    for case, fin in (("5.16", False), ("5.17", True)):
        sent = ([frame(CONT, one, fin=fin)] + fragments(TEXT, [two, b"fragment3"])) * 2
        yield fault(case, sent, 1002)
    yield fault("5.18", [frame(TEXT, one, fin=False), frame(TEXT, two)], 1002)
    for case, joined in (("5.19", True), ("5.20", False)):
        parts = [b"fragment%d" % i for i in range(1, 6)]
        f = fragments(TEXT, parts)
        early = [f[0], f[1], frame(PING, b"pongme 1!")]
        late = [f[2], f[3], frame(PING, b"pongme 2!"), f[4]]
        if joined:
            early, late = [b"".join(early)], [b"".join(late)]
        expect = [(PONG, b"pongme 1!"), (PONG, b"pongme 2!"), (TEXT, b"".join(parts))]
        yield Case(case, early + [Until(1), Quiet(1)] + late, expect)


KOSME = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5"
MIXED = "Hello-µ@ßöäüàá-UTF-8!!".encode()


def utf8_table():
    """Autobahn's 6.5 to 6.23, after Markus Kuhn's UTF-8 decoder stress test: (valid, octets)."""
    def is_valid(octets):
        try:
            octets.decode()
            return True
        except UnicodeDecodeError:
            return False

    def range_with_spaces(first, last):
        return b"".join(bytes([i, 0x20]) for i in range(first, last))

    cut_short = [b"\xc0", b"\xe0\x80", b"\xf0\x80\x80", b"\xf8\x80\x80\x80", b"\xfc\x80\x80\x80\x80",
                 b"\xdf", b"\xef\xbf", b"\xf7\xbf\xbf", b"\xfb\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf"]
    groups = [
        [b"hello\x24world", b"hello\xc2\xa2world", b"hello\xe2\x82\xacworld", b"hello\xf0\xa4\xad\xa2world", KOSME],
        [KOSME[:i] for i in range(1, len(KOSME) + 1)],
        [b"\x00", b"\xc2\x80", b"\xe0\xa0\x80", b"\xf0\x90\x80\x80"],
        [b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"],
        [b"\x7f", b"\xdf\xbf", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf"],
        [b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"],
        [b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbf\xbd", b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80"],
        [b"\x80", b"\xbf", b"\x80\xbf", b"\x80\xbf\x80", b"\x80\xbf\x80\xbf", b"\x80\xbf\x80\xbf\x80",
         b"\x80\xbf\x80\xbf\x80\xbf", bytes(range(0x80, 0xbf))],
        [range_with_spaces(*r) for r in
         ((0xc0, 0xdf), (0xe0, 0xef), (0xf0, 0xf7), (0xf8, 0xfb), (0xfc, 0xfd))],
        cut_short,
        [b"".join(cut_short)],
        [b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"],
        [b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf8\x80\x80\x80\xaf", b"\xfc\x80\x80\x80\x80\xaf"],
        [b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf8\x87\xbf\xbf\xbf", b"\xfc\x83\xbf\xbf\xbf\xbf"],
        [b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xf8\x80\x80\x80\x80", b"\xfc\x80\x80\x80\x80\x80"],
        [b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xae\x80", b"\xed\xaf\xbf", b"\xed\xb0\x80", b"\xed\xbe\x80",
         b"\xed\xbf\xbf"],
        [b"\xed" + a + b"\xed" + b for a in (b"\xa0\x80", b"\xad\xbf", b"\xae\x80", b"\xaf\xbf")
         for b in (b"\xb0\x80", b"\xbf\xbf")],
        [b"\xef\xbf\xbe", b"\xef\xbf\xbf"] + [chr(plane << 16 | 0xfffe | low).encode()
                                              for plane in range(1, 17) for low in (0, 1)],
        [bytes([0xef, 0xbf, i]) for i in range(0xb9, 0xc0)],
    ]
    for group, octets in enumerate(groups, 5):
        for case, item in enumerate(octets, 1):
            yield f"6.{group}.{case}", is_valid(item), item


def group_6_utf8():
    for case, parts in (("6.1.1", [b""]), ("6.1.2", [b"", b"", b""]), ("6.1.3", [b"", b"middle", b""]),
                        ("6.2.1", [MIXED]), ("6.2.2", [MIXED[:14], MIXED[14:]]), ("6.2.3", cut(MIXED, 1)),
                        ("6.2.4", cut(KOSME, 1))):
        yield Case(case, fragments(TEXT, parts), [(TEXT, b"".join(parts))])
    surrogate = KOSME + b"\xed\xa0\x80edited"
    yield fault("6.3.1", [frame(TEXT, surrogate)], 1007)
    yield fault("6.3.2", fragments(TEXT, cut(surrogate, 1)), 1007)
    # The fault is told at the octet that makes it one: the frame, and the message, never end.
    beyond = KOSME + b"\xf4\x90\x80\x80edited"
    for case, at, end in (("6.4.1", 11, 15), ("6.4.2", 12, 13)):
        sent = [frame(TEXT, beyond[:at], fin=False), Quiet(1), frame(CONT, beyond[at:end], fin=False)]
        yield fault(case, sent, 1007)
    for case, at, end in (("6.4.3", 11, 15), ("6.4.4", 12, 13)):
        octets = frame(TEXT, beyond)
        header = len(octets) - len(beyond)
        yield fault(case, [octets[:header + at], Quiet(1), octets[header + at:header + end]], 1007)
    for case, valid, payload in utf8_table():
        if valid:
            yield Case(case, [frame(TEXT, payload)], [(TEXT, payload)])
            yield Case(f"{case} in frames of one octet", fragments(TEXT, cut(payload, 1)), [(TEXT, payload)])
        else:
            yield fault(case, [frame(TEXT, payload)], 1007)
            yield fault(f"{case} in frames of one octet", fragments(TEXT, cut(payload, 1)), 1007)
        yield Case(f"{case} as binary", [frame(BINARY, payload)], [(BINARY, payload)])


def group_7_close():
    hello = b"Hello World!"
    yield Case("7.1.1", [frame(TEXT, hello)], [(TEXT, hello)])
    yield closing("7.1.2", [close(1000), close(1000)], 1000)
    yield closing("7.1.3", [close(1000), frame(PING)], 1000)
    yield closing("7.1.4", [close(1000), frame(TEXT, hello)], 1000)
    first, last = fragments(TEXT, [b"fragment1", b"fragment2"])
    yield closing("7.1.5", [first, close(1000), last], 1000)
    large = b"BAsd7&jh23" * 26214
    yield closing("7.1.6", [frame(TEXT, large), frame(TEXT, hello), close(1000), frame(PING)], 1000,
                  [(TEXT, large), (TEXT, hello)], may_give_up=True)
    yield closing("7.3.1", [close()], None)
    yield closing("7.3.2", [frame(CLOSE, b"a")], 1002)
    yield closing("7.3.3", [close(1000)], 1000)
    yield closing("7.3.4", [close(1000, hello)], 1000)
    yield closing("7.3.5", [close(1000, b"*" * 123)], 1000)
    yield closing("7.3.6", [frame(CLOSE, struct.pack("!H", 1000) + b"*" * 124)], 1002)
    yield closing("7.5.1", [close(1000, KOSME + b"\xed\xa0\x80edited")], 1007)
    yield closing("7.5.2 reason cut inside a character", [close(1000, b"caf\xc3")], 1007)
    good = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
    bad = (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999)
    for case, code in enumerate(good, 1):
        yield closing(f"7.7.{case}", [close(code)], code)
        yield closing(f"7.7.{case} octet by octet", [close(code, b"bye")], code, chop=1)
    for case, code in enumerate(bad, 1):
        yield closing(f"7.9.{case}", [close(code)], 1002)
    for case, code in enumerate((5000, 65535), 1):
        yield closing(f"7.13.{case}", [close(code)], 1002)
    yield closing("7.14 close inside a fragmented message", [frame(BINARY, b"1", fin=False), close(1001)], 1001)
    yield fault("7.15 the server says what was wrong, and takes what comes after",
                [frame(3)] + [frame(TEXT, b"x" * 60000)] * 20, 1002)


def group_9_limits():
    sizes = (64 * KIB, 256 * KIB, 1 * MIB, 4 * MIB, 8 * MIB, 16 * MIB)
    for digit, opcode, octet in ((1, TEXT, b"*"), (2, BINARY, b"\xfe")):
        for case, size in enumerate(sizes, 1):
            payload = octet * size
            yield Case(f"9.{digit}.{case}", [frame(opcode, payload)], [(opcode, payload)])
    for digit, opcode, octet in ((3, TEXT, b"*"), (4, BINARY, b"\xfe")):
        for case, size in enumerate((64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB), 1):
            # Autobahn ends a message of whole fragments with an empty one.
            parts = 4 * MIB // size
            middle = frame(CONT, octet * size, fin=False) * (parts - 1)
            sent = frame(opcode, octet * size, fin=False) + middle + frame(CONT)
            yield Case(f"9.{digit}.{case}", [sent], [(opcode, octet * 4 * MIB)])
    for digit, opcode, octet in ((5, TEXT, b"*"), (6, BINARY, b"\xfe")):
        for case, chop in enumerate((64, 128, 256, 512, 1024, 2048), 1):
            payload = octet * MIB
            yield Case(f"9.{digit}.{case}", [frame(opcode, payload)], [(opcode, payload)], chop=chop)
    for digit, opcode, octet in ((7, TEXT, b"*"), (8, BINARY, b"\xfe")):
        for case, size in enumerate((0, 16, 64, 256, 1024, 4096), 1):
            payload = octet * size
            count = 1000
            sent = [step for i in range(count) for step in (frame(opcode, payload), Until(i + 1))]
            yield Case(f"9.{digit}.{case}", sent, [(opcode, payload)] * count)
    yield Case("9.9 16 MiB in writes of 64 octets", [frame(BINARY, b"z" * 16 * MIB)],
               [(BINARY, b"z" * 16 * MIB)], chop=64)
    yield Case("9.10 65,536 frames of one octet", [frame(TEXT, b"f", fin=False)
               + frame(CONT, b"f", fin=False) * 65534 + frame(CONT, b"f")], [(TEXT, b"f" * 65536)])


def group_10_auto_fragmentation():
    payload = b"*" * 65536
    yield Case("10.1.1", fragments(TEXT, cut(payload, 1300)), [(TEXT, payload)])


def group_11_echo():
    """What measurements and other people's tests take for granted about an echo."""
    yield Case("11.1 no welcome and no ping", [Quiet(3)])
    many = [b"%d" % i for i in range(20_000)]
    yield Case("11.2 no rate limit", [b"".join(frame(TEXT, m) for m in many)], [(TEXT, m) for m in many])
    pings = [b"%d" % i for i in range(5_000)]
    yield Case("11.3 many pings", [b"".join(frame(PING, m) for m in pings)], [(PONG, m) for m in pings])
    empty = frame(TEXT, b"", fin=False) + frame(CONT, b"", fin=False) * 9_998 + frame(CONT)
    yield Case("11.4 10,000 empty fragments", [empty], [(TEXT, b"")])


GROUPS = [
    ("1 framing", group_1_framing), ("2 pings and pongs", group_2_pings),
    ("3 reserved bits", group_3_reserved_bits), ("4 opcodes", group_4_opcodes),
    ("5 fragmentation", group_5_fragmentation), ("6 UTF-8", group_6_utf8),
    ("7 close", group_7_close), ("9 limits and performance", group_9_limits),
    ("10 automatic fragmentation", group_10_auto_fragmentation), ("11 echo", group_11_echo),
]


# ------------------------------------------------------------------------------- one connection

class Failed(Exception):
    pass


def describe(event):
    opcode, payload = event
    shown = payload if len(payload) <= 40 else payload[:40] + b"..."
    return f"{opcode}:{len(payload)}:{shown!r}"


class Peer:
    """One WebSocket connection, and everything that came on it."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.events = []
        self.close_payload = None
        self.closed_at = self.ended_at = None
        self.arrived = asyncio.Event()

    @classmethod
    async def connect(cls, address, extensions=""):
        reader, writer = await asyncio.open_connection(*address, limit=1 << 20)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(upgrade_request(address, key, extensions))
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        check_upgrade(head, key)
        return cls(reader, writer)

    async def receive_all(self):
        """Reads frames until the server's end."""
        while True:
            try:
                head = await self.reader.readexactly(2)
            except asyncio.IncompleteReadError as end:
                if end.partial:
                    raise Failed("the connection ended inside a frame")
                break
            opcode, payload = await self.receive_rest(head)
            if self.close_payload is not None:
                raise Failed(f"a frame after the close frame: {describe((opcode, payload))}")
            if opcode == CLOSE:
                self.close_payload, self.closed_at = payload, time.monotonic()
            else:
                self.events.append((opcode, payload))
            self.arrived.set()
        self.ended_at = time.monotonic()
        self.arrived.set()

    async def receive_rest(self, head):
        first, second = head
        if first & 0xf0 != 0x80:
            raise Failed(f"a frame that begins {first:#x}: fragmented, or with reserved bits")
        if second & 0x80:
            raise Failed("a masked frame from a server")
        size = second & 0x7f
        if size == 126:
            size = int.from_bytes(await self.reader.readexactly(2), "big")
            minimal = size >= 126
        elif size == 127:
            size = int.from_bytes(await self.reader.readexactly(8), "big")
            minimal = size >= 65536
        else:
            minimal = True
        if not minimal:
            raise Failed("a length that is not in its shortest form")
        return first & 0x0f, await self.reader.readexactly(size)

    async def until(self, condition):
        while not condition():
            if self.ended_at is not None:
                return
            self.arrived.clear()
            await self.arrived.wait()

    async def send(self, case):
        for step in case.send:
            if isinstance(step, Quiet):
                before = len(self.events)
                await asyncio.sleep(step.seconds)
                if len(self.events) != before or self.ended_at is not None:
                    raise Failed("something came while nothing was due")
            elif isinstance(step, Until):
                await self.until(lambda: len(self.events) >= step.frames)
            elif case.chop:
                for number, piece in enumerate(cut(step, case.chop)):
                    self.writer.write(piece)
                    if number % 64 == 63:
                        await self.writer.drain()
                        await asyncio.sleep(0)
            else:
                self.writer.write(step)
                await self.writer.drain()
        if case.closer == "client":
            await self.until(lambda: len(self.events) >= len(case.expect))
            self.writer.write(close(1000))


def upgrade_request(address, key, extensions=""):
    more = f"Sec-WebSocket-Extensions: {extensions}\r\n" if extensions else ""
    return (f"GET /echo HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{more}\r\n").encode()


def check_upgrade(head, key):
    status, *fields = head.strip().split("\r\n")
    fields = {name.lower(): value.strip() for name, value in (f.split(":", 1) for f in fields)}
    guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1((key + guid).encode()).digest()).decode()
    if not status.startswith("HTTP/1.1 101 ") or fields.get("sec-websocket-accept") != accept:
        raise Failed(f"no upgrade: {head!r}")
    for name in ("sec-websocket-extensions", "sec-websocket-protocol"):
        if name in fields:
            raise Failed(f"{name} was answered and not asked for, or cannot be: {fields[name]}")


async def run_case(address, case):
    peer = await Peer.connect(address)
    receiving = asyncio.create_task(peer.receive_all())
    sending = asyncio.create_task(peer.send(case))
    try:
        done, _ = await asyncio.wait({receiving, sending}, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            error = task.exception()
            # The server may have gone while we still sent: what it said before is what counts.
            if error and not (task is sending and isinstance(error, ConnectionError)):
                raise error
        await receiving
    finally:
        receiving.cancel()
        sending.cancel()
        peer.writer.transport.abort()
    judge(case, peer)


def judge(case, peer):
    got, wanted = peer.events, case.expect
    if case.may_give_up and got == wanted[:len(got)]:
        wanted = got
    if got != wanted:
        place = next((i for i, (a, b) in enumerate(zip(got, wanted)) if a != b), min(len(got), len(wanted)))
        raise Failed(f"{len(got)} frames instead of {len(wanted)}; at {place} "
                     f"{[describe(e) for e in got[place:place + 1]]} instead of "
                     f"{[describe(e) for e in wanted[place:place + 1]]}")
    if peer.close_payload is None:
        raise Failed("the connection ended without a close frame")
    if len(peer.close_payload) == 1:
        raise Failed("half a close code")
    code = int.from_bytes(peer.close_payload[:2], "big") if peer.close_payload else None
    if code != case.code:
        raise Failed(f"close code {code} instead of {case.code}")
    peer.close_payload[2:].decode()
    if peer.ended_at - peer.closed_at > END_SECONDS_MAX:
        raise Failed(f"the server ended {peer.ended_at - peer.closed_at:.2f} s after its close frame")


# ------------------------------------------------------------------------------- beside the cases

HANDSHAKES = [
    # name, lines to drop or to replace, status, a field that must be there
    ("no key", {"Sec-WebSocket-Key": None}, 400, None),
    ("a key of 15 bytes", {"Sec-WebSocket-Key": base64.b64encode(b"x" * 15).decode()}, 400, None),
    ("a key that is not base64", {"Sec-WebSocket-Key": "?" * 24}, 400, None),
    ("version 8", {"Sec-WebSocket-Version": "8"}, 426, "sec-websocket-version: 13"),
    ("no version", {"Sec-WebSocket-Version": None}, 426, "sec-websocket-version: 13"),
    ("no Connection: Upgrade", {"Connection": "keep-alive"}, 426, None),
    ("no Upgrade", {"Upgrade": None}, 426, None),
    ("Connection as a list, Upgrade in capitals", {"Connection": "keep-alive, uPgRaDe", "Upgrade": "WEBSOCKET"}, 101, None),
]


async def run_handshake(address, changes, status, wanted):
    fields = {"Host": "localhost", "Upgrade": "websocket", "Connection": "Upgrade",
              "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    fields.update(changes)
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(("GET /echo HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if not head.startswith(f"http/1.1 {status} ") or (wanted or "") not in head:
            raise Failed(f"{head!r} instead of {status} {wanted or ''}")
        if status != 101:
            await reader.read()
    finally:
        writer.transport.abort()


async def run_compression(address):
    """12 and 13: an offer of compression is declined, and a compressed frame is then a fault."""
    peer = await Peer.connect(address, "permessage-deflate; client_max_window_bits")
    case = fault("12", [frame(TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4)], 1002)
    receiving = asyncio.create_task(peer.receive_all())
    await peer.send(case)
    await receiving
    judge(case, peer)


HALF_CLOSED = [
    # What is sent before the client shuts its sending side, and how the answer begins and ends.
    ("the page", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 200 ", b"</html>\n"),
    ("not found", b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 404 ", b"\n"),
    ("upgrade, message, close", None, b"HTTP/1.1 101 ", b"\x81\x02hi\x88\x02\x03\xe8"),
]


async def run_half_closed(address, octets, begin, end):
    """A client that has said all it has to say still gets its last answer, and no reset."""
    if octets is None:
        octets = upgrade_request(address, "dGhlIHNhbXBsZSBub25jZQ==") + frame(TEXT, b"hi") + close(1000)
    reader, writer = await asyncio.open_connection(*address)
    try:
        # The last octet and the end travel in one segment, so the server finds both at once.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        writer.write(octets)
        writer.write_eof()
        answer = await reader.read()
        if not answer.startswith(begin) or not answer.endswith(end):
            raise Failed(f"{answer[:40]!r} ... {answer[-40:]!r}")
    finally:
        writer.transport.abort()


async def run_crowd(address, clients=300, messages=20):
    """Many at once: everyone is connected before anyone sends."""
    peers = await asyncio.gather(*(Peer.connect(address) for _ in range(clients)))

    async def one(number, peer):
        sent = [b"%d/%d" % (number, i) + b"." * (number + i) for i in range(messages)]
        case = Case("crowd", [frame(TEXT, m) for m in sent], [(TEXT, m) for m in sent])
        receiving = asyncio.create_task(peer.receive_all())
        await peer.send(case)
        await receiving
        judge(case, peer)
        peer.writer.transport.abort()

    await asyncio.gather(*(one(i, peer) for i, peer in enumerate(peers)))


def beside(address):
    for name, changes, status, wanted in HANDSHAKES:
        yield "0 handshake", f"0 {name}", lambda c=changes, s=status, w=wanted: run_handshake(address, c, s, w)
    yield "12 compression", "12 declined", lambda: run_compression(address)
    for name, *what in HALF_CLOSED:
        yield "13 half-closed", f"13 {name}", lambda w=what: run_half_closed(address, *w)
    yield "14 crowd", "14 300 clients at once", lambda: run_crowd(address)


# ------------------------------------------------------------------------------- the run

async def check(name, body, failures):
    try:
        await asyncio.wait_for(body(), CASE_SECONDS_MAX)
        return True
    except (Failed, OSError, EOFError, UnicodeDecodeError) as error:
        failures.append(f"{name}: {error or type(error).__name__}")
    except asyncio.TimeoutError:
        failures.append(f"{name}: not over after {CASE_SECONDS_MAX} s")
    return False


def groups(address):
    """Name, how many run side by side, and the cases, each made when it is its turn."""
    extra = {}
    for group, name, body in beside(address):
        extra.setdefault(group, []).append((name, body))

    def bodies(cases):
        return ((case.name, lambda case=case: run_case(address, case)) for case in cases)

    own = {name: bodies(cases()) for name, cases in GROUPS}
    for name, jobs in sorted((own | extra).items(), key=lambda item: int(item[0].split()[0])):
        # Large messages come one after the other: their time is looked at, and their memory counts.
        yield name, 1 if name.startswith("9 ") else 32, jobs


async def run_group(width, jobs):
    """How many cases passed, and what the others have to say."""
    jobs, passed, failures = iter(jobs), 0, []

    async def work():
        nonlocal passed
        for name, body in jobs:
            # Not in one expression: `passed` would be read before the wait.
            is_good = await check(name, body, failures)
            passed += is_good

    await asyncio.gather(*(work() for _ in range(width)))
    return passed, failures


async def run_all(address):
    passed = failed = 0
    for name, width, jobs in groups(address):
        began = time.monotonic()
        good, failures = await run_group(width, jobs)
        print(f"{name}: {good} of {good + len(failures)} in {time.monotonic() - began:.1f} s", flush=True)
        for line in failures:
            print(f"  FAILED {line}", flush=True)
        passed, failed = passed + good, failed + len(failures)
    print(f"{passed} passed, {failed} failed")
    return failed == 0


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: rfc6455.py <tidewheel binary>")
    # Pings come every second where they come at all: on /echo they must not.
    command = [sys.argv[1], "serve", "--echo", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
               "--heartbeat-interval", "1s", "--heartbeat-timeout", "1s"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = None
        for line in server.stdout:
            if found := re.match(r"listening on http://([^:]+):(\d+)", line):
                address = found[1], int(found[2])
            if line.startswith("admin on"):
                break
        if address is None:
            sys.exit("the server did not say where it listens")
        ok = asyncio.run(run_all(address))
    finally:
        server.terminate()
        try:
            code = server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            code = None
    if code != 0:
        print(f"the server ended with {code}")
    sys.exit(0 if ok and code == 0 else 1)


if __name__ == "__main__":
    main()
