"""Connections, listeners and network paths: say where and how, then send and receive.

async with NetworkConnection("example.com:443", TLS(alpn=["h2"])) as connection:
    await connection.send(b"hello")
"""

from typing import TYPE_CHECKING, Any

from tieline.channel import MessageIterator as MessageIterator
from tieline.channel import NetworkChannel as NetworkChannel
from tieline.connection import NetworkConnection as NetworkConnection
from tieline.endpoints import Connectable as Connectable
from tieline.endpoints import Endpoint as Endpoint
from tieline.endpoints import EndpointLike as EndpointLike
from tieline.endpoints import HostPort as HostPort
from tieline.endpoints import ServiceEndpoint as ServiceEndpoint
from tieline.endpoints import UnixEndpoint as UnixEndpoint
from tieline.endpoints import URLEndpoint as URLEndpoint
from tieline.engines.states import GroupState as GroupState
from tieline.engines.states import ListenerState as ListenerState
from tieline.engines.states import State as State
from tieline.errors import Attempt as Attempt
from tieline.errors import ChannelClosedError as ChannelClosedError
from tieline.errors import CloseTimeoutError as CloseTimeoutError
from tieline.errors import ConnectError as ConnectError
from tieline.errors import ConnectionAbortedByPeerError as ConnectionAbortedByPeerError
from tieline.errors import DecodingError as DecodingError
from tieline.errors import DNSError as DNSError
from tieline.errors import EncodingError as EncodingError
from tieline.errors import EndOfStreamError as EndOfStreamError
from tieline.errors import ErrorDomain as ErrorDomain
from tieline.errors import HandshakeTimeoutError as HandshakeTimeoutError
from tieline.errors import IdleTimeoutError as IdleTimeoutError
from tieline.errors import IncompleteReceiveError as IncompleteReceiveError
from tieline.errors import MessageTooLargeError as MessageTooLargeError
from tieline.errors import NetworkError as NetworkError
from tieline.errors import PeerResetError as PeerResetError
from tieline.errors import Phase as Phase
from tieline.errors import ProtocolViolationError as ProtocolViolationError
from tieline.errors import TLSError as TLSError
from tieline.errors import UnexpectedEndpointTypeError as UnexpectedEndpointTypeError
from tieline.identity import Identity as Identity
from tieline.identity import Trust as Trust
from tieline.listener import NetworkListener as NetworkListener
from tieline.monitor import PathMonitor as PathMonitor
from tieline.monitor import set_interface_policy as set_interface_policy
from tieline.parameters import Multipath as Multipath
from tieline.parameters import Parameters as Parameters
from tieline.paths import Interface as Interface
from tieline.paths import InterfaceType as InterfaceType
from tieline.paths import LinkQuality as LinkQuality
from tieline.paths import Path as Path
from tieline.paths import PathStatus as PathStatus
from tieline.paths import UnsatisfiedReason as UnsatisfiedReason
from tieline.protocols.coder import Coder as Coder
from tieline.protocols.coder import CoderMetadata as CoderMetadata
from tieline.protocols.coder import NetworkCoder as NetworkCoder
from tieline.protocols.framer import Framer as Framer
from tieline.protocols.framer import FramerContext as FramerContext
from tieline.protocols.framer import FramerMetadata as FramerMetadata
from tieline.protocols.framer import FramerProtocol as FramerProtocol
from tieline.protocols.http import HTTPRequest as HTTPRequest
from tieline.protocols.http import HTTPResponse as HTTPResponse
from tieline.protocols.integers import FixedWidthInteger as FixedWidthInteger
from tieline.protocols.integers import Int8 as Int8
from tieline.protocols.integers import Int16 as Int16
from tieline.protocols.integers import Int32 as Int32
from tieline.protocols.integers import Int64 as Int64
from tieline.protocols.integers import UInt8 as UInt8
from tieline.protocols.integers import UInt16 as UInt16
from tieline.protocols.integers import UInt32 as UInt32
from tieline.protocols.integers import UInt64 as UInt64
from tieline.protocols.ip import ECN as ECN
from tieline.protocols.ip import IP as IP
from tieline.protocols.ip import AddressPreference as AddressPreference
from tieline.protocols.ip import IPMetadata as IPMetadata
from tieline.protocols.ip import IPVersion as IPVersion
from tieline.protocols.ip import ServiceClass as ServiceClass
from tieline.protocols.message import DatagramMetadata as DatagramMetadata
from tieline.protocols.message import Message as Message
from tieline.protocols.message import MessageMetadata as MessageMetadata
from tieline.protocols.message import StreamMetadata as StreamMetadata
from tieline.protocols.quic import ApplicationError as ApplicationError
from tieline.protocols.quic import Directionality as Directionality
from tieline.protocols.quic import Initiator as Initiator
from tieline.protocols.quic import QUICDatagram as QUICDatagram
from tieline.protocols.quic import QUICStream as QUICStream
from tieline.protocols.roles import CarrierProtocol as CarrierProtocol
from tieline.protocols.roles import DatagramProtocol as DatagramProtocol
from tieline.protocols.roles import MessageProtocol as MessageProtocol
from tieline.protocols.roles import MultiplexProtocol as MultiplexProtocol
from tieline.protocols.roles import NetworkProtocol as NetworkProtocol
from tieline.protocols.roles import OneToOneProtocol as OneToOneProtocol
from tieline.protocols.roles import StreamProtocol as StreamProtocol
from tieline.protocols.security import CertificateValidator as CertificateValidator
from tieline.protocols.security import PeerAuthentication as PeerAuthentication
from tieline.protocols.security import TLSMetadata as TLSMetadata
from tieline.protocols.security import TLSVersion as TLSVersion
from tieline.protocols.tcp import TCP as TCP
from tieline.protocols.tcp import Keepalive as Keepalive
from tieline.protocols.tcp import TCPMetadata as TCPMetadata
from tieline.protocols.tls import TLS as TLS
from tieline.protocols.tlv import TLV as TLV
from tieline.protocols.tlv import TLVMetadata as TLVMetadata
from tieline.protocols.udp import UDP as UDP
from tieline.protocols.udp import UDPMetadata as UDPMetadata
from tieline.protocols.websocket import CloseCode as CloseCode
from tieline.protocols.websocket import Deflate as Deflate
from tieline.protocols.websocket import Opcode as Opcode
from tieline.protocols.websocket import WebSocket as WebSocket
from tieline.protocols.websocket import WebSocketMetadata as WebSocketMetadata
from tieline.protocols.websocket import WebSocketSession as WebSocketSession
from tieline.quic import QUIC as QUIC
from tieline.reporting import PendingDataTransferReport as PendingDataTransferReport
from tieline.reports import DataTransferReport as DataTransferReport
from tieline.reports import DNSProtocol as DNSProtocol
from tieline.reports import EstablishmentReport as EstablishmentReport
from tieline.reports import Handshake as Handshake
from tieline.reports import PathReport as PathReport
from tieline.reports import RadioType as RadioType
from tieline.reports import Resolution as Resolution
from tieline.reports import ResolutionSource as ResolutionSource
from tieline.updates import UpdateIterator as UpdateIterator
from tieline.websocket import IncomingMessage as IncomingMessage
from tieline.websocket import OutgoingMessage as OutgoingMessage
from tieline.websocket import broadcast as broadcast

if TYPE_CHECKING:
    from tieline.group.group import ConnectionGroup as ConnectionGroup
    from tieline.group.message import GroupMessage as GroupMessage
    from tieline.group.multicast import MulticastGroup as MulticastGroup

_LATER = {
    "ConnectionGroup": "tieline.group.group",
    "GroupMessage": "tieline.group.message",
    "MulticastGroup": "tieline.group.multicast",
}
"""What few programs need, and where it is taken from when one first does."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = value = getattr(import_module(_LATER[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
