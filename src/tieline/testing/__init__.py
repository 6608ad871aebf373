"""Tools for testing programs that use the network, without one: simulated hosts in virtual time, pairs in memory, certificates.

They are the tools that tieline tests itself with. `tieline.testing.plugin` makes fixtures of them for pytest.
"""

from tieline.drivers.simulated.clock import StandstillError as StandstillError
from tieline.drivers.simulated.clock import VirtualClock as VirtualClock
from tieline.drivers.simulated.firewall import Firewall as Firewall
from tieline.drivers.simulated.firewall import Rule as Rule
from tieline.drivers.simulated.host import Host as Host
from tieline.drivers.simulated.link import Conditions as Conditions
from tieline.drivers.simulated.link import Link as Link
from tieline.drivers.simulated.network import ScheduledEvent as ScheduledEvent
from tieline.drivers.simulated.network import SimulatedNetwork as SimulatedNetwork
from tieline.drivers.simulated.node import NetworkInterface as NetworkInterface
from tieline.drivers.simulated.node import Node as Node
from tieline.drivers.simulated.node import Router as Router
from tieline.drivers.simulated.packets import Fate as Fate
from tieline.drivers.simulated.packets import Packet as Packet
from tieline.drivers.simulated.packets import Trace as Trace
from tieline.drivers.simulated.packets import TransportProtocol as TransportProtocol
from tieline.drivers.simulated.partition import Partition as Partition
from tieline.drivers.simulated.resolver import SimulatedResolver as SimulatedResolver
from tieline.testing.certificates import CertificateAuthority as CertificateAuthority
from tieline.testing.certificates import certificates as certificates
from tieline.testing.events import ConnectionEvent as ConnectionEvent
from tieline.testing.events import EventRecorder as EventRecorder
from tieline.testing.events import record_events as record_events
from tieline.testing.framer import FramerTester as FramerTester
from tieline.testing.memory import memory_pair as memory_pair
