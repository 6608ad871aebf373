"""QUIC with quic-go, by the HTTP/3 of Caddy."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tieline import TLSError

from ..authority import LOCALHOST, OTHER_NAME, save
from ..peers import free_port
from .http3 import requested, start_http3
from .payload import digest
from .programs import Program, running
from .test_quic_ngtcp2 import connected

Find = Callable[[str], str]
BODY = random.Random(12).randbytes(3_000_000)

CADDYFILE = """
{{
    admin off
    auto_https off
    skip_install_trust
    servers {{
        protocols h3
    }}
}}
https://localhost:{port} {{
    bind 127.0.0.1
    tls {certificate} {key}
    root * {folder}
    file_server
}}
"""


@asynccontextmanager
async def caddy(peer: Find, folder: Path, identity: Any = LOCALHOST) -> AsyncIterator[tuple[int, Program]]:
    """It has a file ``body``."""
    port = free_port()
    certificate, key = save(folder, "server", identity)
    (folder / "body").write_bytes(BODY)
    configuration = folder / "Caddyfile"
    configuration.write_text(CADDYFILE.format(port=port, certificate=certificate, key=key, folder=folder))
    command = (peer("caddy"), "run", "--config", configuration, "--adapter", "caddyfile")
    # It keeps things in a folder of its own at home.
    surroundings = (f"HOME={folder}", f"XDG_DATA_HOME={folder}", f"PATH={os.environ['PATH']}")
    async with running("env", *surroundings, *map(str, command)) as program:
        yield port, program


async def test_our_client(peer: Find, tmp_path: Path) -> None:
    """Downloads side by side, with key updates; and it comes back with a ticket. It may not move, for quic-go forbids that."""
    async with caddy(peer, tmp_path) as (port, program):
        for resumed in (False, True):
            async with await connected(port, program) as connection:
                assert connection.security_metadata.resumed is resumed
                control = await start_http3(connection)
                for _ in range(3):
                    transfers = asyncio.gather(*(requested(connection, "/body") for _ in range(3)))
                    await asyncio.sleep(0.01)
                    connection.update_keys()
                    assert [digest(one) for one in await transfers] == [digest(BODY)] * 3
                before = connection.local_endpoint
                with pytest.raises(RuntimeError, match="the peer does not allow migration"):
                    await connection.migrate()
                assert connection.local_endpoint == before
                assert digest(await requested(connection, "/body")) == digest(BODY)
                del control


async def test_many_streams(peer: Find, tmp_path: Path) -> None:
    """More than it lets us open at once."""
    async with caddy(peer, tmp_path) as (port, program), await connected(port, program) as connection:
        (tmp_path / "small").write_bytes(BODY[:2000])
        control = await start_http3(connection)
        assert await asyncio.gather(*(requested(connection, "/small") for _ in range(300))) == [BODY[:2000]] * 300
        del control


async def test_refusals(peer: Find, tmp_path: Path) -> None:
    async with caddy(peer, tmp_path, OTHER_NAME) as (port, program):
        with pytest.raises(TLSError, match="the peer's certificate is for another name"):
            await connected(port, program)
        with pytest.raises(TLSError) as caught:
            await connected(port, program, alpn=["other"])
        assert caught.value.alert == "no_application_protocol"
