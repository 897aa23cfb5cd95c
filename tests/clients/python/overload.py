#!/usr/bin/env python3
"""What clients see of a server that is full, and of one that drains.

    python3 tests/clients/python/overload.py target/release/tidewheel
"""

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time

UPGRADE = (b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")


class Server:
    def __init__(self, binary, *flags, descriptors=None):
        def limit():
            if descriptors:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        command = [binary, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=limit)
        for line in self.process.stdout:
            if found := re.match(r"listening on http://([^:]+):(\d+)", line):
                self.address = found[1], int(found[2])
            if line.startswith("admin on"):
                break

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def terminate(self, seconds):
        self.process.send_signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return None


def connect(server):
    return socket.create_connection(server.address, timeout=5)


def text(payload):
    """A masked text frame; a mask of zeros is one too."""
    assert len(payload) < 126
    return bytes([0x81, 0x80 | len(payload)]) + bytes(4) + payload


def out_of_descriptors(binary):
    """Everyone beyond the limit is told 503 and when to come back, and the loop does not spin."""
    server = Server(binary, descriptors=200)
    peers = [connect(server) for _ in range(500)]
    for peer in peers:
        peer.sendall(UPGRADE)
    answers = [peer.recv(4096) for peer in peers]
    served = sum(a.startswith(b"HTTP/1.1 101 ") for a in answers)
    refused = sum(a.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: " in a for a in answers)
    assert served > 100 and served + refused == len(peers), (served, refused)
    before = server.cpu_seconds()
    time.sleep(1)
    assert server.cpu_seconds() - before < 0.2, "busy with nothing"
    for peer in peers:
        peer.close()
    deadline = time.monotonic() + 5
    while True:
        with connect(server) as peer:
            peer.sendall(UPGRADE)
            if peer.recv(4096).startswith(b"HTTP/1.1 101 "):
                break
        assert time.monotonic() < deadline, "nobody is let in again"
        time.sleep(0.05)
    assert server.terminate(15) == 0


def rooms_of_an_idle_core(binary):
    """A core without connections stays in a drain: rooms at home there are the others' too."""
    server = Server(binary, "--drain-window", "2s", "--shards", "4")
    peer = connect(server)
    peer.sendall(UPGRADE)
    received = peer.recv(4096)
    server.process.send_signal(signal.SIGTERM)
    while b"server_shutdown" not in received:
        received += peer.recv(4096)
    for room in range(20):
        peer.sendall(text(b'{"type":"message","room":"r%d","payload":1}' % room))
    while part := peer.recv(65536):
        received += part
    peer.close()
    answered = received.count(b'{"type":"message_sent"')
    # The moment of the close is the server's to choose, and may come before the commands do.
    assert answered == 20 or answered == 0 and received.endswith(b"restarting"), answered
    assert server.wait(15) == 0


CASES = [out_of_descriptors, rooms_of_an_idle_core]


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: overload.py <tidewheel binary>")
    failed = 0
    for case in CASES:
        try:
            case(sys.argv[1])
            print(f"{case.__name__}: ok", flush=True)
        except (AssertionError, OSError) as error:
            failed += 1
            print(f"{case.__name__}: FAILED {error}", flush=True)
    print(f"{len(CASES) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
