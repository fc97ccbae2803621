import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulmo.core import signatures
from pulmo.errors import ForgedError

SECRET, BODY, NOW = "a secret of some length", b'{"alias": "staging"}', 1_800_000_000


def ours(**changes: str) -> dict[str, str]:
    return {**signatures.sign(SECRET, "event-1", NOW, BODY), **changes}


def test_the_vector_of_standard_webhooks_is_met() -> None:
    secret, id_ = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"
    headers = signatures.sign(secret, id_, 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_vector_of_github_is_met() -> None:
    secret, body = "It's a Secret to Everybody", b"Hello, World!"
    told = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert signatures.sign_github(secret, body) == {"x-hub-signature-256": told}
    signatures.verify_github([secret], {"x-hub-signature-256": told}, body)


def test_what_was_signed_is_accepted_with_its_id() -> None:
    assert signatures.verify([SECRET], ours(), BODY, NOW + 299.5) == "event-1"


@pytest.mark.parametrize("secrets", [["new", SECRET], [SECRET, "old"]])
def test_either_of_two_secrets_will_do_during_a_rotation(secrets: list[str]) -> None:
    assert signatures.verify(secrets, ours(), BODY, NOW) == "event-1"
    signatures.verify_github(secrets, signatures.sign_github(SECRET, BODY), BODY)
    signatures.verify_wandb(secrets, signatures.sign_wandb(SECRET, BODY), BODY)


def test_a_sender_may_sign_with_two_secrets() -> None:
    both = f"v1,AAAA {ours()['webhook-signature']} v2,what"
    assert signatures.verify([SECRET], ours(**{"webhook-signature": both}), BODY, NOW) == "event-1"


@pytest.mark.parametrize("now", [NOW - 301, NOW + 301])
def test_a_message_out_of_its_time_is_refused(now: int) -> None:
    with pytest.raises(ForgedError, match="300 s"):
        signatures.verify([SECRET], ours(), BODY, now)


@pytest.mark.parametrize(
    "changes",
    [
        {"webhook-id": "event-2"},
        {"webhook-id": ""},
        {"webhook-id": "event 1"},
        {"webhook-timestamp": str(NOW + 1)},
        {"webhook-timestamp": f"{NOW}.0"},
        {"webhook-timestamp": f"+{NOW}"},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1,ä"},
        {"webhook-signature": ours()["webhook-signature"].replace("v1,", "v2,")},
        {"webhook-signature": ours()["webhook-signature"].rstrip("=")},
        {"webhook-signature": ours()["webhook-signature"] + "="},
    ],
)
def test_any_other_header_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ForgedError):
        signatures.verify([SECRET], ours(**changes), BODY, NOW)


def test_without_a_secret_nothing_is_accepted() -> None:
    with pytest.raises(ForgedError):
        signatures.verify([], ours(), BODY, NOW)


def test_wandb_may_write_its_signature_in_base64_or_in_hex() -> None:
    told = signatures.sign_wandb(SECRET, BODY)["x-wandb-signature"]
    signatures.verify_wandb([SECRET], {"x-wandb-signature": told}, BODY)
    hexed = base64.b64decode(told).hex()
    signatures.verify_wandb([SECRET], {"x-wandb-signature": hexed}, BODY)
    with pytest.raises(ForgedError):
        signatures.verify_wandb([SECRET], {"x-wandb-signature": hexed.upper()}, BODY)


@pytest.mark.parametrize("sent", [None, "token-x", ""])
def test_the_token_of_wandb_is_asked_for_beside_the_signature(sent: str | None) -> None:
    headers = signatures.sign_wandb(SECRET, BODY, sent)
    with pytest.raises(ForgedError, match="token"):
        signatures.verify_wandb([SECRET], headers, BODY, ["token-1"])
    signatures.verify_wandb(
        [SECRET], signatures.sign_wandb(SECRET, BODY, "token-1"), BODY, ["0", "token-1"]
    )


def check_ours(headers: dict[str, str], body: bytes) -> None:
    signatures.verify([SECRET], headers, body, NOW)


def check_github(headers: dict[str, str], body: bytes) -> None:
    signatures.verify_github([SECRET], headers, body)


def check_wandb(headers: dict[str, str], body: bytes) -> None:
    signatures.verify_wandb([SECRET], headers, body)


@pytest.mark.parametrize(
    ("check", "headers"),
    [
        (check_ours, ours()),
        (check_github, signatures.sign_github(SECRET, BODY)),
        (check_wandb, signatures.sign_wandb(SECRET, BODY)),
    ],
)
@given(other=st.binary().filter(lambda body: body != BODY))
def test_no_other_body_is_accepted(
    check: Callable[[dict[str, str], bytes], None], headers: dict[str, str], other: bytes
) -> None:
    check(headers, BODY)
    with pytest.raises(ForgedError):
        check(headers, other)
