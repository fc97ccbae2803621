import asyncio
from typing import Any

import pytest
from fastapi import Request
from hypothesis import example, given
from hypothesis import strategies as st

from pulmo.errors import BusyError, DataError, TooLargeError, TooSlowError
from pulmo.serving.limits import Intake, Limits


def request(*bodies: bytes, then: str = "", length: int | None = None) -> Request:
    """A request whose body comes in pieces; `then` it waits for ever or the client goes away."""
    pieces = list(bodies)

    async def receive() -> dict[str, Any]:
        if pieces:
            more = len(pieces) > 1 or bool(then)
            return {"type": "http.request", "body": pieces.pop(0), "more_body": more}
        if then == "wait":
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    headers = [] if length is None else [(b"content-length", str(length).encode())]
    return Request({"type": "http", "headers": headers, "state": {"unread": True}}, receive)


def read(intake: Intake, asked: Request) -> bytes:
    async def run() -> bytes:
        async with intake.body(asked) as body:
            return body

    return asyncio.run(run())


def test_a_body_is_put_together() -> None:
    asked = request(b"ab", b"cd")
    assert read(Intake(Limits()), asked) == b"abcd"
    assert asked.state.unread is False


def test_pieces_are_let_go_and_their_body_counts_in_their_place() -> None:
    gone = []

    class Piece(bytes):
        def __del__(self) -> None:
            gone.append(bytes(self))

    intake, asked = Intake(Limits(memory_bytes=4)), request(Piece(b"ab"), Piece(b"cd"))

    async def run() -> None:
        async with intake.body(asked) as body:
            assert (body, sorted(gone)) == (b"abcd", [b"ab", b"cd"])
            with pytest.raises(BusyError):
                intake.hold(1)
            intake.release(1)

    asyncio.run(run())
    intake.hold(4)  # nothing is held any more


def test_a_body_that_stops_coming_is_given_up() -> None:
    asked = request(b"ab", then="wait")
    with pytest.raises(TooSlowError, match="only 2 bytes"):
        read(Intake(Limits(receive_s=0.01)), asked)
    assert asked.state.unread is True


def test_a_body_that_came_fast_may_not_stop_for_long() -> None:
    intake = Intake(Limits(receive_s=0.05, slowest_rate=1))
    asked = request(bytes(1000), then="wait")

    async def run() -> None:
        async with asyncio.timeout(5), intake.body(asked):
            pass

    with pytest.raises(TooSlowError, match="only 1,000 bytes"):
        asyncio.run(run())


def test_bytes_buy_time_up_to_a_bound() -> None:
    limits = Limits(receive_s=8.0, slowest_rate=100)
    assert limits.due(10.0, 5.0, 100) == 11.0
    assert limits.due(10.0, 5.0, 10**9) == 13.0
    assert limits.due(10.0, 11.0, 0) == 10.0


PIECES = st.lists(st.tuples(st.integers(1, 4096), st.floats(0, 1)), min_size=1, max_size=50)


@given(PIECES)
@example([(4096, 0.0), (4096, 1.0)] * 10)
def test_who_sends_at_the_lowest_rate_is_in_time(pieces: list[tuple[int, float]]) -> None:
    limits = Limits(receive_s=8.0, slowest_rate=1024)
    now, due = 0.0, limits.receive_s
    for received, share in pieces:
        now += share * received / limits.slowest_rate  # as long as it may take, or a part of that
        assert now < due
        due = limits.due(due, now, received)


@given(PIECES, st.floats(1, 9))
def test_nobody_gets_far_ahead_or_takes_longer_than_all_of_it_may(
    pieces: list[tuple[int, float]], slower: float
) -> None:
    limits = Limits(receive_s=8.0, slowest_rate=1024)
    now, due, size = 0.0, limits.receive_s, 0
    for received, share in pieces:
        now, size = now + slower * share * received / limits.slowest_rate, size + received
        due = limits.due(due, now, received)
        assert due <= now + limits.receive_s
        assert due <= limits.receive_s + size / limits.slowest_rate + 1e-9


def test_a_client_that_goes_away_is_no_fault_of_ours() -> None:
    with pytest.raises(DataError, match="went away"):
        read(Intake(Limits()), request(b"ab", then="leave"))


def test_a_told_length_is_refused_before_a_byte_is_read() -> None:
    asked = request(b"ab", length=10**9)
    with pytest.raises(TooLargeError):
        read(Intake(Limits()), asked)
    with pytest.raises(TooLargeError):
        read(Intake(Limits(body_bytes=1)), asked)


@pytest.mark.parametrize("length", [0, 5])
def test_a_wrong_length_does_not_matter(length: int) -> None:
    assert read(Intake(Limits()), request(b"ab", length=length)) == b"ab"


def test_what_bodies_held_is_given_back_whatever_happens() -> None:
    intake = Intake(Limits(memory_bytes=3, body_bytes=5, receive_s=0.01))
    for bad in (request(b"abcd"), request(b"ab", then="wait"), request(b"abc", then="leave")):
        with pytest.raises((BusyError, TooSlowError, DataError)):
            read(intake, bad)
    assert read(intake, request(b"abc")) == b"abc"
