"""The life of a connection as the tables say it, in virtual time: every order and every moment is exact."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from tieline import (
    TCP,
    TLS,
    UDP,
    ChannelClosedError,
    CloseTimeoutError,
    ConnectError,
    DNSError,
    HostPort,
    NetworkConnection,
    NetworkError,
    Parameters,
    PeerResetError,
    State,
)
from tieline.engines.states import CONNECTION, GROUP, LISTENER, Event, GroupState, ListenerState
from tieline.errors import Phase

from .memory import SILENCE, Answer, Network, refusal

HOST = "192.0.2.1"
TO = HostPort(HOST, 80)
NO_NAME = DNSError("no such name", endpoint="nowhere.test", phase=Phase.RESOLVING, code=-2)

SETUP, WAITING, PREPARING = State.SETUP, State.WAITING, State.PREPARING
READY, FAILED, CANCELLED = State.READY, State.FAILED, State.CANCELLED


def watched(connection: NetworkConnection[Any]) -> list[State]:
    seen: list[State] = []
    connection.on_state_update(lambda _, state: seen.append(state))
    return seen


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# The tables


@pytest.mark.parametrize("table", [CONNECTION, LISTENER, GROUP])
def test_nothing_follows_a_final_state(table: dict[tuple[Any, Event], Any]) -> None:
    assert not [state for state, _ in table if state.is_final]


@pytest.mark.parametrize(("table", "states"), [(CONNECTION, State), (LISTENER, ListenerState), (GROUP, GroupState)])
def test_every_state_can_be_reached_and_closed(table: dict[tuple[Any, Event], Any], states: Any) -> None:
    assert {*table.values(), states.SETUP} == set(states)
    assert all(table[state, Event.CLOSE] is states.CANCELLED for state in states if not state.is_final)


def test_ready_never_goes_back_by_itself() -> None:
    """Losing the network shows as viability; only the application's `try_next_endpoint` leaves READY alive."""
    assert {event: state for (before, event), state in CONNECTION.items() if before is READY} == {
        Event.BROKEN: FAILED,
        Event.NEXT_ENDPOINT: PREPARING,
        Event.CLOSE: CANCELLED,
    }


# Starting


def test_nothing_happens_before_somebody_asks(network: Network) -> None:
    connection = NetworkConnection(TO, TCP())  # outside of any loop
    assert connection.state is SETUP
    assert connection.error is connection.local_endpoint is connection.remote_endpoint is connection.current_path is None
    connection.abort()
    assert connection.state is CANCELLED and not network.log


@pytest.mark.parametrize(
    "call",
    [
        lambda connection: connection.ready(),
        lambda connection: connection.send(b"x"),
        lambda connection: connection.establishment_report(),
        lambda connection: connection.data_transfer_report(),
    ],
)
def test_the_first_call_starts_and_waits(network: Network, call: Callable[[Any], Any]) -> None:
    network.hosts[HOST] = Answer(0.1)

    async def main() -> None:
        connection = NetworkConnection(TO, TCP())
        seen = watched(connection)
        await call(connection)
        assert network.time() == pytest.approx(0.1)
        assert seen == [PREPARING, READY] and connection.state is READY and connection.error is None
        connection.abort()
        assert seen == [PREPARING, READY, CANCELLED]

    network.run(main)


def test_starting_again_is_ignored_in_every_state(network: Network) -> None:
    network.hosts[HOST] = Answer(0.1)

    async def main() -> None:
        connection = NetworkConnection(TO, TCP())
        assert connection.start() is connection
        connection.start()
        await connection.ready()
        connection.start()
        connection.abort()
        assert connection.start().state is CANCELLED

    network.run(main)
    assert network.said() == [(0, HOST)]


