"""Links do what their conditions say, to the microsecond and to the byte."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from tieline import TCP, UDP, ConnectError, MessageTooLargeError, NetworkConnection, NetworkListener
from tieline.testing import Conditions, Fate, Host, Link, SimulatedNetwork

from .programs import echo, fates, serve, two_hosts

HEADERS = 28  # of IPv4 and UDP


def now() -> float:
    return asyncio.get_running_loop().time()


class Arrivals:
    """A UDP service that notes when which datagram came."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.contents: list[bytes] = []

    @property
    def numbers(self) -> list[int]:
        return [int(content.split()[0]) for content in self.contents]

    async def __call__(self, connection: NetworkConnection[UDP]) -> None:
        async for content, _ in connection.messages:
            self.times.append(now())
            self.contents.append(content)

    async def serve(self) -> None:
        await NetworkListener(UDP(idle_timeout=10_000.0), on=53).run(self)


async def send_numbers(count: int, *, every: float, size: int = 0) -> None:
    async with NetworkConnection("10.0.0.1:53", UDP()) as connection:
        for number in range(count):
            await connection.send(b"%d" % number + b" " * max(0, size - len(b"%d" % number)))
            await asyncio.sleep(every)
        await asyncio.sleep(100)


async def transfer(content: bytes) -> float:
    """Send it to the server's echo, check what comes back, and tell how long that took."""
    async with NetworkConnection("10.0.0.1:80", TCP()) as connection:
        await connection.ready()
        began = now()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(connection.send(content, end_of_stream=True))
            assert (await connection.receive(exactly=len(content))).content == content
        return now() - began


# Time


@pytest.mark.parametrize("latency", [0.00001, 0.02, 3.0])
async def test_latency(simulated_network: SimulatedNetwork, latency: float) -> None:
    server, client = two_hosts(simulated_network, latency=latency)
    server.start(serve)
    with client:
        async with NetworkConnection("10.0.0.1:80", TCP(connection_timeout=100.0)) as connection:
            await connection.ready()
            assert now() == pytest.approx(2 * latency)
            await connection.send(b"x")
            await connection.receive()
            assert now() == pytest.approx(4 * latency)


async def test_latency_of_each_direction(simulated_network: SimulatedNetwork) -> None:
    server, client = simulated_network.host("server.test", "10.0.0.1"), simulated_network.host("client.test", "10.0.0.2")
    link = simulated_network.link(server, client, latency=0.01)
    link.change(towards=server, latency=0.05)
    assert (link.conditions(server).latency, link.conditions(client).latency) == (0.05, 0.01)
    arrivals = Arrivals()
    server.start(arrivals.serve)
    server.start(serve)
    with client:
        await asyncio.sleep(1)
        await send_numbers(2, every=0.5)
        assert arrivals.times == [pytest.approx(1.05), pytest.approx(1.55)]
        began = now()
        async with NetworkConnection("10.0.0.1:80", TCP()) as connection:
            await connection.ready()
            assert now() - began == pytest.approx(0.06)
        link.change(latency=0.1)
        began = now()
        async with NetworkConnection("10.0.0.1:80", TCP()) as connection:
            await connection.ready()
            assert now() - began == pytest.approx(0.2)


async def test_jitter_keeps_the_order(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network, latency=0.01, jitter=0.05)
    arrivals = Arrivals()
    server.start(arrivals.serve)
    await asyncio.sleep(1)
    with client:
        await send_numbers(1000, every=0.01)
    assert arrivals.numbers == list(range(1000))
    delays = [came - (1 + number * 0.01) for number, came in enumerate(arrivals.times)]
    assert min(delays) >= 0.01 and max(delays) <= 0.06 + 1e-9
    assert min(delays) < 0.015 and max(delays) > 0.05


# Chance


async def test_loss_of_datagrams(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)
    simulated_network.nodes[0].interfaces[0].links[0].change(towards=server, loss=0.1)
    arrivals = Arrivals()
    server.start(arrivals.serve)
    with client:
        await send_numbers(10_000, every=0.001)
    assert len(set(arrivals.numbers)) == len(arrivals.numbers)
    assert 0.085 < 1 - len(arrivals.numbers) / 10_000 < 0.115  # five standard deviations
    assert len(fates(simulated_network, ": lost:")) == 10_000 - len(arrivals.numbers)


