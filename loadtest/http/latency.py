"""python latency.py LISTEN ADMIN [members [messages [a second]]]: from the publish over HTTP to its receipt.

Members of one room over plain sockets, one thread of Python for all of them: what it takes to look at a
thousand sockets is in the figures, so they are an upper bound. Told: p50 and p99 over all receipts, and
over the last receipt of each message.
"""

import http.client
import os
import selectors
import socket
import sys
import threading
import time

LISTEN, ADMIN = sys.argv[1:3]
MEMBERS, MESSAGES, RATE = [int(n) for n in sys.argv[3:] + ["1000", "200", "20"][len(sys.argv) - 3 :]]
host, port = LISTEN.rsplit(":", 1)
UPGRADE = (
    "GET /ws/latency HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

poll = selectors.DefaultSelector()
members = []
for n in range(MEMBERS):
    member = socket.create_connection((host, int(port)), source_address=(f"127.0.0.{2 + n % 50}", 0))
    member.sendall(UPGRADE.encode())
    text = b""
    while b"room_joined" not in text:
        text += member.recv(4096)
    member.setblocking(False)
    poll.register(member, selectors.EVENT_READ)
    members.append(member)

sent, taken = {}, []
done = threading.Event()


def publish():
    backend = http.client.HTTPConnection(ADMIN)
    backend.connect()
    backend.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("TIDEWHEEL_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    for n in range(MESSAGES):
        sent[n] = time.perf_counter()
        backend.request("POST", "/api/v1/rooms/latency/messages", f'{{"payload":"m{n:06}"}}', headers)
        answer = backend.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
        taken.append(time.perf_counter() - sent[n])
        time.sleep(max(0, sent[n] + 1 / RATE - time.perf_counter()))
    done.set()


def told(name, seconds):
    seconds = sorted(seconds)
    at = lambda part: seconds[min(len(seconds) - 1, int(len(seconds) * part))] * 1000
    print(f"{name:22} {len(seconds):8}  p50 {at(0.5):7.2f} ms  p99 {at(0.99):7.2f} ms  max {seconds[-1] * 1000:7.2f} ms")


threading.Thread(target=publish, daemon=True).start()
receipts, last, expected = [], {}, MEMBERS * MESSAGES
until = time.perf_counter() + MESSAGES / RATE + 20
while len(receipts) < expected and time.perf_counter() < until:
    for ready, _ in poll.select(1):
        frame = ready.fileobj.recv(65536)
        now = time.perf_counter()
        at = frame.find(b'"payload":"m')
        while at >= 0:
            n = int(frame[at + 12 : at + 18])
            receipts.append(now - sent[n])
            last[n] = now - sent[n]
            at = frame.find(b'"payload":"m', at + 1)
assert len(receipts) == expected, f"{len(receipts)} of {expected} came"
told("answers", taken)
told("receipts", receipts)
told("last receipt", last.values())