def test_sends_before_ready_go_out_in_their_order(network: Network) -> None:
    network.hosts[HOST] = Answer(0.1)

    async def main() -> None:
        async with NetworkConnection(TO, TCP()) as connection:
            await asyncio.gather(*(connection.send(b"%d" % number) for number in range(10)))
            assert network.sockets[0].sent == b"0123456789"
            connection.abort()

    network.run(main)


def test_two_tasks_wait_for_one_establishment(network: Network) -> None:
    network.hosts[HOST] = Answer(0.1)

    async def main() -> None:
        async with NetworkConnection(TO, TCP()) as connection:
            await asyncio.gather(connection.ready(), connection.ready(), connection.send(b"x"))

    network.run(main)
    assert network.said() == [(0, HOST)]


def test_a_cancelled_wait_leaves_the_others_and_the_connection_alone(network: Network) -> None:
    network.hosts[HOST] = Answer(0.1)

    async def main() -> None:
        async with NetworkConnection(TO, TCP()) as connection:
            first, second = asyncio.create_task(connection.ready()), asyncio.create_task(connection.ready())
            await asyncio.sleep(0.05)
            first.cancel()
            await second
            assert first.cancelled() and connection.state is READY

    network.run(main)


# Waiting


def test_a_refusal_is_raised_and_the_connection_waits(network: Network) -> None:
    network.hosts[HOST] = refusal()

    async def main() -> None:
        async with NetworkConnection(TO, TCP()) as connection:
            seen = watched(connection)
            calls = [connection.send(b"x"), connection.receive(), connection.ready()]
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(outcome, ConnectionRefusedError) and isinstance(outcome, ConnectError)
            assert connection.state is WAITING and isinstance(connection.error, ConnectionRefusedError)
        assert seen == [WAITING, CANCELLED] and connection.error is None

    network.run(main)


def test_a_call_while_waiting_tries_again_at_once(network: Network) -> None:
    network.hosts[HOST] = refusal()

    async def main() -> None:
        async with NetworkConnection(TO, TCP()) as connection:
            with pytest.raises(ConnectionRefusedError):
                await connection.ready()
            network.hosts[HOST] = Answer(0.01)
            await connection.send(b"x")
            assert network.time() == pytest.approx(0.02) and network.sockets[-1].sent == b"x"
            report = await connection.establishment_report()
            assert report.previous_attempt_count == 1 and report.attempt_started_after == pytest.approx(0.01)
            assert report.duration == pytest.approx(0.01)

    network.run(main)


def test_calls_stay_pending_with_waits_for_connectivity(network: Network) -> None:
    network.hosts[HOST] = refusal()

    async def main() -> None:
        async with NetworkConnection(TO, Parameters(TCP(), waits_for_connectivity=True)) as connection:
            seen = watched(connection)
            early = asyncio.create_task(connection.send(b"early"))
            await asyncio.sleep(0.5)
            assert connection.state is WAITING and not early.done()
            late = asyncio.create_task(connection.send(b"late"))
            await turns()
            assert connection.state is WAITING, "the back-off alone decides"
            network.hosts[HOST] = Answer(0.01)
            await asyncio.gather(early, late)
            assert network.time() == pytest.approx(1.02) and network.sockets[-1].sent == b"earlylate"
            assert seen == [WAITING, PREPARING, READY]

    network.run(main)


def test_the_back_off_doubles_from_one_second_to_sixty(network: Network) -> None:
    network.hosts[HOST] = refusal(0)

    async def main() -> None:
        connection = NetworkConnection(TO, Parameters(TCP(), waits_for_connectivity=True)).start()
        await asyncio.sleep(250)
        connection.abort()

    network.run(main)
    assert [round(time) for time, _ in network.log] == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]