async def test_all_or_nothing_is_lost(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)
    link = simulated_network.nodes[0].interfaces[0].links[0]
    arrivals = Arrivals()
    server.start(arrivals.serve)
    with client:
        await asyncio.sleep(1)
        link.change(loss=1.0)
        await send_numbers(100, every=0.001)
        assert arrivals.numbers == []
        link.change(loss=0.0)
        await send_numbers(100, every=0.001)
        assert arrivals.numbers == list(range(100))


@pytest.mark.parametrize(
    "conditions",
    [
        {"loss": 0.1},
        {"loss": 0.2},
        {"reorder": 0.3},
        {"duplicate": 0.3},
        {"jitter": 0.05},
        {"loss": 0.1, "reorder": 0.2, "duplicate": 0.2, "jitter": 0.01, "rate": 500_000.0},
    ],
    ids=str,
)
async def test_tcp_delivers_all(simulated_network: SimulatedNetwork, conditions: dict[str, float]) -> None:
    server, client = two_hosts(simulated_network, latency=0.01, **conditions)
    server.start(serve)
    content = bytes(simulated_network._chance.randbytes(200_000))
    with client:
        try:
            await transfer(content)
        except ConnectError:  # seven SYNs in a row were lost
            assert conditions.get("loss") == 0.2


async def test_reordered_packets_are_overtaken(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network, latency=0.1, reorder=0.2)
    arrivals = Arrivals()
    server.start(arrivals.serve)
    await asyncio.sleep(1)
    with client:
        await send_numbers(1000, every=0.01)
    assert sorted(arrivals.numbers) == list(range(1000))
    late = 0
    for number, came in zip(arrivals.numbers, arrivals.times, strict=True):
        delay = came - (1 + number * 0.01)
        assert delay == pytest.approx(0.1) or delay == pytest.approx(0.2)
        late += delay > 0.15
    assert 130 < late < 270
    in_time = [number for number, came in zip(arrivals.numbers, arrivals.times, strict=True) if came < 1.15 + number * 0.01]
    assert in_time == sorted(in_time)


async def test_duplicates_come_once_more(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network, latency=0.1, duplicate=0.2)
    arrivals = Arrivals()
    server.start(arrivals.serve)
    await asyncio.sleep(1)
    with client:
        await send_numbers(1000, every=0.01)
    twice = len(arrivals.numbers) - 1000
    assert 130 < twice < 270 and len(fates(simulated_network, ": duplicated:")) == twice
    for number in range(1000):
        times = [came for one, came in zip(arrivals.numbers, arrivals.times, strict=True) if one == number]
        assert times == [pytest.approx(delay + number * 0.01) for delay in (1.1, 1.2)][: len(times)]


# Rate and queue


async def test_a_datagram_takes_its_size_over_the_rate(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network, latency=0.5, rate=1000.0)
    arrivals = Arrivals()
    server.start(arrivals.serve)
    await asyncio.sleep(1)
    with client:
        await send_numbers(3, every=0.0, size=1000 - HEADERS)
    assert arrivals.times == [pytest.approx(time) for time in (2.5, 3.5, 4.5)]


async def test_a_sender_of_datagrams_is_pushed_back_by_the_first_link(simulated_network: SimulatedNetwork) -> None:
    """Whatever the numbers round to: none of its own datagrams is dropped, and it sends as fast as the link does."""
    server, client = two_hosts(simulated_network, latency=0.003, rate=98_765.4, queue=10_007)
    arrivals = Arrivals()
    server.start(arrivals.serve)
    await asyncio.sleep(1 / 3)
    with client:
        async with NetworkConnection("10.0.0.1:53", UDP()) as connection:
            for number in range(1000):
                await connection.send(b"%-1000d" % number)
            assert now() == pytest.approx(1 / 3 + (1000 * 1028 - 10_007) / 98_765.4, abs=0.02)
            await asyncio.sleep(1)
    assert arrivals.numbers == list(range(1000))
    assert arrivals.times[-1] == pytest.approx(1 / 3 + 0.003 + 1000 * 1028 / 98_765.4)
    assert not fates(simulated_network, "queue is full")


