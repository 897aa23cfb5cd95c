"""python run.py <tidewheel binary> [word ...]: the core jobs with the `websockets` library.

Every case, or those whose name has one of the words. One line a case, a summary, exit code 1 where
a case failed. Unlike npm's `ws` as the other cases use it, this client offers compression, pings by
itself and sends fragments when given an iterable.
"""

import asyncio
import itertools
import json
import re
import signal
import subprocess
import sys
import time
import traceback
import urllib.parse
import urllib.request

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

SUBPROTOCOL = "tidewheel.v1.json"
PATIENCE_S = 10
BINARY, *WORDS = sys.argv[1:] or [None]
rooms = (f"py-{n}" for n in itertools.count(1))
clients = []  # of the case that runs


class Server:
    """The server under test, on ports of its own."""

    def __init__(self, *flags):
        command = [BINARY, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", *flags]
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        text = ""
        while not (admin := re.search(r"admin(?: on)? +http://(\S+)\n", text)):
            line = self.child.stdout.readline()
            assert line, f"the server did not start: {text}"
            text += line
        self.listen = re.search(r"(?:listening on|public) +http://(\S+)", text)[1]
        self.admin = admin[1]

    def metrics(self):
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=PATIENCE_S) as answer:
            return answer.read().decode()

    def stop(self):
        self.child.send_signal(signal.SIGTERM)
        try:
            return self.child.wait(15)
        except subprocess.TimeoutExpired:
            self.child.kill()
            return self.child.wait()


class Client:
    """A connection whose frames wait in an inbox until somebody takes them."""

    def __init__(self, socket):
        self.socket, self.inbox, self.ids = socket, [], itertools.count(1)

    @classmethod
    async def open(cls, server, user=None, path="/ws", **options):
        query = f"?user_id={urllib.parse.quote(user)}" if user else ""
        options.setdefault("subprotocols", [SUBPROTOCOL])
        client = cls(await connect(f"ws://{server.listen}{path}{query}", proxy=None, **options))
        clients.append(client)
        client.me = (await client.take("connection_established"))["payload"]
        return client

    async def send(self, **message):
        await self.socket.send(json.dumps(message))

    async def take(self, wanted):
        fits = wanted if callable(wanted) else lambda frame: frame["type"] == wanted
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for at, frame in enumerate(self.inbox):
                    if fits(frame):
                        return self.inbox.pop(at)
                text = await self.socket.recv()
                assert isinstance(text, str), "the server sent a binary message"
                self.inbox.append(json.loads(text))

    async def messages(self, count):
        return [await self.take("message") for _ in range(count)]

    async def ask(self, metadata=None, **message):
        name = f"ask-{next(self.ids)}"
        await self.send(**message, metadata={**(metadata or {}), "correlation_id": name})
        return await self.take(lambda frame: frame.get("metadata", {}).get("correlation_id") == name)

    async def join(self, room, **payload):
        reply = await self.ask(type="join_room", room=room, payload=payload)
        assert reply["type"] == "room_joined", reply
        return reply["payload"]

    async def publish(self, room, payload, **metadata):
        reply = await self.ask(metadata, type="message", room=room, payload=payload)
        assert reply["type"] == "message_sent", reply
        return reply["payload"]

    async def rest(self):
        """Everything that came before the answer to a ping sent now."""
        await self.ask(type="ping")
        frames, self.inbox = self.inbox, []
        return frames

    def cut(self):
        """As when a cable is pulled: no close frame."""
        self.socket.transport.abort()

    async def close_code(self):
        async with asyncio.timeout(PATIENCE_S):
            try:
                while True:
                    self.inbox.append(json.loads(await self.socket.recv()))
            except ConnectionClosed:
                return self.socket.close_code


def equal(found, expected):
    assert found == expected, f"{found!r} is not {expected!r}"


