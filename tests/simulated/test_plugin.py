"""The pytest plugin, as a user's tests see it: each test here runs pytest on some of them."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tieline import Identity, Trust
from tieline.testing import CertificateAuthority, SimulatedNetwork

pytest_plugins = ["pytester"]

FAILING = """
    import asyncio
    import pytest
    from tieline import UDP, NetworkConnection, NetworkListener

    async def answer(connection):
        async for content, _ in connection:
            await connection.send(content)

    async def test_lossy(simulated_network):
        server, client = simulated_network.host("server.test", "10.0.0.1"), simulated_network.host("client.test", "10.0.0.2")
        simulated_network.link(server, client, loss=0.5, jitter=0.1)
        server.start(NetworkListener(UDP(), on=53).run, answer)
        with client:
            async with NetworkConnection("server.test:53", UDP()) as connection:
                for number in range(1000):
                    await connection.send(b"%d" % number)
                    async with asyncio.timeout(1):
                        await connection.receive()
"""

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Run pytest on a file with this content."""

    def run(content: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(content)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-W", "error", *options)

    return run


def section(result: pytest.RunResult) -> list[str]:
    """What the report says of the network."""
    lines = result.outlines
    start = next(number for number, line in enumerate(lines) if re.fullmatch(r"-+ simulated network -+", line))
    end = next(number for number in range(start + 1, len(lines)) if lines[number][:1] in "-=_")
    return lines[start + 1 : end]


def test_async_tests_run_in_virtual_time(run: Run) -> None:
    result = run("""
        import asyncio
        import pytest
        from tieline.testing import CertificateAuthority, SimulatedNetwork, VirtualClock

        @pytest.fixture
        def hosts(simulated_network):
            return simulated_network.host("one.test"), simulated_network.host("other.test")

        async def test_time(simulated_network):
            assert isinstance(simulated_network, SimulatedNetwork) and simulated_network.nodes == []
            assert isinstance(asyncio.get_running_loop(), VirtualClock)
            await asyncio.sleep(86400 * 6)
            assert simulated_network.time == 86400 * 6

        @pytest.mark.parametrize("number", [1, 2])
        async def test_other_fixtures(hosts, number, simulated_network, tmp_path):
            assert [host.name for host in hosts] == ["one.test", "other.test"] and number in (1, 2) and tmp_path.exists()
            assert simulated_network.nodes == [*hosts]

        async def test_by_another_fixture(hosts):
            with hosts[0]:
                await asyncio.sleep(1)
            assert asyncio.get_running_loop().time() == 1

        class TestMethods:
            async def test_method(self, simulated_network, seconds=1):
                await asyncio.sleep(seconds)
                assert simulated_network.time == seconds == 1

        def test_not_async(simulated_network):
            async def main(value):
                await asyncio.sleep(1)
                return value
            assert simulated_network.run(main, 5) == 5
    """)
    result.assert_outcomes(passed=6)
    assert "simulated network" not in result.stdout.str()


def test_a_failure_tells_its_seed_and_repeats_with_it(run: Run, pytester: pytest.Pytester) -> None:
    first = run(FAILING)
    first.assert_outcomes(failed=1)
    told = section(first)
    found = re.fullmatch(r"seed (\d+): pytest --network-seed=(\d+) repeats it; the last packets were", told[0])
    assert found and found[1] == found[2]
    assert 1 < len(told) <= 21 and all(re.match(r"  \d+\.\d{6} (server|client)\.test: ", line) for line in told[1:])
    first.stdout.fnmatch_lines([f"E*in a simulated network with seed={found[1]}, which repeats it"])
    again = pytester.runpytest_subprocess("-p", "no:cacheprovider", f"--network-seed={found[1]}")  # as somebody would later
    again.assert_outcomes(failed=1)
    assert section(again) == told
    other = run(FAILING, f"--network-seed={int(found[1]) + 1}")
    assert section(other) != told


def test_the_last_packets_are_shown(run: Run) -> None:
    result = run(
        """
        import asyncio
        from tieline import UDP, NetworkConnection

        async def test_many(simulated_network):
            server, client = simulated_network.host("server.test", "10.0.0.1"), simulated_network.host("client.test", "10.0.0.2")
            simulated_network.link(server, client)
            with client:
                async with NetworkConnection("10.0.0.3:53", UDP()) as connection:
                    for number in range(50):
                        await connection.send(bytes(number))
                        await asyncio.sleep(1)
            assert False

        def test_without_packets(simulated_network):
            assert False
    """,
        "--network-seed=9",
    )
    result.assert_outcomes(failed=2)
    lines = section(result)
    assert lines[0] == "seed 9: pytest --network-seed=9 repeats it; the last packets were" and len(lines) == 21
    assert lines[-1] == "  49.001000 server.test: dropped, nobody has this address: UDP 10.0.0.2:49152 > 10.0.0.3:53 len 49"
    assert result.stdout.str().count("seed 9: pytest --network-seed=9 repeats it") == 2


def test_failures_before_and_after_the_test_itself(run: Run) -> None:
    result = run("""
        import pytest

        @pytest.fixture
        def broken(simulated_network):
            raise ValueError("in a fixture")

        @pytest.fixture
        def broken_later(simulated_network):
            yield
            raise ValueError("at its end")

        async def test_one(broken): ...
        async def test_other(broken_later): ...
        def test_without_a_network():
            assert False
    """)
    result.assert_outcomes(errors=2, passed=1, failed=1)
    assert result.stdout.str().count("repeats it; the last packets were") == 2
    assert "ERROR at setup of test_without" not in result.stdout.str()


def test_a_program_that_fails_fails_the_test(run: Run) -> None:
    result = run("""
        import asyncio

        async def program():
            await asyncio.sleep(3)
            raise ValueError("of the program")

        async def test_it(simulated_network):
            simulated_network.host("host.test").start(program)
            await asyncio.sleep(100)

        async def test_waiting_for_nothing(simulated_network):
            await asyncio.Event().wait()
    """)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["E*ValueError: of the program", "E*raised by program on host.test"])
    result.stdout.fnmatch_lines(["E*StandstillError: at 0 s every task waits, and nothing is going to happen:"])
    result.stdout.fnmatch_lines(["*await asyncio.Event().wait()"])