async def test_senders_that_share_a_link_share_its_rate(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network, rate=100_000.0, queue=5000)
    arrivals = Arrivals()
    server.start(arrivals.serve)
    counts = [0, 0, 0]

    async def flood(number: int) -> None:
        async with NetworkConnection("10.0.0.1:53", UDP()) as connection:
            while True:
                await connection.send(b"%-1000d" % number)
                counts[number] += 1

    tasks = [client.start(flood, number) for number in range(3)]
    await asyncio.sleep(20)
    for task in tasks:
        task.cancel()
    await asyncio.sleep(1)
    assert sum(counts) == pytest.approx(20 * 100_000 / 1028, rel=0.01) and sum(counts) == len(arrivals.numbers)
    assert min(counts) > 100
    assert not fates(simulated_network, "queue is full")


async def test_what_does_not_fit_the_queue_of_a_later_link_is_dropped_from_its_tail(simulated_network: SimulatedNetwork) -> None:
    server, client = simulated_network.host("server.test", "10.0.0.1"), simulated_network.host("client.test", "10.0.0.2")
    router = simulated_network.router("router.test")
    simulated_network.link(client, router)
    simulated_network.link(router, server, rate=10_000.0, queue=10_000)
    arrivals = Arrivals()
    server.start(arrivals.serve)
    await asyncio.sleep(1)
    with client:
        await send_numbers(100, every=0.0, size=1000)
    assert arrivals.numbers == list(range(9))  # of 1028 bytes each
    assert arrivals.times[-1] == pytest.approx(1.002 + 9 * 0.1028)
    dropped = fates(simulated_network, "router.test: dropped, the queue is full")
    assert len(dropped) == 91 and all(entry.fate is Fate.QUEUE_FULL for entry in dropped)


@pytest.mark.parametrize("rate", [20_000.0, 1_000_000.0])
async def test_the_throughput_of_tcp_is_the_rate(simulated_network: SimulatedNetwork, rate: float) -> None:
    server, client = two_hosts(simulated_network, latency=0.005, rate=rate)
    received = 0

    async def take(connection: NetworkConnection[TCP]) -> None:
        nonlocal received
        async for content, _ in connection:
            received += len(content)

    server.start(serve, TCP(), 80, take)
    with client:
        async with NetworkConnection("10.0.0.1:80", TCP()) as connection:
            await connection.ready()
            began, size = now(), int(rate) * 5
            await connection.send(bytes(size), end_of_stream=True)
            await connection.receive()  # the peer's end, which comes when it has all
            assert received == size and now() - began == pytest.approx(size / 1460 * 1500 / rate, rel=0.05)


async def test_tcp_finds_the_rate_of_a_later_link(simulated_network: SimulatedNetwork) -> None:
    """Losses at a full queue are how it finds out."""
    server, client = simulated_network.host("server.test", "10.0.0.1"), simulated_network.host("client.test", "10.0.0.2")
    router = simulated_network.router("router.test")
    simulated_network.link(client, router, rate=10_000_000.0)
    simulated_network.link(router, server, latency=0.01, rate=200_000.0, queue=20_000)
    server.start(serve)
    with client:
        took = await transfer(bytes(1_000_000))
    assert fates(simulated_network, "router.test: dropped, the queue is full")
    assert 5.1 < took < 8.0


