"""Forms: the short way for a picture alone says what the parser says. What is wrong is named."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pulmo.errors import DataError, InvalidError
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


@pytest.mark.parametrize(
    ("body", "end"),
    [
        (b'{"images": ["%%"]}', "pictures: picture 1 is not base64"),
        (b'{"images": ["AAAA", "A"]}', "pictures: picture 2 is not base64"),
        (b'{"images": ["AAAA", 3]}', "pictures: picture 2 is no text"),
        (b'{"images": []}', "pictures: 'images' is empty"),
        (b'{"images": "AAAA"}', "pictures: 'images' is no list"),
        (b'{"image": "%%"}', "pictures: 'image' is not base64"),
        (b'{"images": [' + b'"AAAA", ' * 16 + b'"AAAA"]}', "with at most 16 pictures"),
        (b'{"picture": "AAAA"}', "with at most 16 pictures"),
    ],
)
def test_a_document_is_told_what_is_wrong_with_it(body: bytes, end: str) -> None:
    with pytest.raises(InvalidError) as refused:
        bodies.pictures(body, "application/json")
    assert str(refused.value).endswith(end)


@pytest.mark.parametrize("kind", ["image/jpeg", "application/dicom", "application/json", FORM])
def test_an_empty_body_is_called_empty(kind: str) -> None:
    with pytest.raises(DataError, match="the body is empty"):
        bodies.pictures(b"", kind)
