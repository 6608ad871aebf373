from tieline._engine import quic as quic
from tieline._engine import tls as tls
from tieline._engine import websocket as websocket

__all__ = ["quic", "tls", "websocket"]
