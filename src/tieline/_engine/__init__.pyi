from tieline._engine import datagram as datagram
from tieline._engine import polling as polling
from tieline._engine import quic as quic
from tieline._engine import stream as stream
from tieline._engine import tls as tls
from tieline._engine import websocket as websocket

__all__ = ["datagram", "polling", "quic", "stream", "tls", "websocket"]
