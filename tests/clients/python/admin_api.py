"""python admin_api.py <tidewheel binary>: the admin API over HTTP.

Each call once as it should be, each documented error once as it comes about, then schemathesis: a fixed
number of requests for each call, made from the server's own description, good ones and bad ones, the same
in each run. One line a case, a summary, exit code 1 where a case failed.
"""

import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

from websockets.sync.client import connect

BINARY = sys.argv[1]
PATIENCE_S = 20
EXAMPLES = "12"
JSON = {"Content-Type": "application/json"}
folder = tempfile.TemporaryDirectory()


def make_keys():
    """A file with one key of each scope, and the keys by name."""
    keys, lines = {}, []
    for name, scope in [("feed", "publish"), ("eyes", "read"), ("ops", "admin")]:
        made = subprocess.run([BINARY, "api-key", "make", name, "--scope", scope], capture_output=True, text=True)
        keys[name] = re.search(r"^key +(\S+)$", made.stdout, re.M)[1]
        lines.append(re.search(r"^line +(.+)$", made.stdout, re.M)[1])
    file = pathlib.Path(folder.name, "keys")
    file.write_text("\n".join(lines) + "\n")
    return file, keys


KEY_FILE, KEYS = make_keys()


class Server:
    """The server under test, on ports of its own."""

    def __init__(self, *flags):
        command = [BINARY, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--drain-window", "0s", *flags]
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        text = ""
        while not (admin := re.search(r"admin on +http://(\S+)\n", text)):
            line = self.child.stdout.readline()
            assert line, f"the server did not start: {text}"
            text += line
        self.listen = re.search(r"listening on +http://(\S+)", text)[1]
        self.admin = admin[1]

    def ask(self, method, path, body=None, key="ops", headers=None):
        """The status, the answer and its headers."""
        connection = http.client.HTTPConnection(self.admin, timeout=PATIENCE_S)
        headers = dict(headers) if headers is not None else dict(JSON if body is not None else {})
        if key is not None:
            headers["Authorization"] = f"Bearer {KEYS.get(key, key)}"
        text = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
        connection.request(method, path, text, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text) if text else None, answer.headers

    def good(self, method, path, body=None, **rest):
        status, answer, _ = self.ask(method, path, body, **rest)
        assert status == 200, (method, path, status, answer)
        return answer

    def problem(self, status, method, path, body=None, code=None, **rest):
        """Asks for what has to be a problem with this status."""
        found, answer, headers = self.ask(method, path, body, **rest)
        assert found == status, (method, path, found, answer)
        assert headers["content-type"] == "application/problem+json", headers["content-type"]
        assert answer["type"] == "about:blank" and answer["status"] == status and answer["detail"], answer
        assert answer.get("code") == code, answer
        return headers

    def client(self, user):
        client = connect(f"ws://{self.listen}/ws?user_id={user}", subprotocols=["tidewheel.v1.json"], legacy=True)
        receive(client, "connection_established")
        return client

    def stop(self):
        self.child.send_signal(signal.SIGTERM)
        try:
            return self.child.wait(15)
        except subprocess.TimeoutExpired:
            self.child.kill()
            return self.child.wait()


def receive(client, kind):
    message = json.loads(client.recv(PATIENCE_S))
    assert message["type"] == kind, message
    return message


def join(client, room):
    client.send(json.dumps({"type": "join_room", "room": room}))
    return receive(client, "room_joined")


def case_publish(server):
    ada = server.client("ada")
    join(ada, "a/b é")
    path = "/api/v1/rooms/a%2Fb%20%C3%A9/messages"
    payload = '{"big": 12345678901234567890.10, "x":"\\u0041", "big":1e999}'
    first = server.good("POST", path, f'{{"payload": {payload},"message_id":"m1"}}', key="feed")
    assert first["offset"] == 1 and first["message_id"] == "m1", first
    raw = ada.recv(PATIENCE_S)
    assert payload in raw, raw
    message = json.loads(raw)
    assert message["offset"] == 1 and "user_id" not in message["metadata"], message
    assert server.good("POST", path, {"payload": 2, "message_id": "m1"}) == first
    second = server.good("POST", path, {"payload": None})
    assert second["offset"] == 2 and second["message_id"], second
    assert receive(ada, "message")["payload"] is None
    history = server.good("GET", path + "?since=1&limit=5", key="eyes")
    assert [m["offset"] for m in history["messages"]] == [2] and history["complete"] is True, history
    assert history["epoch"] == first["epoch"] and history["offset"] == 2
    room = server.good("GET", "/api/v1/rooms/a%2Fb%20%C3%A9", key="eyes")
    assert (room["room"], room["members"], room["connections"], room["offset"]) == ("a/b é", 1, 1, 2), room
    members = server.good("GET", "/api/v1/rooms/a%2Fb%20%C3%A9/members", key="eyes")
    assert members["count"] == 1 and members["members"][0]["user_id"] == "ada", members
    ada.close()


def case_batch(server):
    ada = server.client("ada")
    for n in range(5):
        join(ada, f"batch-{n}")
    messages = [{"room": f"batch-{n % 5}", "payload": n, "message_id": f"b{n}"} for n in range(100)]
    messages[50]["payload"] = "x" * 70_000
    results = server.good("POST", "/api/v1/publish", {"messages": messages}, key="feed")["results"]
    assert len(results) == 100 and results[50]["error"]["code"] == 4005, results[50]
    for n, result in enumerate(results):
        if n != 50:
            expected = n // 5 + 1 - (n % 5 == 0 and n > 50)
            assert (result["offset"], result["message_id"]) == (expected, f"b{n}"), (n, result)
    got = {f"batch-{n}": [] for n in range(5)}
    for _ in range(99):
        message = receive(ada, "message")
        got[message["room"]].append(message["payload"])
    for n in range(5):
        assert got[f"batch-{n}"] == [i for i in range(n, 100, 5) if i != 50], n
    again = server.good("POST", "/api/v1/publish", {"messages": messages}, key="feed")["results"]
    assert again == results
    assert server.good("POST", "/api/v1/publish", {"messages": []}) == {"results": []}
    ada.close()


def case_users(server):
    ada, bob = server.client("ada"), server.client("bob")
    assert server.good("POST", "/api/v1/users/ada/messages", {"payload": [1, 2]}, key="feed") == {"connections": 1}
    assert receive(ada, "direct_message")["payload"] == {"data": [1, 2]}
    reached = server.good("POST", "/api/v1/broadcast", {"payload": "all"}, key="feed")
    assert reached["connections"] == 2, reached
    for client in (ada, bob):
        assert receive(client, "broadcast") == {"type": "broadcast", "payload": "all"}
    assert server.good("PUT", "/api/v1/users/ada/rooms/put-here") == {"connections": 1}
    assert receive(ada, "room_joined")["room"] == "put-here"
    assert server.good("DELETE", "/api/v1/users/ada/rooms/put-here") == {"connections": 1}
    assert receive(ada, "room_left")["room"] == "put-here"
    assert server.good("PUT", "/api/v1/users/nobody/rooms/put-here") == {"connections": 0}
    assert server.good("GET", "/api/v1/users/ada") == {"user_id": "ada", "connections": 1}
    assert server.good("GET", "/api/v1/users/nobody") == {"user_id": "nobody", "connections": 0}
    assert server.good("POST", "/api/v1/users/ada/disconnect") == {"connections": 1}
    assert closed(ada) == (4012, "disconnected by the server's API")
    reason = {"code": 4321, "reason": "signed out"}
    assert server.good("POST", "/api/v1/users/bob/disconnect", reason) == {"connections": 1}
    assert closed(bob) == (4321, "signed out")
    bob = server.client("bob")
    assert server.good("PUT", "/api/v1/users/bob/ban", {"ttl_s": 60}) == {"connections": 1}
    banned = server.good("GET", "/api/v1/users/bob")
    assert banned["banned"] is True and banned["banned_until"].endswith("Z"), banned
    server.problem(400, "PUT", "/api/v1/users/bob/ban", {"ttl": 60}, code=4006)
    assert closed(bob)[0] == 4009
    bob = connect(f"ws://{server.listen}/ws?user_id=bob", legacy=True)
    assert closed(bob)[0] == 4009
    for _ in range(2):
        assert server.good("DELETE", "/api/v1/users/bob/ban") == {"connections": 0}
    server.client("bob").close()


def closed(client):
    try:
        while True:
            client.recv(PATIENCE_S)
    except Exception as error:  # whatever it is called, it has the close frame
        return error.rcvd.code, error.rcvd.reason


def case_list(server):
    names = {f"list-{n}" for n in range(230)}
    messages = [{"room": name, "payload": 0} for name in sorted(names)]
    server.good("POST", "/api/v1/publish", {"messages": messages})
    for limit in (1000, 100, 7):
        seen, after, pages = [], "", 0
        while after is not None:
            page = server.good("GET", f"/api/v1/rooms?limit={limit}{after}", key="eyes")
            assert len(page["rooms"]) <= limit
            seen += [room["room"] for room in page["rooms"]]
            after = f"&after={page['next']}" if "next" in page else None
            pages += 1
            assert pages < 500
        assert len(seen) == len(set(seen)) and names <= set(seen), limit


def case_node(server):
    node = server.good("GET", "/api/v1/node", key="eyes")
    assert node["cores"] == node["cores_up"] >= 1 and node["state"] == "ready", node
    assert node["listen"] == [server.listen] and node["admin_listen"] == server.admin, node
    description = server.good("GET", "/api/openapi.json", key=None)
    assert description["openapi"] == "3.1.0"


def case_scopes(server):
    """What each scope may do; 401 and 403."""
    description = server.good("GET", "/api/openapi.json", key=None)
    names = {"publish": "feed", "read": "eyes", "admin": "ops"}
    calls = 0
    for path, item in description["paths"].items():
        for method, operation in item.items():
            path_of = path.replace("{room}", "scoped").replace("{user}", "scoped")
            scope = operation["security"][0]["api_key"][0]
            headers = server.problem(401, method.upper(), path_of, key=None)
            assert headers["www-authenticate"].startswith("Bearer"), headers
            assert headers["connection"] == "close"
            for other, name in names.items():
                status, _, headers = server.ask(method.upper(), path_of, key=name)
                allowed = name in (names[scope], "ops")
                assert (status not in (401, 403)) == allowed, (method, path, other, status)
                assert allowed or f'scope="{scope}"' in headers["www-authenticate"]
            calls += 1
    assert calls == 15
    for key in ("x", "x" * 600, KEYS["ops"] + "x", KEYS["ops"][:-1]):
        server.problem(401, "GET", "/api/v1/node", key=key)
    server.problem(401, "GET", "/metrics", key=None)


def case_errors(server):
    """Each documented error but those of keys."""
    post, room = "/api/v1/rooms/e/messages", "/api/v1/rooms/never-there"
    for bad in ("%", "%zz", "%ff", "%00", "a%0Ab", "", "x" * 256):
        server.problem(400, "POST", f"/api/v1/rooms/{bad}/messages", {"payload": 1})
        server.problem(400, "PUT", f"/api/v1/users/{bad}/ban")
    bodies = ["", "[]", "{", "{}", '{"payload":1,"payload":2}', '{"payload":1,"message_id":""}']
    bodies += ['{"payload":1,"message_id":7}', '{"payload":' + "[" * 513 + "]" * 513 + "}", b'{"payload":"\xff"}']
    for body in bodies:
        server.problem(400, "POST", post, body, code=4006)
    server.good("POST", post, '{"payload":' + "[" * 512 + "]" * 512 + ',"unknown":1}')
    for body in ('{"messages":1}', '{"messages":[1]}', '{"messages":[{"room":"","payload":1}]}'):
        server.problem(400, "POST", "/api/v1/publish", body, code=4006)
    for body in ({"code": 1001}, {"code": "4000"}, {"reason": "x" * 124}):
        server.problem(400, "POST", "/api/v1/users/u/disconnect", body, code=4006)
    for body in ({"ttl_s": 0}, {"ttl_s": -1}, {"ttl_s": 1.5}, {"ttl_s": 315_360_001}):
        server.problem(400, "PUT", "/api/v1/users/u/ban", body, code=4006)
    for query in ("limit=0", "limit=1001", "limit=x", "after=x", "limit=1&limit=2"):
        server.problem(400, "GET", f"/api/v1/rooms?{query}")
    for path in (room, f"{room}/members", f"{room}/messages"):
        server.problem(404, "GET", path, code=4007)
    server.problem(404, "POST", "/api/v1/users/never-there/messages", {"payload": 1}, code=4014)
    server.problem(404, "GET", "/api/v2/node")
    assert server.problem(405, "PATCH", room)["allow"]
    for headers in ({}, {"Content-Type": "text/plain"}, JSON | {"Content-Encoding": "gzip"}):
        server.problem(415, "POST", post, '{"payload":1}', headers=headers)
    server.problem(413, "POST", post, {"payload": "x" * 70_000}, code=4005)
    server.problem(413, "POST", "/api/v1/broadcast", {"payload": "x" * 70_000}, code=4005)
    messages = [{"room": "e", "payload": 1}] * 1_001
    server.problem(400, "POST", "/api/v1/publish", {"messages": messages}, code=4006)
    large = head(server, post, 1 << 21)
    assert answer_of(large).startswith(b"HTTP/1.1 413 "), "announced"
    slow = head(server, post, 100)
    slow.sendall(b'{"payload"')
    assert answer_of(slow).startswith(b"HTTP/1.1 408 "), "slow"


def head(server, path, length):
    """A connection on which a request has begun whose body is to have this length."""
    host, port = server.admin.rsplit(":", 1)
    stream = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
    text = f"POST {path} HTTP/1.1\r\nHost: {server.admin}\r\nAuthorization: Bearer {KEYS['ops']}\r\n"
    stream.sendall(f"{text}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode())
    return stream


def answer_of(stream):
    answer = b""
    while more := stream.recv(65_536):
        answer += more
    return answer


def case_full(_):
    """503 where there is no place for another room, 404 where rooms are explicit."""
    server = Server("--max-rooms", "1", "--shards", "1")
    try:
        server.good("POST", "/api/v1/rooms/one/messages", {"payload": 1}, key=None)
        headers = server.problem(503, "POST", "/api/v1/rooms/two/messages", {"payload": 1}, code=4100, key=None)
        assert headers["retry-after"] == "1"
    finally:
        assert server.stop() == 0
    server = Server("--rooms", "explicit")
    try:
        server.problem(404, "POST", "/api/v1/rooms/one/messages", {"payload": 1}, code=4007, key=None)
        server.problem(404, "PUT", "/api/v1/users/ada/rooms/one", code=4007, key=None)
        results = server.good("POST", "/api/v1/publish", {"messages": [{"room": "one", "payload": 1}]}, key=None)
        assert results["results"][0]["error"]["code"] == 4007
    finally:
        assert server.stop() == 0


def case_browsers(_):
    """Without keys: programs may do everything, pages of strangers nothing."""
    server = Server()
    try:
        post = ("POST", "/api/v1/rooms/e/messages", {"payload": 1})
        server.good(*post, key=None)
        for foreign in (
            {"Host": "evil.example:9090"},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            server.problem(403, *post, key=None, headers=JSON | foreign)
            server.problem(403, "PUT", "/api/v1/users/ada/ban", key=None, headers=foreign)
        server.problem(415, *post, key=None, headers={"Content-Type": "text/plain"})
        server.good(*post, key=None, headers=JSON | {"Origin": f"http://{server.admin}"})
    finally:
        assert server.stop() == 0


def case_reload(server):
    """Keys are read anew when the file changes; one that cannot be used changes nothing."""
    before = KEY_FILE.read_text()
    file = pathlib.Path(folder.name, "next")
    for text, expected in ((before.replace("feed publish", "feed read"), 403), ("broken", 403), (before, 200)):
        file.write_text(text)
        os.rename(file, KEY_FILE)
        server.child.send_signal(signal.SIGHUP)
        until = time.monotonic() + PATIENCE_S
        while server.ask("POST", "/api/v1/broadcast", {"payload": 1}, key="feed")[0] != expected:
            assert time.monotonic() < until, expected
            time.sleep(0.05)


def case_schemathesis(server):
    program = pathlib.Path(sys.executable).with_name("schemathesis")
    command = [program, "run", f"http://{server.admin}/api/openapi.json", "--no-color"]
    command += ["--header", f"Authorization: Bearer {KEYS['ops']}", "--max-examples", EXAMPLES]
    # The same requests in each run.
    command += ["--generation-deterministic"]
    # Names are bounded in bytes, which no schema can say: characters of one byte each.
    command += ["--phases", "examples,coverage,fuzzing", "--generation-codec", "ascii"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder.name)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]


def main():
    passed = failed = 0
    server = Server("--api-key-file", str(KEY_FILE))
    for name, case in list(globals().items()):
        words = sys.argv[2:]
        if not name.startswith("case_") or (words and not any(word in name for word in words)):
            continue
        begun = time.monotonic()
        try:
            case(server)
            passed += 1
            print(f"ok    {name[5:]} ({time.monotonic() - begun:.1f} s)")
        except Exception:
            failed += 1
            print(f"FAIL  {name[5:]}\n{traceback.format_exc()}")
    if server.stop() != 0:
        failed += 1
        print("FAIL  the server did not end well")
    print(f"{passed} passed, {failed} failed")
    folder.cleanup()
    sys.exit(1 if failed else 0)


main()
