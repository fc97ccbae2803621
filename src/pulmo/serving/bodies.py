"""A request's body to the encoded pictures in it: raw, multipart or base64 in JSON."""

import re
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from pulmo.core.wire import MAX_PICTURES, ManyPictures, OnePicture
from pulmo.errors import DataError, InvalidError, MediaTypeError, TooLargeError

M = TypeVar("M", bound=BaseModel)

FIELD = b"file"
MAX_PARTS = MAX_PICTURES + 16  # fields beside the pictures are ignored

# A form that holds one picture and nothing else.
_NAMED = re.compile(r"multipart/form-data; ?boundary=([\w-]{1,70})", re.ASCII)
_HEAD = re.compile(
    rb"""\r\n(?i:content-disposition): form-data; name="file"(?:; filename="[^"\\\r\n]*")?\r\n"""
    rb"""(?:(?i:content-type): [\w.+/-]+\r\n)?\r\n""",
    re.ASCII,
)
_MOST_HEAD = 512

# What a document of pictures may hold: every wrong item of a larger one would get its own error.
_MOST = {b",": MAX_PICTURES - 1, b":": 2, b"[": 1, b"{": 1}
_DOCUMENT: TypeAdapter[OnePicture | ManyPictures] = TypeAdapter(OnePicture | ManyPictures)
_WRONG = {
    "value_error": "is not base64",
    "bytes_type": "is no text",
    "tuple_type": "is no list",
    "too_short": "is empty",
}


@dataclass(frozen=True)
class Pictures:
    """Encoded pictures; `many` is whether the client expects a list of answers."""

    encoded: tuple[bytes, ...]
    many: bool


def require_readable(content_type: str, content_encoding: str) -> None:
    """Raise MediaTypeError for a body that `pictures` would not read."""
    kind = _kind(content_type)
    if content_encoding.lower() not in ("", "identity"):
        raise MediaTypeError(f"a body in the encoding '{content_encoding[:40]}' is not read")
    known = ("application/dicom", "application/json", "multipart/form-data")
    if not kind.startswith("image/") and kind not in known:
        raise MediaTypeError(
            f"a body of type '{kind[:80]}' is not read: send image/*, {', '.join(known)}"
        )


def pictures(body: bytes, content_type: str) -> Pictures:
    """The pictures in a body of a type that `require_readable` lets through.

    Raises DataError for a body that is broken, InvalidError for one without pictures,
    TooLargeError for one with too many.
    """
    if not body:
        raise DataError("the body is empty: send a picture")
    kind = _kind(content_type)
    if kind == "application/json":
        return _from_json(body)
    if kind == "multipart/form-data":
        return _from_form(body, content_type)
    return Pictures((body,), many=False)


def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _from_json(body: bytes) -> Pictures:
    must = (
        "the document must be {'image': base64} or {'images': [base64, …]} with at most "
        f"{MAX_PICTURES} pictures"
    )
    if any(body.count(sign) > most for sign, most in _MOST.items()):
        raise InvalidError(must)
    try:
        document = _DOCUMENT.validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        if first["type"] == "json_invalid":
            raise DataError(f"the body is no JSON: {first['msg']}") from error
        raise InvalidError(f"{must}{_wrong(error)}") from error
    if isinstance(document, OnePicture):
        return Pictures((document.image,), many=False)
    return Pictures(document.images, many=True)


def _wrong(error: ValidationError) -> str:
    """What is wrong with a document that has the right key, nothing for any other."""
    for one in error.errors(include_input=False, include_url=False):
        if one["type"] in _WRONG:
            _, name, *index = one["loc"]
            where = f"picture {int(index[0]) + 1}" if index else f"'{name}'"
            return f": {where} {_WRONG[one['type']]}"
    return ""


@dataclass
class _Form:
    """What the parser has told so far."""

    found: list[bytes] = field(default_factory=list)
    parts: int = 0
    header: bytes = b""
    value: bytes = b""
    disposition: bytes = b""
    data: list[bytes] | None = None  # of the present part, None where it is no picture
    ended: bool = False

    def begin(self) -> None:
        self.parts += 1
        if self.parts > MAX_PARTS:
            raise TooLargeError(f"the form has more than {MAX_PARTS} parts")
        self.header = self.value = self.disposition = b""
        self.data = None

    def name_header(self, data: bytes, start: int, end: int) -> None:
        self.header += data[start:end]

    def value_header(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def end_header(self) -> None:
        if self.header.lower() == b"content-disposition":
            self.disposition = self.value
        self.header = self.value = b""

    def end_headers(self) -> None:
        _, options = parse_options_header(self.disposition.decode("latin-1"))
        self.data = [] if options.get(b"name") == FIELD else None

    def take(self, data: bytes, start: int, end: int) -> None:
        if self.data is not None:
            self.data.append(data[start:end])

    def end_part(self) -> None:
        if self.data is not None:
            self.found.append(b"".join(self.data))
            self.data = None
        if len(self.found) > MAX_PICTURES:
            raise TooLargeError(f"at most {MAX_PICTURES} pictures are answered in one request")

    def end(self) -> None:
        self.ended = True


def _from_form(body: bytes, content_type: str) -> Pictures:
    alone = _alone(body, content_type)
    return Pictures((alone,), many=False) if alone is not None else _parsed(body, content_type)


def _alone(body: bytes, content_type: str) -> bytes | None:
    """The picture of a form as most clients write it, without the parser, which takes longer.

    None where anything is otherwise; the parser then finds out what.
    """
    named = _NAMED.fullmatch(content_type)
    if named is None:
        return None
    boundary = b"--" + named[1].encode()
    head = _HEAD.match(body, len(boundary), len(boundary) + _MOST_HEAD)
    if head is None or not body.startswith(boundary):
        return None
    end = body.find(b"\r\n" + boundary, head.end())
    closed = body[end + 2 + len(boundary) :] in (b"--", b"--\r\n")
    return body[head.end() : end] if end >= 0 and closed else None


def _parsed(body: bytes, content_type: str) -> Pictures:
    _, options = parse_options_header(content_type)
    if not options.get(b"boundary"):
        raise DataError("the form's Content-Type names no boundary")
    form = _Form()
    try:
        parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": form.begin,
                "on_header_field": form.name_header,
                "on_header_value": form.value_header,
                "on_header_end": form.end_header,
                "on_headers_finished": form.end_headers,
                "on_part_data": form.take,
                "on_part_end": form.end_part,
                "on_end": form.end,
            },
        )
        parser.write(body)
    except FormParserError as error:
        raise DataError(f"the form is broken: {error}") from error
    if not form.ended:
        raise DataError("the form ends before its last boundary")
    if not form.found:
        raise InvalidError("the form has no field 'file' with a picture")
    return Pictures(tuple(form.found), many=len(form.found) > 1)


def document(kind: type[M], body: bytes) -> M:
    """A body that is a document of JSON. Raises DataError for no JSON, InvalidError otherwise."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        if first["type"] == "json_invalid":
            raise DataError(f"the body is no JSON: {first['msg']}") from error
        where = ".".join(map(str, first["loc"]))
        raise InvalidError(f"{where or 'the body'}: {first['msg']}") from error