async def test_a_link_that_goes_down_has_nothing_in_its_queue(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network, latency=0.01, jitter=0.01, rate=1000.0, queue=100_000)
    link = simulated_network.nodes[0].interfaces[0].links[0]
    arrivals = Arrivals()
    server.start(arrivals.serve)
    await asyncio.sleep(1)
    with client:
        task = asyncio.create_task(send_numbers(50, every=0.0, size=1000 - HEADERS))
        await asyncio.sleep(2.5)
        assert arrivals.numbers == [0, 1]
        link.down()
        link.up()
        before = now()
        async with NetworkConnection("10.0.0.1:53", UDP()) as connection:
            await connection.send(b"77".ljust(1000 - HEADERS))
            await asyncio.sleep(1.1)
        assert arrivals.numbers == [0, 1, 77]
        assert before + 1.01 <= arrivals.times[-1] <= before + 1.02
        await task


# MTU


@pytest.mark.parametrize(("address", "peer", "largest"), [("10.0.0.1", "10.0.0.2", 972), ("2001:db8::1", "2001:db8::2", 952)])
async def test_datagrams_fit_the_mtu(simulated_network: SimulatedNetwork, address: str, peer: str, largest: int) -> None:
    server, client = simulated_network.host("server.test", address), simulated_network.host("client.test", peer)
    link = simulated_network.link(server, client, mtu=1000)
    arrivals = Arrivals()
    server.start(arrivals.serve)
    with client:
        async with NetworkConnection("server.test:53", UDP()) as connection:
            assert connection.maximum_datagram_size == 0
            await connection.ready()
            assert connection.maximum_datagram_size == largest
            await connection.send(bytes(largest))
            with pytest.raises(MessageTooLargeError, match=f"at most {largest} bytes on this path, got {largest + 1}") as raised:
                await connection.send(bytes(largest + 1))
            assert (raised.value.limit, raised.value.size) == (largest, largest + 1)
            await asyncio.sleep(1)
            link.change(mtu=2000)
            assert connection.maximum_datagram_size == largest + 1000
            await connection.send(bytes(largest + 1000))
            await asyncio.sleep(1)
    assert [len(content) for content in arrivals.contents] == [largest, largest + 1000]


def narrowed(network: SimulatedNetwork, mtu: int) -> tuple[Host, Host, Link]:
    """Client and server with a router between them, whose link to the server is narrower."""
    server, client = network.host("server.test", "10.0.0.1"), network.host("client.test", "10.0.0.2")
    router = network.router("router.test", "10.0.0.3")
    network.link(client, router, latency=0.01)
    return server, client, network.link(router, server, latency=0.01, mtu=mtu)


async def test_the_mtu_of_a_path_is_discovered_for_datagrams(simulated_network: SimulatedNetwork) -> None:
    server, client, _ = narrowed(simulated_network, 1000)
    arrivals = Arrivals()
    server.start(arrivals.serve)
    with client:
        async with NetworkConnection("10.0.0.1:53", UDP()) as connection:
            await connection.ready()
            assert connection.maximum_datagram_size == 1472
            await connection.send(bytes(1472))
            await asyncio.sleep(0.019)
            assert connection.maximum_datagram_size == 1472
            await asyncio.sleep(0.002)
            assert connection.maximum_datagram_size == 972
            with pytest.raises(MessageTooLargeError, match=r"a router on the path did not forward .* at most 972 bytes"):
                await connection.send(bytes(972))
            with pytest.raises(MessageTooLargeError, match="at most 972 bytes"):
                await connection.send(bytes(973))
            await connection.send(bytes(972))
            await asyncio.sleep(1)
    assert [len(content) for content in arrivals.contents] == [972]


async def test_the_mtu_of_a_path_is_discovered_for_tcp(simulated_network: SimulatedNetwork) -> None:
    server, client, _ = narrowed(simulated_network, 1000)
    server.start(serve)
    with client:
        assert await transfer(bytes(100_000)) < 1.0
        dropped = fates(simulated_network, "larger than the MTU")
        assert 0 < len(dropped) <= 10  # the first window, and no more
        async with NetworkConnection("10.0.0.1:80", TCP()) as connection:  # known from now on
            await connection.ready()
            assert connection.metadata(TCP).maximum_segment_size == 960
            await connection.send(bytes(50_000))
            await connection.receive(exactly=50_000)
    assert fates(simulated_network, "larger than the MTU") == dropped


