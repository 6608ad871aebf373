"""A chat for browsers: one listener has the page and its WebSockets. `python browser_chat.py serve 8000`, then open it twice."""

import asyncio
import sys

from tieline import TCP, HTTPRequest, HTTPResponse, NetworkConnection, NetworkListener, WebSocket, broadcast

PAGE = """<!DOCTYPE html>
<meta charset="utf-8">
<title>Chat</title>
<h1>Chat</h1>
<ul id="lines"></ul>
<form id="form"><input id="line" autocomplete="off" autofocus><button>Say</button></form>
<script>
  const socket = new WebSocket(`ws://${location.host}/chat`);
  const say = (text) => {
    const line = document.createElement("li");
    line.textContent = text;
    document.getElementById("lines").append(line);
  };
  socket.onopen = () => socket.send(new URLSearchParams(location.search).get("say") ?? "hello");
  socket.onmessage = (event) => say(event.data);
  socket.onclose = (event) => say(`closed: ${event.code}`);
  document.getElementById("form").onsubmit = (event) => {
    event.preventDefault();
    socket.send(document.getElementById("line").value);
    event.target.reset();
  };
</script>
"""

present: set[NetworkConnection[WebSocket]] = set()


def page(request: HTTPRequest) -> HTTPResponse | None:
    if request.path == "/":
        return HTTPResponse(200, [("Content-Type", "text/html; charset=utf-8")], PAGE)
    return None  # the WebSocket's own answer, if it is for that


async def room(connection: NetworkConnection[WebSocket]) -> None:
    present.add(connection)
    try:
        async for line, _ in connection.messages:
            broadcast(present, f"{connection.id}: {line}", slow="close")
    finally:
        present.discard(connection)


async def main() -> None:
    serve = sys.argv[1:2] == ["serve"]
    port = int(sys.argv[2]) if serve and len(sys.argv) > 2 else 0
    async with NetworkListener(WebSocket(respond=page), on=("127.0.0.1", port)).serving(room) as listener:
        if serve:
            print(f"http://127.0.0.1:{listener.port}/", flush=True)
            await asyncio.Event().wait()
        # What a browser does, without one: it gets the page, and then two of them talk.
        async with NetworkConnection(listener.endpoint, TCP()) as browser:
            await browser.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head, _ = await browser.receive(until=b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
        url = f"ws://127.0.0.1:{listener.port}/chat"
        async with NetworkConnection(url, WebSocket()) as one:
            await one.send("hello")
            assert str((await one.receive()).content).endswith(": hello")
            async with NetworkConnection(url, WebSocket()) as two:
                await two.send("grüße")
                for either in (one, two):
                    assert str((await either.receive()).content).endswith(": grüße")
    print("ok")


asyncio.run(main())