def test_the_back_off_begins_anew_after_ready(network: Network) -> None:
    network.hosts[HOST] = refusal(0)

    async def main() -> None:
        connection = NetworkConnection(TO, Parameters(TCP(), waits_for_connectivity=True)).start()
        await asyncio.sleep(4)
        network.hosts[HOST] = Answer(0)
        await connection.ready()
        network.hosts[HOST] = refusal(0)
        network.log.clear()
        connection.try_next_endpoint()
        await asyncio.sleep(1.5)
        assert [time for time, _ in network.log] == [pytest.approx(8.0)]
        connection.abort()

    network.run(main)


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (errno.ECONNREFUSED, WAITING),
        (errno.ENETUNREACH, WAITING),
        (errno.EHOSTUNREACH, WAITING),
        (errno.ETIMEDOUT, WAITING),
        (errno.EADDRNOTAVAIL, WAITING),
        (errno.ENETDOWN, WAITING),
        (errno.ECONNRESET, FAILED),
        (errno.EACCES, FAILED),
        (errno.EPERM, FAILED),
        (errno.EINVAL, FAILED),
        (errno.ENOPROTOOPT, FAILED),
    ],
)
@pytest.mark.parametrize("after", [0, 0.01])
def test_what_may_heal_waits_and_a_no_is_final(network: Network, code: int, state: State, after: float) -> None:
    network.hosts[HOST] = Answer(after, code)

    async def main() -> None:
        async with NetworkConnection(TO, TCP()) as connection:
            with pytest.raises(ConnectError) as caught:
                await connection.ready()
            assert caught.value.errno == code and connection.state is state
            assert [attempt.endpoint for attempt in caught.value.attempts] == [TO]

    network.run(main)


def test_a_dns_failure_waits(network: Network) -> None:
    network.names["nowhere.test", 6] = network.names["nowhere.test", 4] = 0.01, NO_NAME

    async def main() -> None:
        async with NetworkConnection("nowhere.test:80", TCP()) as connection:
            with pytest.raises(DNSError, match=r"nowhere\.test:80, resolving: no such name") as caught:
                await connection.send(b"x")
            assert connection.state is WAITING and caught.value.code == -2 and caught.value.attempts == ()

    network.run(main)


def test_no_usable_interface_waits_and_is_told(network: Network) -> None:
    async def main() -> None:
        async with NetworkConnection(TO, Parameters(TCP(), required_interface="wlan7")) as connection:
            with pytest.raises(ConnectError, match=r"no usable network.*required_interface='wlan7'"):
                await connection.ready()
            assert connection.state is WAITING

    network.run(main)
    assert not network.log


# Failing


def test_a_reset_fails_the_connection_and_every_call(network: Network) -> None:
    network.hosts[HOST] = Answer()

    async def main() -> None:
        connection = NetworkConnection(TO, TCP())
        seen = watched(connection)
        await connection.ready()
        pending = [asyncio.create_task(connection.receive()) for _ in range(3)]
        await turns()
        network.sockets[0].break_down()
        for outcome in await asyncio.gather(*pending, return_exceptions=True):
            assert isinstance(outcome, PeerResetError)
        assert seen == [PREPARING, READY, FAILED] and isinstance(connection.error, PeerResetError)
        for call in (connection.ready, lambda: connection.send(b"x"), connection.receive):
            with pytest.raises(PeerResetError):
                await call()
        await connection.aclose()
        connection.abort()
        assert connection.state is FAILED and seen[-1] is FAILED, "nothing follows"

    network.run(main)


def test_pending_calls_fail_at_once_when_establishing_fails(network: Network) -> None:
    network.hosts[HOST] = Answer(0.1, errno.ECONNRESET)

    async def main() -> None:
        parameters = Parameters(TCP(), waits_for_connectivity=True)
        connection = NetworkConnection(TO, parameters)
        outcomes = await asyncio.gather(connection.ready(), connection.send(b"x"), connection.receive(), return_exceptions=True)
        assert all(isinstance(outcome, ConnectionResetError) for outcome in outcomes)
        assert len({id(outcome) for outcome in outcomes}) == 3, "each with a traceback of its own"
        assert connection.state is FAILED

    network.run(main)