async def two_members_join_publish_and_receive(server):
    room = next(rooms)
    ann, bob = await Client.open(server, "ann"), await Client.open(server, "Jörg & co")
    equal(bob.me["user_id"], "Jörg & co")
    equal(ann.socket.subprotocol, SUBPROTOCOL)
    joined = await ann.join(room)
    equal({**joined, "epoch": ""}, {"offset": 0, "epoch": "", "recovered": False, "members": 1})
    equal((await bob.join(room))["members"], 2)
    sent = await ann.publish(room, {"text": "one"}, message_id="m-1")
    equal(sent, {"offset": 1, "epoch": joined["epoch"], "message_id": "m-1"})
    await bob.publish(room, ["two", None, 2.5])
    for client in (ann, bob):
        one, two = await client.messages(2)
        equal([one["offset"], one["payload"], one["metadata"]["user_id"]], [1, {"text": "one"}, "ann"])
        equal([two["offset"], two["payload"]], [2, ["two", None, 2.5]])


async def a_thousand_messages_in_flight_keep_their_order(server):
    room = next(rooms)
    ann, bob = await Client.open(server), await Client.open(server)
    await bob.join(room)

    async def publish():
        for n in range(1000):
            await ann.send(type="message", room=room, payload=n)

    task = asyncio.create_task(publish())
    frames = await bob.messages(1000)
    await task
    equal([(await ann.take("message_sent"))["payload"]["offset"] for _ in range(1000)], [n + 1 for n in range(1000)])
    equal([(f["offset"], f["payload"]) for f in frames], [(n + 1, n) for n in range(1000)])


async def after_a_cut_exactly_what_was_missed_is_recovered(server):
    room = next(rooms)
    ann, bob = await Client.open(server, "ann"), await Client.open(server, "bob")
    position = await ann.join(room)
    await bob.publish(room, "seen")
    seen = await ann.take("message")
    ann.cut()
    for n in range(10):
        await bob.publish(room, n)
    again = await Client.open(server, "ann")
    joined = await again.join(room, recover={"epoch": position["epoch"], "offset": seen["offset"]}, history=1)
    equal([joined["recovered"], joined["offset"]], [True, 11])
    await bob.publish(room, "live")
    equal([f["payload"] for f in await again.messages(11)], [*range(10), "live"])
    equal(await again.rest(), [])


async def what_cannot_be_recovered_is_not_claimed_to_be(server):
    room = next(rooms)
    ann = await Client.open(server)
    epoch = (await ann.join(room))["epoch"]
    for n in range(130):
        await ann.publish(room, n)
    for recover in ({"epoch": epoch, "offset": 29}, {"epoch": "other", "offset": 130}, {"epoch": epoch, "offset": 131}):
        bob = await Client.open(server)
        joined = await bob.join(room, recover=recover, history=3)
        equal(joined["recovered"], False)
        equal([f["offset"] for f in await bob.messages(3)], [128, 129, 130])
    carol = await Client.open(server)
    equal((await carol.join(room, recover={"epoch": epoch, "offset": 30}))["recovered"], True)
    equal([f["offset"] for f in await carol.messages(100)], list(range(31, 131)))


async def the_same_message_id_is_accepted_once(server):
    room = next(rooms)
    ann, bob = await Client.open(server, "ann"), await Client.open(server, "bob")
    await bob.join(room)
    first = await ann.publish(room, "once", message_id="k")
    ann.cut()
    again = await Client.open(server, "ann")
    equal(await again.publish(room, "once", message_id="k"), first)
    equal((await bob.publish(room, "other user", message_id="k"))["offset"], first["offset"] + 1)
    equal([f["payload"] for f in await bob.messages(2)], ["once", "other user"])
    equal(await bob.rest(), [])


async def fragments_are_put_together(server):
    room = next(rooms)
    ann = await Client.open(server)
    await ann.join(room)
    text = json.dumps({"type": "message", "room": room, "payload": "Wörter 🛞 " * 200}, ensure_ascii=False)
    for size in (1, 7, 1000):
        parts = [text[at : at + size] for at in range(0, min(len(text), 900 * size), size)]
        parts[-1] += text[900 * size :]
        await ann.socket.send(parts)
        equal((await ann.take("message"))["payload"], "Wörter 🛞 " * 200)