@pytest.mark.parametrize("which", ["first", "second"])
async def test_an_mtu_that_shrinks_in_mid_transfer(simulated_network: SimulatedNetwork, which: str) -> None:
    server, client, second = narrowed(simulated_network, 1500)
    link = second if which == "second" else client.interfaces[0].links[0]
    link.change(rate=100_000.0)
    server.start(serve)
    simulated_network.at(1.0, lambda: link.change(mtu=800))
    simulated_network.at(2.0, lambda: link.change(mtu=700))
    content = simulated_network._chance.randbytes(300_000)
    with client:
        took = await transfer(content)
    assert 3.0 < took < 5.0
    assert len(fates(simulated_network, "larger than the MTU")) < 200
    sent = [entry for entry in simulated_network.trace if entry.fate is Fate.SENT]
    assert max(entry.packet.size for entry in sent if 1.1 < entry.time < 2) == 800
    assert max(entry.packet.size for entry in sent if entry.time > 3) == 700


# Down and up


async def test_a_link_down_and_up_in_mid_transfer(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network, latency=0.01, rate=100_000.0)
    link = simulated_network.nodes[0].interfaces[0].links[0]
    server.start(serve)
    for when, happening in ((1.0, link.down), (1.5, link.up), (2.0, link.down), (12.0, link.up)):
        simulated_network.at(when, happening)
    content = simulated_network._chance.randbytes(300_000)
    with client:
        took = await transfer(content)
    assert 3 + 10.5 < took < 3 + 10.5 + 8  # a retransmission timer that has backed off waits for up to as long again
    assert fates(simulated_network, "link is down") and fates(simulated_network, "no route")
    assert link.is_up and "up>" in repr(link)


async def test_what_is_on_its_way_is_lost_when_the_link_goes_down(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network, latency=1.0)
    link = simulated_network.nodes[0].interfaces[0].links[0]
    arrivals = Arrivals()
    server.start(arrivals.serve)
    with client:
        sending = asyncio.create_task(send_numbers(5, every=0.2))
        await asyncio.sleep(0.5)
        link.down()
        assert not link.is_up and "down>" in repr(link)
        link.down()
        link.up()
        link.up()
        await sending
    assert arrivals.numbers == [3, 4]
    assert [round(entry.time, 9) for entry in fates(simulated_network, "link is down")] == [1.0, 1.2, 1.4]


async def test_connecting_over_a_link_that_is_down(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)
    link = simulated_network.nodes[0].interfaces[0].links[0]
    server.start(serve)
    link.down()
    with client:
        connection = NetworkConnection("10.0.0.1:80", TCP())
        with pytest.raises(ConnectError, match="no route to this network"):
            await connection.ready()
        link.up()
        await connection.ready()
        assert now() == pytest.approx(0.002)
        await connection.aclose()


# Changing and checking


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"latency": 0}, ValueError, "latency must be a finite number of seconds above 0, got 0"),
    ({"latency": -1.0}, ValueError, "latency .* got -1.0"),
    ({"latency": float("inf")}, ValueError, "latency .* got inf"),
    ({"latency": float("nan")}, ValueError, "latency .* got nan"),
    ({"latency": "1"}, TypeError, "latency must be a number of seconds, got '1'"),
    ({"jitter": -0.1}, ValueError, "jitter must be a finite number of seconds of 0 or more, got -0.1"),
    ({"loss": 1.1}, ValueError, "loss must be a probability from 0 to 1, got 1.1"),
    ({"loss": "a"}, TypeError, "loss must be a probability from 0 to 1, got 'a'"),
    ({"loss": True}, TypeError, "loss must be a probability from 0 to 1, got True"),
    ({"reorder": -0.5}, ValueError, "reorder must be a probability from 0 to 1, got -0.5"),
    ({"duplicate": float("nan")}, ValueError, "duplicate must be a probability from 0 to 1, got nan"),
    ({"rate": 0}, ValueError, "rate must be a number of bytes per second above 0 or None, got 0"),
    ({"rate": float("inf")}, ValueError, "rate .* got inf"),
    ({"rate": "fast"}, TypeError, "rate must be a number of bytes per second above 0 or None, got 'fast'"),
    ({"rate": True}, TypeError, "rate .* got True"),
    ({"queue": 100}, ValueError, "queue must be at least 1500, got 100"),
    ({"queue": 1e6}, TypeError, "queue must be an int of at least 1500, got 1000000.0"),
    ({"mtu": 500}, ValueError, "mtu must be at least 576, got 500"),
    ({"mtu": None}, TypeError, "mtu must be an int of at least 576, got None"),
    ({"lag": 1}, TypeError, "lag"),
]