@pytest.mark.parametrize("place", ["resolve", "source_of", "connect", "network"])
def test_a_mistake_of_ours_fails_the_connection_instead_of_hanging(network: Network, place: str) -> None:
    network.names["host.test", 4] = 0.01, [HOST, "192.0.2.2"]
    mistake = ZeroDivisionError("a bug")

    def fail(*_: Any) -> Any:
        raise mistake

    setattr(network, place, fail)

    async def main() -> None:
        parameters = Parameters(TCP(), prohibited_interfaces=("wlan7",), waits_for_connectivity=True)
        connection = NetworkConnection("host.test:80", parameters)
        with pytest.raises(NetworkError, match="ZeroDivisionError") as caught:
            await connection.ready()
        assert caught.value.__cause__ is mistake and mistake.__traceback__ is not None
        assert connection.state is FAILED

    network.run(main)


def test_a_mistake_in_a_handshake_fails_the_connection(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    network.hosts[HOST] = Answer()

    class Broken:
        messages = ()
        handshaking = None

        def __init__(self, *_: object) -> None: ...
        def start(self) -> bytes:
            raise ZeroDivisionError("a bug")

        def closed(self) -> None: ...

    monkeypatch.setattr("tieline.establishment.stacks.client_pipeline", Broken)

    async def main() -> None:
        connection = NetworkConnection(TO, TLS())
        with pytest.raises(NetworkError, match="ZeroDivisionError"):
            await connection.ready()
        assert connection.state is FAILED

    network.run(main)


# Closing, in each state


@pytest.mark.parametrize("graceful", [True, False])
@pytest.mark.parametrize("state", [SETUP, PREPARING, WAITING, READY, FAILED, CANCELLED])
def test_closing_in_each_state(network: Network, state: State, graceful: bool) -> None:
    answers = {PREPARING: SILENCE, WAITING: refusal(), FAILED: Answer(0.01, errno.ECONNRESET)}
    network.hosts[HOST] = answers.get(state, Answer())

    async def main() -> None:
        connection = NetworkConnection(TO, Parameters(TCP(), waits_for_connectivity=True))
        if state is not SETUP:
            connection.start()
            await asyncio.sleep(0.1)
        if state is CANCELLED:
            connection.abort()
        assert connection.state is state
        seen = watched(connection)
        for _ in range(2):
            if graceful:
                await connection.aclose()
            else:
                connection.abort()
        final = FAILED if state is FAILED else CANCELLED
        assert connection.state is final and seen == ([CANCELLED] if not state.is_final else [])
        for call in (connection.ready, lambda: connection.send(b"x"), connection.receive):
            with pytest.raises((ChannelClosedError, ConnectionResetError) if final is FAILED else ChannelClosedError):
                await call()

    network.run(main)


@pytest.mark.parametrize("state", [PREPARING, WAITING, READY])
def test_leaving_the_block_by_an_exception_aborts(network: Network, state: State) -> None:
    network.hosts[HOST] = {PREPARING: SILENCE, WAITING: refusal()}.get(state, Answer())

    async def main() -> None:
        with pytest.raises(LookupError):  # noqa: PT012
            async with NetworkConnection(TO, TCP()) as connection:
                await asyncio.sleep(0.1)
                assert connection.state is state
                raise LookupError
        assert connection.state is CANCELLED

    network.run(main)
    assert all(socket.state in ("aborted", "failed") for socket in network.sockets)


def test_aborting_at_once_after_starting_leaves_nothing(network: Network) -> None:
    async def main() -> None:
        NetworkConnection(TO, TCP()).start().abort()
        await turns()

    network.run(main)
    assert not network.log


def test_aborting_at_once_after_next_endpoint_leaves_nothing(network: Network) -> None:
    network.names["host.test", 4] = 0.0, [HOST, "192.0.2.2"]
    network.hosts = {HOST: Answer(), "192.0.2.2": Answer()}

    async def main() -> None:
        connection = NetworkConnection("host.test:80", TCP())
        await connection.ready()
        connection.try_next_endpoint()
        connection.abort()
        await asyncio.sleep(1)
        assert connection.state is CANCELLED

    network.run(main)
    assert len(network.sockets) == 1


@pytest.mark.parametrize("host", [SILENCE, Answer()])
def test_pending_calls_fail_before_the_state_and_the_handlers_go_last(network: Network, host: Answer) -> None:
    network.hosts[HOST] = host

    async def main() -> None:
        connection = NetworkConnection(TO, TCP())
        if host is not SILENCE:
            await connection.ready()
        calls = [asyncio.ensure_future(connection.receive())]
        if host is SILENCE:
            calls += [asyncio.ensure_future(connection.send(b"x")), asyncio.ensure_future(connection.ready())]
        await turns()
        order: list[str] = []

        def pending() -> bool:
            return any(not call._fut_waiter.done() for call in calls if not call.done() and call._fut_waiter)  # type: ignore[attr-defined]

        connection.on_state_update(lambda _, state: order.append(f"{state.value}, pending: {pending()}"))
        updates = connection.state_updates()
        connection.abort()
        connection.abort()
        assert order == ["cancelled, pending: False"]
        assert [state async for state in updates] == [CANCELLED]
        assert connection._states.handler is None
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, ChannelClosedError)

    network.run(main)


