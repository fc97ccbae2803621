"""Files that no server may read as a picture, by kind and by seed."""

import base64
import gzip
import io
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
Make = Callable[[random.Random], bytes]


def hostile(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """`count` files as (kind, bytes), every kind in turn, always the same for a seed."""
    names = sorted(KINDS)
    for index in range(count):
        kind = names[index % len(names)]
        yield kind, KINDS[kind](random.Random(f"{seed} {index}"))


def bombs(seed: int, count: int) -> Iterator[bytes]:
    """Small files whose headers claim 26 to 178 megapixels."""
    makers = (_png_bomb, _jpeg_bomb, _bmp_bomb, _tiff_bomb)
    for index in range(count):
        yield makers[index % len(makers)](random.Random(f"{seed} {index}"))


def _picture(random: random.Random, kind: str) -> bytes:
    width, height = random.randint(40, 90), random.randint(40, 90)
    image = Image.frombytes("RGB", (width, height), random.randbytes(width * height * 3))
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def _cut(kind: str) -> Make:
    """The first sixteenths of a picture."""

    def make(random: random.Random) -> bytes:
        whole = _picture(random, kind)
        return whole[: len(whole) * random.randint(1, 15) // 16]

    return make


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return PNG_SIGNATURE + _chunk(b"IHDR", head) + b"".join(chunks) + _chunk(b"IEND", b"")


def _size(random: random.Random) -> tuple[int, int]:
    """A size of 26 to 178 megapixels with sides that would pass."""
    width = random.randint(6000, 9900)
    pixels = random.randint(26, 178) * 1_000_000
    return width, min(pixels // width + 1, 18_000)


def _png_bomb(random: random.Random) -> bytes:
    return _png(*_size(random), _chunk(b"IDAT", zlib.compress(bytes(2**20))))


def _jpeg_bomb(random: random.Random) -> bytes:
    whole = bytearray(_picture(random, "JPEG"))
    width, height = _size(random)
    at = whole.index(b"\xff\xc0") + 5
    whole[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(whole)


def _bmp_bomb(random: random.Random) -> bytes:
    whole = bytearray(_picture(random, "BMP"))
    width, height = _size(random)
    whole[18:26] = struct.pack("<ii", width, height)
    return bytes(whole)


def _tiff_bomb(random: random.Random) -> bytes:
    whole = bytearray(_picture(random, "TIFF"))
    width, height = _size(random)
    start = struct.unpack_from("<I", whole, 4)[0]
    for entry in range(struct.unpack_from("<H", whole, start)[0]):
        at = start + 2 + 12 * entry
        tag = struct.unpack_from("<H", whole, at)[0]
        if tag in (256, 257):
            struct.pack_into("<HHII", whole, at, tag, 4, 1, width if tag == 256 else height)
    return bytes(whole)


def _wrong_crc(random: random.Random) -> bytes:
    whole = bytearray(_picture(random, "PNG"))
    whole[random.randint(16, 32)] ^= 1 << random.randint(0, 7)
    return bytes(whole)


def _zip(random: random.Random) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../picture.png", _picture(random, "PNG"))
    return buffer.getvalue()


def _entities(random: random.Random) -> bytes:
    lines = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    return f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "a">{lines}]><x>&a9;</x>'.encode()


def _dicom(random: random.Random) -> bytes:
    group = b"\x02\0\x10\0UI" + struct.pack("<H", 18) + b"1.2.840.10008.1.2\0"
    return bytes(128) + b"DICM" + group + random.randbytes(random.randint(0, 400))


KINDS: dict[str, Make] = {
    "nothing": lambda r: b"",
    "one byte": lambda r: r.randbytes(1),
    "noise": lambda r: r.randbytes(r.randint(10, 5000)),
    "zeros": lambda r: bytes(r.randint(10, 5000)),
    "text": lambda r: b"this is no picture " * r.randint(1, 100),
    "a page": lambda r: b"<!doctype html><script>alert(1)</script>",
    "svg": lambda r: b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "entities": _entities,
    "a pickle": lambda r: pickle.dumps({"picture": r.randbytes(50)}),
    "a program": lambda r: b"\x7fELF" + r.randbytes(500),
    "pdf": lambda r: b"%PDF-1.7\n" + r.randbytes(500),
    "postscript": lambda r: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc) run\n",
    "zip": _zip,
    "gzip": lambda r: gzip.compress(_picture(r, "PNG"), mtime=0),
    "base64": lambda r: base64.b64encode(_picture(r, "PNG")),
    "gif": lambda r: _picture(r, "GIF"),
    "gif and script": lambda r: b"GIF89a/*" + r.randbytes(40) + b"*/=1;alert(1)",
    "ppm": lambda r: _picture(r, "PPM"),
    "ico": lambda r: _picture(r, "ICO"),
    "jpeg and zip": lambda r: b"\xff\xd8\xff\xe0" + _zip(r),
    "cut png": _cut("PNG"),
    "cut jpeg": _cut("JPEG"),
    "cut webp": _cut("WEBP"),
    "cut tiff": _cut("TIFF"),
    "cut bmp": _cut("BMP"),
    "png without data": lambda r: _png(9, 9),
    "png with empty data": lambda r: _png(9, 9, _chunk(b"IDAT", b"")),
    "png with noise": lambda r: _png(9, 9, _chunk(b"IDAT", r.randbytes(90))),
    "png without size": lambda r: _png(0, r.randint(1, 9), _chunk(b"IDAT", zlib.compress(b""))),
    "png with wrong sum": _wrong_crc,
    "png with a text bomb": lambda r: _png(
        9, 9, _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(70 * 2**20))), _chunk(b"IDAT", b"")
    ),
    "png bomb": _png_bomb,
    "jpeg bomb": _jpeg_bomb,
    "bmp bomb": _bmp_bomb,
    "tiff bomb": _tiff_bomb,
    "a strip": lambda r: _png(
        r.randint(10_001, 60_000), 1, _chunk(b"IDAT", zlib.compress(bytes(60_001)))
    ),
    "png name on a jpeg": lambda r: PNG_SIGNATURE + _picture(r, "JPEG"),
    "dicom": _dicom,
    "dicom without anything": lambda r: bytes(128) + b"DICM",
}
