"""Secrets that can be recognised anywhere: plain, in base64, in hex, as a URL has them, packed."""

import base64
import gzip
import io
import secrets
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

MARK = "canary"
_TAIL = 24  # hex digits: nothing else is equal by chance


def new(length: int = 0) -> str:
    """A secret of letters and digits that nobody had before, at least `length` characters long."""
    text = f"{MARK}{secrets.token_hex(_TAIL // 2)}"
    return text + "0" * max(0, length - len(text))


def forms(secret: str) -> Iterator[tuple[str, bytes]]:
    """How a secret can look; base64 wherever it stands in what was encoded."""
    raw = secret.encode()
    yield "plain", raw
    yield "hex", raw.hex().encode()
    yield "HEX", raw.hex().upper().encode()
    yield "URL", "".join(f"%{byte:02x}" for byte in raw).encode()
    yield "URL", "".join(f"%{byte:02X}" for byte in raw).encode()
    yield "escaped", "".join(f"\\u{byte:04x}" for byte in raw).encode()
    yield "UTF-16", secret.encode("utf-16-le")
    for offset in range(3):
        whole = base64.b64encode(b"\0" * offset + raw)
        first = -(-offset * 8 // 6)
        last = (offset + len(raw)) * 8 // 6
        yield f"base64+{offset}", whole[first:last]
        yield f"base64url+{offset}", whole[first:last].translate(bytes.maketrans(b"+/", b"-_"))


class Scanner:
    """Looks for many secrets at once; `looked` counts what was looked at."""

    def __init__(self, known: dict[str, str]) -> None:
        """`known` maps where a secret was put to the secret."""
        self._forms = [
            (where, form, text) for where, one in known.items() for form, text in forms(one)
        ]
        self._marks = [text for _, text in forms(MARK)]
        self.looked = {"files": 0, "bytes": 0, "texts": 0}

    def text(self, where: str, text: str | bytes) -> list[str]:
        """Which secrets are in a text: `secret (form) in where`, never the secret itself."""
        self.looked["texts"] += 1
        data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        return self._in(where, data)

    def folder(self, folder: Path) -> list[str]:
        """Which secrets are in the names and contents of all files, also of what is packed."""
        found: list[str] = []
        for path in sorted(folder.rglob("*")):
            place = str(path.relative_to(folder))
            found += self._in(f"the name of {place}", place.encode())
            if path.is_file():
                self.looked["files"] += 1
                for inner, data in unpacked(path.read_bytes()):
                    self.looked["bytes"] += len(data)
                    found += self._in(f"{place}{inner}", data)
        return found

    def _in(self, where: str, data: bytes) -> list[str]:
        if not any(mark in data for mark in self._marks):  # every secret begins with it
            return []
        return [f"{name} ({form}) in {where}" for name, form, text in self._forms if text in data]


def unpacked(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Bytes, and what is in them where they are an archive or compressed."""
    yield "", data
    if data[:2] == b"\x1f\x8b":
        yield from ((f"!gzip{inner}", one) for inner, one in unpacked(gzip.decompress(data)))
    elif data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield from ((f"!{name}{i}", one) for i, one in unpacked(archive.read(name)))
    elif data[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive.getmembers():
                if (file := archive.extractfile(member)) is not None:
                    yield from ((f"!{member.name}{i}", one) for i, one in unpacked(file.read()))
    elif data[:1] == b"x":
        try:
            yield "!zlib", zlib.decompress(data)
        except zlib.error:
            return
