"""The inbox against a plain string of bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tieline._engine.stream import ByteInbox

pieces = st.lists(st.binary(min_size=1, max_size=12), max_size=12)


@given(pieces, st.lists(st.integers(0, 20), max_size=12))
def test_takes_give_back_what_came(parts: list[bytes], sizes: list[int]) -> None:
    inbox, whole = ByteInbox(), b"".join(parts)
    for part in parts:
        inbox.append(part)
    for size in sizes:
        assert inbox.size == len(whole)
        assert inbox.take(size) == whole[:size]
        whole = whole[size:]
    assert inbox.take(inbox.size) == whole
    assert inbox.size == 0 and inbox.take(1) == b""


@given(pieces, st.lists(st.integers(1, 20), max_size=12))
def test_takes_into_a_buffer(parts: list[bytes], sizes: list[int]) -> None:
    inbox, whole = ByteInbox(), b"".join(parts)
    for part in parts:
        inbox.append(part)
    for size in sizes:
        buffer = bytearray(b"\xee" * size)
        count = inbox.take_into(memoryview(buffer))
        assert count == min(size, len(whole))
        assert buffer == whole[:count] + b"\xee" * (size - count)
        whole = whole[count:]
        assert inbox.size == len(whole)


@given(
    st.lists(st.text("ab;", min_size=1, max_size=6), max_size=10),
    st.sampled_from([b";", b";;", b"ab;", b"aa", b"abab"]),
    st.integers(0, 6),
    st.integers(0, 20),
)
def test_finds_a_separator_across_any_split(parts: list[str], separator: bytes, taken: int, start: int) -> None:
    inbox, whole = ByteInbox(), "".join(parts).encode()
    for part in parts:
        inbox.append(part.encode())
    inbox.take(taken)
    whole = whole[taken:]
    found = inbox.find(separator, min(start, inbox.size))
    assert found == whole.find(separator, min(start, len(whole)))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=300))
def test_small_pieces_are_merged(sizes: list[int]) -> None:
    inbox = ByteInbox()
    for size in sizes:
        inbox.append(b"x" * size)
    assert inbox.pieces <= 2


def test_a_whole_piece_is_handed_on_uncopied() -> None:
    inbox, piece = ByteInbox(), b"x" * 1000
    inbox.append(piece)
    assert inbox.take(5000) is piece
    inbox.append(piece)
    inbox.append(piece)
    assert inbox.take(1000) is piece


def test_clear() -> None:
    inbox = ByteInbox()
    inbox.append(b"abc")
    inbox.take(1)
    inbox.clear()
    inbox.append(b"de")
    assert inbox.size == 2 and inbox.take(9) == b"de"
