"""Forms: the short way for a picture alone says what the parser says."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pulmo.serving import bodies

BOUNDARY = "b-1_X"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
EDGE = b"--" + BOUNDARY.encode()
DISPOSITION = b'Content-Disposition: form-data; name="file"'

# Pieces that forms are made of, and what looks like them.
pieces = st.sampled_from(
    [
        *(EDGE, b"\r\n", b"--", b"\r\n\r\n", b"-", b"\r", b"\n", b"", b"picture", b"\x00\xff"),
        *(DISPOSITION, b'; filename="a.jpg"', b'; filename="a\\"b"', b"; filename*=UTF-8''x"),
        *(DISPOSITION.lower(), b'Content-Disposition: form-data; name="other"'),
        *(b"Content-Type: image/jpeg", b"Content-Transfer-Encoding: base64", b"X: y"),
    ]
)
bodies_of_pieces = st.lists(pieces, max_size=16).map(b"".join)
forms = st.builds(
    lambda head, between, data, end: b"".join((EDGE, b"\r\n", *head, between, data, b"\r\n", end)),
    st.tuples(
        st.sampled_from([DISPOSITION, DISPOSITION.upper(), b"X: y"]),
        st.sampled_from([b"", b'; filename="x.jpg"', b'; filename="x\ty"', b'; filename="\xff;"']),
        st.sampled_from(
            [b"", b"\r\nContent-Type: image/jpeg", b"\r\nX: y", b"\r\nX: " + b"y" * 600]
        ),
    ),
    st.sampled_from([b"\r\n\r\n", b"\r\n", b"\n\n"]),
    st.one_of(st.binary(max_size=40), bodies_of_pieces),
    st.sampled_from([EDGE + b"--", EDGE + b"--\r\n", EDGE + b"\r\n", EDGE + b"--more", b""]),
)


@given(st.one_of(forms, bodies_of_pieces))
@example(b"\r\n".join((EDGE, DISPOSITION, b"", b"", EDGE + b"--")))
@example(b"\r\n".join((EDGE, DISPOSITION, b"", EDGE + b"--")))
def test_the_short_way_says_what_the_parser_says(body: bytes) -> None:
    alone = bodies._alone(body, FORM)
    if alone is not None:
        assert bodies._parsed(body, FORM) == bodies.Pictures((alone,), many=False)


@pytest.mark.parametrize("end", [b"--", b"--\r\n"])
@pytest.mark.parametrize(
    "head", [DISPOSITION, DISPOSITION + b'; filename="x.jpg"\r\nContent-Type: image/jpeg']
)
@pytest.mark.parametrize("kind", [FORM, FORM.replace(" ", "")])
def test_a_form_as_clients_write_it_takes_the_short_way(head: bytes, end: bytes, kind: str) -> None:
    body = b"\r\n".join((EDGE, head, b"", b"\r\n-- picture --\r\n", EDGE + end))
    assert bodies._alone(body, kind) == b"\r\n-- picture --\r\n"


@pytest.mark.parametrize(
    "kind",
    [
        'multipart/form-data; boundary="b-1_X"',
        "multipart/form-data; boundary=b-1_X; charset=utf-8",
        "multipart/form-data",
        "multipart/form-data; boundary=" + "b" * 71,
    ],
)
def test_other_types_are_left_to_the_parser(kind: str) -> None:
    body = b"\r\n".join((EDGE, DISPOSITION, b"", b"picture", EDGE + b"--"))
    assert bodies._alone(body, kind) is None