def test_what_was_accepted_early_drains_before_the_close(network: Network) -> None:
    network.hosts[HOST] = Answer(0.1)

    async def main() -> None:
        async with NetworkConnection(TO, TCP()) as connection:
            seen = watched(connection)
            connection.send_idempotent(b"hello ")
            connection.send_idempotent(b"world")
            other = asyncio.create_task(connection.ready())
            await turns()
        assert network.sockets[0].sent == b"hello world" and seen == [READY, CANCELLED]
        with pytest.raises(ChannelClosedError):
            await other

    network.run(main)


def test_what_was_accepted_early_and_cannot_be_sent_is_told(network: Network) -> None:
    network.hosts[HOST] = refusal()

    async def main() -> None:
        with pytest.raises(ConnectionRefusedError):
            async with NetworkConnection(TO, TCP()) as connection:
                connection.send_idempotent(b"hello")
        assert connection.state is CANCELLED

    network.run(main)


@pytest.mark.parametrize("host", [SILENCE, refusal()])
def test_the_close_waits_for_a_connection_no_longer_than_close_timeout(network: Network, host: Answer) -> None:
    network.hosts[HOST] = host

    async def main() -> None:
        parameters = Parameters(TCP(), waits_for_connectivity=True, close_timeout=3)
        with pytest.raises(CloseTimeoutError, match="close_timeout=3 s"):
            async with NetworkConnection(TO, parameters) as connection:
                connection.send_idempotent(b"hello")
        assert network.time() == pytest.approx(3) and connection.state is CANCELLED

    network.run(main)


def test_a_second_close_waits_for_the_first_and_an_abort_ends_both(network: Network) -> None:
    network.hosts[HOST] = SILENCE

    async def main() -> None:
        connection = NetworkConnection(TO, TCP()).start()
        connection.send_idempotent(b"x")
        closes = [asyncio.create_task(connection.aclose()) for _ in range(3)]
        await asyncio.sleep(1)
        assert not any(close.done() for close in closes)
        closes[1].cancel()
        await turns()
        assert closes[1].cancelled() and not closes[0].done() and not closes[2].done()
        connection.abort()
        await asyncio.gather(closes[0], closes[2])
        assert network.time() == pytest.approx(1)

    network.run(main)


def test_cancelling_the_close_aborts(network: Network) -> None:
    network.hosts[HOST] = SILENCE

    async def main() -> None:
        connection = NetworkConnection(TO, TCP()).start()
        connection.send_idempotent(b"x")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await connection.aclose()
        assert connection.state is CANCELLED

    network.run(main)
    assert network.sockets[0].state == "aborted"


