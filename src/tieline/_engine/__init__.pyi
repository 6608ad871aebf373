from tieline._engine import tls as tls

__all__ = ["tls"]