def test_the_seed_is_an_option(run: Run) -> None:
    content = """
        async def test_seed(simulated_network):
            assert simulated_network.seed == 77

        def test_new_ones(simulated_network, request):
            assert simulated_network.seed == 77
    """
    run(content, "--network-seed=77").assert_outcomes(passed=2)
    run(content).assert_outcomes(failed=2)
    result = run(content, "--network-seed=many")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*argument --network-seed: invalid int value: 'many'"])


def test_the_option_explains_itself(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--help")
    assert re.search(r"tieline:\n +--network-seed=SEED\s+the seed of each test's simulated_network", result.stdout.str())
    result = pytester.runpytest_inprocess("--fixtures", "-p", "no:cacheprovider")
    for fixture in ("simulated_network", "certificate_authority"):
        assert re.search(rf"^{fixture}\b.*\n    \w.*", result.stdout.str(), re.MULTILINE), fixture


def test_other_async_tests_are_left_alone(run: Run) -> None:
    """Whoever runs them, it is not this plugin."""
    result = run("""
        async def test_async(): ...

        async def test_async_with_an_authority(certificate_authority): ...

        def test_plain(): ...
    """)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["*async def functions are not natively supported*"])


def test_the_authority_is_one_for_all(certificate_authority: CertificateAuthority, simulated_network: SimulatedNetwork) -> None:
    assert isinstance(certificate_authority.identity("localhost"), Identity) and isinstance(certificate_authority.trust, Trust)
    assert isinstance(simulated_network, SimulatedNetwork)


def test_the_authority_works_and_is_made_once(run: Run) -> None:
    result = run("""
        import pytest
        from tieline import TLS, NetworkConnection, NetworkListener

        seen = []

        @pytest.mark.parametrize("number", [1, 2])
        async def test_tls(simulated_network, certificate_authority, number):
            seen.append(certificate_authority)
            assert all(one is certificate_authority for one in seen) and len(seen) == number
            server, client = simulated_network.host("server.test"), simulated_network.host("client.test")
            simulated_network.link(server, client)

            async def greet(connection):
                await connection.send(b"hello")

            server.start(NetworkListener(TLS(identity=certificate_authority.identity("server.test")), on=443).run, greet)
            with client:
                async with NetworkConnection("server.test:443", TLS(trust=certificate_authority.trust)) as connection:
                    assert (await connection.receive(exactly=5)).content == b"hello"
                    assert connection.metadata(TLS) is not None
    """)
    result.assert_outcomes(passed=2)


def test_a_network_goes_with_its_test(run: Run) -> None:
    """A session has many, and their traces are large."""
    result = run("""
        import gc
        import weakref

        seen = []

        async def test_one(simulated_network):
            seen.append(weakref.ref(simulated_network))

        def test_other():
            gc.collect()
            assert seen[0]() is None
    """)
    result.assert_outcomes(passed=2)