# Dropping the last reference


@pytest.mark.parametrize("state", [PREPARING, WAITING, READY])
@pytest.mark.parametrize("host", ["192.0.2.1", "host.test"])
def test_a_dropped_connection_warns_and_closes(network: Network, state: State, host: str) -> None:
    network.names["host.test", 4] = 0.0, [HOST, "192.0.2.2"]
    network.hosts[HOST] = {PREPARING: SILENCE, WAITING: refusal()}.get(state, Answer())
    network.hosts["192.0.2.2"] = network.hosts[HOST]

    async def main() -> None:
        connection = NetworkConnection((host, 80), TCP()).start()
        gone = weakref.ref(connection)
        await asyncio.sleep(0.5)
        assert connection.state is state
        with pytest.warns(ResourceWarning, match=f"unclosed <NetworkConnection .*{state.value}>"):
            del connection
        assert gone() is None, "without the help of the garbage collector"
        await asyncio.sleep(5)
        gc.collect()

    network.run(main)
    assert all(socket.state in ("aborted", "failed") for socket in network.sockets)
    assert all(time < 0.3 for time, _ in network.log), "no further attempt"


def test_a_dropped_connection_that_is_resolving_asks_no_more(network: Network) -> None:
    network.names["host.test", 6] = network.names["host.test", 4] = 5.0, [HOST]

    async def main() -> None:
        connection = NetworkConnection("host.test:80", TCP()).start()
        await asyncio.sleep(0.5)
        with pytest.warns(ResourceWarning):
            del connection
        await turns()
        assert len(asyncio.all_tasks()) == 1

    network.run(main)


def test_an_unstarted_or_closed_connection_drops_silently(network: Network) -> None:
    network.hosts[HOST] = Answer()

    async def main() -> None:
        NetworkConnection(TO, TCP())
        connection = NetworkConnection(TO, TCP())
        await connection.ready()
        await connection.aclose()
        del connection
        gc.collect()

    network.run(main)


# Handlers and iterators


