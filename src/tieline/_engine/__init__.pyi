from tieline._engine import quic as quic
from tieline._engine import tls as tls

__all__ = ["quic", "tls"]