async def pings_of_the_library_are_answered(server):
    ann = await Client.open(server, ping_interval=0.1, ping_timeout=2)
    latency = await asyncio.wait_for(await ann.socket.ping(b"payload"), PATIENCE_S)
    assert latency >= 0
    await asyncio.sleep(0.5)
    equal((await ann.ask(type="ping"))["type"], "pong")


async def compression_may_be_offered(server):
    for compression in ("deflate", None):
        ann = await Client.open(server, compression=compression)
        room = next(rooms)
        await ann.join(room)
        await ann.publish(room, "x" * 10_000)
        equal((await ann.take("message"))["payload"], "x" * 10_000)


async def a_handshake_with_something_wrong_is_http_400(server):
    for path, protocols in (("/ws", ["mqtt"]), ("/ws/%zz", [SUBPROTOCOL]), ("/ws?token=secret", None), ("/ws?user_id=", None)):
        try:
            await connect(f"ws://{server.listen}{path}", subprotocols=protocols, proxy=None)
        except InvalidStatus as refused:
            equal(refused.response.status_code, 400)
            assert b"secret" not in refused.response.body
        else:
            raise AssertionError(f"{path} {protocols} was let in")


async def faults_close_with_their_code(server):
    async def binary(client):
        await client.socket.send(b"{}")

    async def too_big(client):
        await client.send(type="message", room="r", payload="x" * client.me["max_message_bytes"])

    async def nonsense(client):
        for _ in range(11):
            await client.socket.send("nonsense")

    for fault, code in ((binary, 1003), (too_big, 1009), (nonsense, 4006)):
        client = await Client.open(server)
        await fault(client)
        equal((fault.__name__, await client.close_code()), (fault.__name__, code))


async def errors_leave_the_connection_open(server):
    ann = await Client.open(server)
    for message, code in (
        ({"type": "no_such_type"}, 4006),
        ({"type": "message", "room": "r"}, 4006),
        ({"type": "join_room", "room": "a\nb"}, 4006),
        ({"type": "direct_message", "payload": {"user_id": "nobody here", "data": 1}}, 4014),
    ):
        reply = await ann.ask(**message)
        equal((reply["type"], reply["payload"]["code"]), ("error", code))
    equal((await ann.ask(type="ping", payload=[1]))["payload"], [1])


async def a_drain_tells_everyone_and_closes_with_4200(_):
    server = Server("--drain-window", "500ms")
    everyone = [await Client.open(server) for _ in range(4)]
    server.child.send_signal(signal.SIGTERM)
    for client in everyone:
        notice = await client.take("server_shutdown")
        assert notice["payload"]["reconnect_after_ms"] >= 0
        equal(await client.close_code(), 4200)
    equal(await asyncio.to_thread(server.child.wait, PATIENCE_S), 0)


CASES = [case for name, case in list(globals().items()) if asyncio.iscoroutinefunction(case) and case.__module__ == __name__]


async def run(case, server):
    begun, fault = time.monotonic(), ""
    try:
        async with asyncio.timeout(60):
            await case(server)
    except Exception:  # a case may fail in any way
        fault = traceback.format_exc(limit=-6)
    await asyncio.gather(*(client.socket.close() for client in clients))
    clients.clear()
    name = case.__name__.replace("_", " ")
    print(f"{'FAIL' if fault else 'ok  '} {name} ({(time.monotonic() - begun) * 1000:.0f} ms)", flush=True)
    if fault:
        print("       " + fault.strip().replace("\n", "\n       "), flush=True)
    return not fault


async def main():
    server = Server()
    cases = [case for case in CASES if not WORDS or any(word in case.__name__ for word in WORDS)]
    try:
        passed = [await run(case, server) for case in cases]
    finally:
        end = await asyncio.to_thread(server.stop)
    if end != 0:
        print(f"FAIL the server ended with {end}")
    failed = passed.count(False) + (end != 0)
    print(f"{passed.count(True)} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    if not BINARY:
        sys.exit("usage: python run.py <tidewheel binary> [word ...]")
    sys.exit(asyncio.run(main()))