def test_a_handler_that_raises_changes_nothing(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    network.hosts[HOST] = Answer()

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        connection = NetworkConnection(TO, TCP()).on_state_update(fail).on_viability_update(fail).on_path_update(fail)
        async with connection:
            await connection.ready()

    with caplog.at_level(logging.ERROR, "tieline"):
        network.run(main)
    assert len(caplog.records) == 5  # PREPARING, READY, CANCELLED, a path, viability
    assert all(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in caplog.records)


@pytest.mark.parametrize("when", [PREPARING, READY, WAITING])
def test_a_handler_may_abort(network: Network, when: State) -> None:
    network.hosts[HOST] = refusal() if when is WAITING else Answer()

    async def main() -> None:
        connection = NetworkConnection(TO, TCP())
        seen: list[State] = []

        def handler(_: object, state: State) -> None:
            seen.append(state)
            if state is when:
                connection.abort()

        connection.on_state_update(handler)
        viable: list[bool] = []
        connection.on_viability_update(lambda _, value: viable.append(value))
        with pytest.raises((ChannelClosedError, ConnectionRefusedError)):  # noqa: PT012
            await connection.ready()
            await connection.send(b"x")
        assert seen == [PREPARING, CANCELLED] if when is PREPARING else [PREPARING, when, CANCELLED]
        assert not viable
        await asyncio.sleep(2)

    network.run(main)


def test_a_handler_may_call_while_the_connection_begins_to_wait(network: Network) -> None:
    network.hosts[HOST] = refusal()

    async def main() -> None:
        connection = NetworkConnection(TO, TCP())
        retries: list[asyncio.Task[None]] = []

        def handler(_: object, state: State) -> None:
            if state is WAITING and not retries:
                network.hosts[HOST] = Answer()
                connection.needed()
                retries.append(asyncio.ensure_future(connection.ready()))

        connection.on_state_update(handler)
        with pytest.raises(ConnectionRefusedError):
            await connection.ready()
        await retries[0]
        assert connection.state is READY and network.time() == pytest.approx(0.02)
        connection.abort()

    network.run(main)


def test_one_handler_at_a_time(network: Network) -> None:
    network.hosts[HOST] = Answer()

    async def main() -> None:
        connection = NetworkConnection(TO, TCP())
        first = watched(connection)
        connection.start()
        second = watched(connection)
        await connection.ready()
        connection.abort()
        assert first == [PREPARING] and second == [READY, CANCELLED]

    network.run(main)


def test_path_and_viability_come_with_ready(network: Network) -> None:
    network.hosts[HOST] = Answer()

    async def main() -> None:
        news: list[object] = []
        connection = NetworkConnection(TO, TCP())
        connection.on_state_update(lambda _, state: news.append(state))
        connection.on_path_update(lambda one, path: news.append((one is connection, path)))
        connection.on_viability_update(lambda one, viable: news.append((one is connection, viable)))
        connection.on_better_path_update(lambda one, better: news.append((one is connection, better)))
        async with connection:
            await connection.ready()
            path = connection.current_path
            assert path is not None and path.is_satisfied and path.interface == network.links[0]
            assert path.local_endpoint == connection.local_endpoint and path.remote_endpoint == TO
            assert news == [PREPARING, READY, (True, path), (True, True)]
        assert news[4:] == [CANCELLED]

    network.run(main)


def test_a_handler_may_go_on_to_the_next_endpoint(network: Network) -> None:
    """Viability is told of the connection that there is, not of the one that was given up."""
    network.names["host.test", 4] = 0.0, [HOST, "192.0.2.2"]
    network.hosts = {HOST: Answer(), "192.0.2.2": Answer()}
    news: list[object] = []

    def handler(connection: NetworkConnection[TCP], state: State) -> None:
        news.append(state)
        if news.count(READY) == 1 and state is READY:
            connection.try_next_endpoint()

    async def main() -> None:
        connection = NetworkConnection("host.test:80", TCP()).on_state_update(handler)
        connection.on_viability_update(lambda _, viable: news.append(viable))
        async with connection:
            await connection.send(b"x")
            await connection.ready()
            assert connection.remote_endpoint == HostPort("192.0.2.2", 80)

    network.run(main)
    assert news == [PREPARING, READY, PREPARING, READY, True, CANCELLED]


def test_states_as_an_iterator(network: Network) -> None:
    network.hosts[HOST] = Answer()

    async def main() -> None:
        connection = NetworkConnection(TO, TCP())
        whole, part = connection.state_updates(), connection.state_updates()
        async with connection:
            async for state in part:
                if state is READY:
                    break
            gone = weakref.ref(part)
            del part
            assert gone() is None, "breaking out leaves nothing"
        assert [state async for state in whole] == [PREPARING, READY, CANCELLED]
        assert [state async for state in whole] == []
        assert [state async for state in connection.state_updates()] == []

    network.run(main)


def test_a_step_of_an_iterator_can_be_cancelled_and_belongs_to_one_task(network: Network) -> None:
    async def main() -> None:
        connection = NetworkConnection(TO, TCP())
        updates = connection.state_updates()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await anext(updates)
        waiting = asyncio.ensure_future(anext(updates))
        await turns()
        with pytest.raises(RuntimeError, match="each task needs one of its own"):
            await anext(updates)
        connection.abort()
        assert await waiting is CANCELLED

    network.run(main)


# The next endpoint


def test_the_next_endpoint_takes_over_and_calls_go_on_waiting(network: Network) -> None:
    network.names["host.test", 4] = 0.0, [HOST, "192.0.2.2"]
    network.hosts = {HOST: Answer(), "192.0.2.2": Answer()}

    async def main() -> None:
        async with NetworkConnection("host.test:80", TCP()) as connection:
            seen = watched(connection)
            await connection.send(b"are you the one?")
            first = connection.remote_endpoint
            pending = asyncio.create_task(connection.receive(exactly=3))
            await turns()
            connection.try_next_endpoint()
            assert connection.state is PREPARING and connection.remote_endpoint is None
            connection.try_next_endpoint()
            await connection.send(b"or you?")
            assert first == HostPort(HOST, 80) and connection.remote_endpoint == HostPort("192.0.2.2", 80)
            network.sockets[1].handler.received(memoryview(b"yes"))
            assert (await pending).content == b"yes"
            assert seen == [READY, PREPARING, READY]
        assert [socket.sent for socket in network.sockets] == [b"are you the one?", b"or you?"]
        assert network.sockets[0].state == "aborted"

    network.run(main)


def test_what_the_wrong_host_said_and_its_end_are_forgotten(network: Network) -> None:
    network.names["host.test", 4] = 0.0, [HOST, "192.0.2.2"]
    network.hosts = {HOST: Answer(), "192.0.2.2": Answer()}

    async def main() -> None:
        async with NetworkConnection("host.test:80", TCP()) as connection:
            await connection.ready()
            network.sockets[0].handler.received(memoryview(b"wrong"))
            network.sockets[0].handler.received_end()
            connection.try_next_endpoint()
            await connection.send(b"hello")
            network.sockets[1].handler.received(memoryview(b"right"))
            assert (await connection.receive()).content == b"right"

    network.run(main)
    assert [socket.sent for socket in network.sockets] == [b"", b"hello"]


def test_without_a_next_endpoint_the_connection_waits(network: Network) -> None:
    network.hosts[HOST] = Answer()

    async def main() -> None:
        async with NetworkConnection(TO, TCP()) as connection:
            await connection.ready()
            pending = asyncio.create_task(connection.receive())
            await turns()
            connection.try_next_endpoint()
            with pytest.raises(ConnectError, match="no other address is left to try"):
                await pending
            assert connection.state is WAITING
            await connection.ready()
            assert len(network.sockets) == 2, "a call starts a fresh attempt, with every address"

    network.run(main)


@pytest.mark.parametrize("state", [SETUP, PREPARING, WAITING, CANCELLED])
def test_there_is_no_next_endpoint_before_ready(network: Network, state: State) -> None:
    network.hosts[HOST] = refusal() if state is WAITING else SILENCE

    async def main() -> None:
        connection = NetworkConnection(TO, TCP())
        if state is not SETUP:
            connection.start()
            await asyncio.sleep(0.1)
        if state is CANCELLED:
            connection.abort()
        connection.try_next_endpoint()
        assert connection.state is state
        connection.abort()

    network.run(main)


# Other transports


def test_udp_is_ready_without_asking_anybody(network: Network) -> None:
    network.names["host.test", 6] = 0.0, ["2001:db8::1"]
    network.names["host.test", 4] = 0.0, [HOST]
    network.hosts["2001:db8::1"] = Answer(0, errno.ENETUNREACH)

    async def main() -> None:
        async with NetworkConnection("host.test:53", UDP()) as connection:
            await connection.send(b"x")
            assert connection.remote_endpoint == HostPort(HOST, 53) and network.time() < 0.1
            report = await connection.establishment_report()
            assert report.handshakes == () and report.resolutions[0].endpoint_count == 2

    network.run(main)
    assert [what for _, what in network.said()][-2:] == ["2001:db8::1", HOST]


def test_a_connection_is_itself() -> None:
    one, other = NetworkConnection(TO, TCP()), NetworkConnection(TO, TCP())
    assert one == one and one != other and len({one, other, one}) == 2 and one.id != other.id
    assert repr(one) == f"<NetworkConnection {one.id} to 192.0.2.1:80 over TCP, setup>"
