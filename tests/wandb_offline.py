"""What W&B's SDK keeps of a run for `wandb sync`: the records of its `.wandb` file."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEAD, FILE_HEAD = 32768, 7, 7
WHOLE, FIRST, LAST = 1, 2, 4


def payloads(path: Path) -> Iterator[bytes]:
    """The records' bytes: LevelDB's log format behind a head of seven bytes."""
    data, place, held = path.read_bytes(), FILE_HEAD, b""
    while place + HEAD <= len(data):
        if BLOCK - place % BLOCK < HEAD:  # too little room for a head: padding
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        part = data[place + HEAD : place + HEAD + length]
        place += HEAD + length
        held = part if kind in (WHOLE, FIRST) else held + part
        if kind in (WHOLE, LAST):
            yield held


def records(folder: Path) -> list[Any]:
    """Every record of the one run that is kept below a run's folder."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # its core process writes the last of it when it ends
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    found = []
    for payload in payloads(path):
        found.append(Record())
        found[-1].ParseFromString(payload)
    return found


def history(folder: Path) -> list[dict[str, Any]]:
    """The rows that were logged."""
    rows = [record.history for record in records(folder) if record.HasField("history")]
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item}
        for row in rows
    ]


def config(folder: Path) -> dict[str, Any]:
    """The configuration, as it was in the end; nested names are joined with dots."""
    found: dict[str, Any] = {}
    for record in records(folder):
        for part in (record.run.config, record.config):
            for item in part.update:
                found[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return found


def exit_code(folder: Path) -> int | None:
    """How the run ended, None where that is not told."""
    codes = [record.exit.exit_code for record in records(folder) if record.HasField("exit")]
    return codes[-1] if codes else None