@pytest.mark.parametrize(("conditions", "error", "text"), BAD, ids=[str(conditions) for conditions, _, _ in BAD])
def test_bad_conditions_are_named(
    simulated_network: SimulatedNetwork, conditions: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Conditions(**conditions)
    one, other = simulated_network.host("one.test"), simulated_network.host("other.test")
    with pytest.raises(error, match=text):
        simulated_network.link(one, other, **conditions)
    assert not one.interfaces[0].links and not other.interfaces[0].links
    link = simulated_network.link(one, other)
    with pytest.raises(error, match=text):
        link.change(**{"duplicate": 0.5, **conditions})
    assert link.conditions(one) == link.conditions(other) == Conditions()


def test_a_link_has_two_ends(simulated_network: SimulatedNetwork) -> None:
    one, other, third = (simulated_network.host(f"{name}.test") for name in ("one", "other", "third"))
    link = simulated_network.link(one, other, latency=0.5)
    with pytest.raises(ValueError, match=r"<Link one.test – other.test, up> does not lead to <Host third.test"):
        link.change(towards=third, latency=1.0)
    with pytest.raises(ValueError, match=r"does not lead to <Host third.test"):
        link.conditions(third)
    with pytest.raises(ValueError, match=r"a link connects two nodes, got one.test twice"):
        simulated_network.link(one, one)
    assert link.conditions(one) == Conditions(latency=0.5)


async def test_a_change_keeps_what_it_does_not_name(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network, latency=0.5, loss=0.25, mtu=800)
    link = simulated_network.nodes[0].interfaces[0].links[0]
    link.change(latency=0.1, rate=1000.0)
    link.change(towards=client, jitter=0.2)
    assert link.conditions(server) == Conditions(latency=0.1, loss=0.25, mtu=800, rate=1000.0)
    assert link.conditions(client) == Conditions(latency=0.1, loss=0.25, mtu=800, rate=1000.0, jitter=0.2)


async def test_a_shorter_latency_overtakes_nothing(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network, latency=1.0)
    link = simulated_network.nodes[0].interfaces[0].links[0]
    arrivals = Arrivals()
    server.start(arrivals.serve)
    with client:
        sending = asyncio.create_task(send_numbers(10, every=0.2))
        await asyncio.sleep(0.5)
        link.change(latency=0.1)
        await sending
    assert arrivals.numbers == list(range(10))
    times = [0.2 * number + (1.0 if number < 3 else 0.1) for number in range(10)]
    assert arrivals.times == [pytest.approx(time) for time in itertools.accumulate(times, max)]


async def test_two_links_between_the_same_hosts(simulated_network: SimulatedNetwork) -> None:
    """One is used, the other takes over."""
    server, client = simulated_network.host("server.test", "10.0.0.1"), simulated_network.host("client.test", "10.0.0.2")
    links = [simulated_network.link(server, client, latency=latency) for latency in (0.01, 0.03)]
    server.start(serve, TCP(), 80, echo)
    with client:
        async with NetworkConnection("10.0.0.1:80", TCP()) as connection:
            times: list[float] = []
            for happening in (links[0].up, links[0].down, links[0].up, links[1].down):
                happening()
                began = now()
                await connection.send(b"x")
                await connection.receive()
                times.append(now() - began)
    assert times == [pytest.approx(one) for one in (0.04, 0.06, 0.02, 0.02)]
    assert all(one <= other for one, other in itertools.pairwise([entry.time for entry in simulated_network.trace]))
