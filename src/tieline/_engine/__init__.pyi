from tieline._engine import tls as tls
