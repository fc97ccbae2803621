"""The bundle: the one folder that passes from training to everything else.

    model.onnx           the graph, one file: uint8 [N, C, H, W] → probabilities, logits, …
    weights.safetensors  the weights it was exported from
    reference.npz        validation embeddings, probabilities and picture statistics
    members.npz          pixel SHA-256 and split of every train and validation picture
    bundle.json          `BundleInfo`
    README.md            the model card
    SHA256SUMS           digest of every other file; its own SHA-256 is the bundle digest
    model.sig            who vouches for these digests; may be missing, and added later

The model digest covers weights, graph and specification, never metrics, time, host or path.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pulmo.core.arrays import MAX_FILE_BYTES, Arrays, pack_arrays, read_arrays
from pulmo.core.preprocess import InputSpec
from pulmo.errors import ModelError

GRAPH = "model.onnx"
WEIGHTS = "weights.safetensors"
REFERENCE = "reference.npz"
MEMBERS = "members.npz"
INFO = "bundle.json"
CARD = "README.md"
SUMS = "SHA256SUMS"
SIGNATURE = "model.sig"
FILES = (CARD, INFO, MEMBERS, GRAPH, REFERENCE, WEIGHTS)  # the order of their lines in SHA256SUMS

MAX_SUMS_BYTES = 4096
MAX_SIGNATURE_BYTES = 2**16
MAX_INFO_BYTES = 2**25
_SUMS = re.compile("".join(rf"([0-9a-f]{{64}})  {re.escape(name)}\n" for name in FILES).encode())


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NetworkSpec(_Frozen):
    """How to build the network that `weights.safetensors` fits: a catalog name and its options."""

    architecture: str
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)


class DecisionSpec(_Frozen):
    """How probabilities become an answer.

    `threshold`: the score is the probability of `positive`, which is the answer from `threshold`
    up. `argmax`: the score is the largest probability. A score in [refer_low, refer_high) is
    referred to a human.
    """

    rule: Literal["threshold", "argmax"]
    positive: str | None = None
    threshold: float | None = Field(default=None, ge=0, le=1)
    refer_low: float = Field(ge=0, le=1)
    refer_high: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _whole(self) -> "DecisionSpec":
        if self.rule == "threshold" and (self.positive is None or self.threshold is None):
            raise ValueError("the rule 'threshold' needs 'positive' and 'threshold'")
        if self.refer_low > self.refer_high:
            raise ValueError("refer_low lies above refer_high")
        return self


class OutlierSpec(_Frozen):
    """Out of distribution: the cosine distance to the k-th nearest reference embedding is large.

    Sun et al. 2022, "Out-of-distribution detection with deep nearest neighbors". `reference` is
    the SHA-256 of the embeddings (float16 bytes) in `reference.npz`.
    """

    neighbours: int = Field(ge=1)
    limit: float = Field(ge=0)
    reference: str


class Specification(_Frozen):
    """Everything beside the bytes of graph and weights that decides an answer."""

    classes: tuple[str, ...] = Field(min_length=2)
    input: InputSpec
    network: NetworkSpec
    outputs: tuple[Literal["probabilities", "logits", "embedding", "saliency"], ...]
    temperature: float = Field(gt=0)
    decision: DecisionSpec
    outliers: OutlierSpec | None = None
    precision: Literal["int8"] | None = None  # the graph's later layers are in whole numbers

    @model_validator(mode="after")
    def _consistent(self) -> "Specification":
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("class names repeat")
        if not all(name.isprintable() for name in self.classes):
            raise ValueError("a class name holds what cannot be printed")
        positive = self.decision.positive
        if positive is not None and (positive not in self.classes or len(self.classes) != 2):
            raise ValueError("the positive class must be one of exactly two classes")
        if self.outputs[:2] != ("probabilities", "logits"):
            raise ValueError("a graph returns at least probabilities and logits, in this order")
        if self.outliers is not None and "embedding" not in self.outputs:
            raise ValueError("outlier limits need the output 'embedding'")
        return self


class Estimate(_Frozen):
    """A metric with its bootstrap interval; None where it is undefined (a class is missing)."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Lineage(_Frozen):
    """Where a model comes from."""

    data_name: str
    data_digest: str
    commit: str | None = None
    clean: bool | None = None
    configuration: dict[str, Any]
    seed: int
    lock_digest: str | None = None
    machine: str
    created_at: str
    notes: tuple[str, ...] = ()


class BundleInfo(_Frozen):
    """The content of `bundle.json`.

    `metrics` maps a split to its metrics; `curves` a name (`roc` …) to named lists of points.
    """

    format: Literal[1] = 1
    name: str
    model_digest: str
    specification: Specification
    metrics: dict[str, dict[str, Estimate]]
    curves: dict[str, dict[str, list[float]]]
    score_metric: str
    lineage: Lineage

    @property
    def score(self) -> float:
        """The validation metric that versions are ranked by; -inf where it is undefined."""
        estimate = self.metrics.get("val", {}).get(self.score_metric)
        return -np.inf if estimate is None or estimate.value is None else estimate.value


class Bundle(BaseModel):
    """A bundle folder whose files all match SHA256SUMS."""

    model_config = ConfigDict(frozen=True)

    path: Path
    digest: str
    info: BundleInfo

    @property
    def graph(self) -> bytes:
        """The bytes of the ONNX graph."""
        return (self.path / GRAPH).read_bytes()

    @property
    def signature(self) -> bytes | None:
        """The bytes of `model.sig`, which prove nothing before they are checked; None without."""
        return path.read_bytes() if (path := self.path / SIGNATURE).is_file() else None

    def reference(self) -> dict[str, NDArray[Any]]:
        """What drift and outliers are judged against, of n validation pictures.

        `embeddings` float16 [n, D] (where the graph has them), `probabilities` float32 [n, K],
        `labels` int64 [n], float32 [n] picture statistics named `stat_…`, and what older bundles
        lack: `digests` uint8 [n, 32] (pixel SHA-256), `patients` int64 [n] (equal: the same one).
        """
        return read_arrays(self.path / REFERENCE)

    def members(self) -> dict[str, NDArray[Any]]:
        """`digests` uint8 [n, 32] (pixel SHA-256) and `splits` uint8 [n] (0 train, 1 val)."""
        return read_arrays(self.path / MEMBERS)


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def model_digest(graph: bytes, weights: bytes, specification: Specification) -> str:
    """SHA-256 over the digests of graph and weights and the canonical JSON of the specification.

    What is not said (None) is left out: optional fields that are added leave older digests alone.
    """
    return _combined(sha256(graph), sha256(weights), specification)


def _combined(graph: str, weights: str, specification: Specification) -> str:
    said = specification.model_dump(mode="json", exclude_none=True)
    text = json.dumps(said, sort_keys=True, ensure_ascii=True)
    return sha256(f"{graph}\n{weights}\n{text}\n".encode())


def write(
    folder: Path,
    *,
    graph: bytes,
    weights: bytes,
    reference: Arrays,
    members: Arrays,
    info: BundleInfo,
    card: str,
) -> Bundle:
    """Write a bundle into `folder` (made, must be empty) and return it verified."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ModelError(f"{folder} is not empty: a bundle is written once, choose another folder")
    contents = {
        GRAPH: graph,
        WEIGHTS: weights,
        REFERENCE: pack_arrays(reference),
        MEMBERS: pack_arrays(members),
        INFO: (info.model_dump_json(indent=2) + "\n").encode(),
        CARD: card.encode(),
    }
    contents[SUMS] = "".join(f"{sha256(contents[name])}  {name}\n" for name in FILES).encode()
    for name, data in contents.items():
        with (folder / name).open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    return verify(folder)


def verify(folder: Path) -> Bundle:
    """Check every file of a bundle against its digest before anything is parsed.

    Raises ModelError for a missing, foreign, changed or unsafe file.
    """
    sums, present = _read_sums(folder), {path.name for path in folder.iterdir()}
    if strangers := present - {*FILES, SUMS, SIGNATURE}:
        raise ModelError(f"{folder} holds files that no bundle has: {sorted(strangers)}")
    if SIGNATURE in present:
        _require_plain(folder / SIGNATURE, MAX_SIGNATURE_BYTES)
    for name in FILES:
        path = folder / name
        _require_plain(path, MAX_INFO_BYTES if name in (INFO, CARD) else MAX_FILE_BYTES)
        if file_digest(path) != sums[name]:
            raise ModelError(f"{path} does not match its digest in {SUMS}: fetch the bundle again")
    info = _read_info(folder / INFO)
    if _combined(sums[GRAPH], sums[WEIGHTS], info.specification) != info.model_digest:
        raise ModelError(f"{folder}: {INFO} names another model than its files are")
    return Bundle(path=folder, digest=file_digest(folder / SUMS), info=info)


def _require_plain(path: Path, limit: int) -> None:
    if path.is_symlink() or not path.is_file():
        raise ModelError(
            f"{path.parent} is no whole bundle: {path.name} is missing or no plain file"
        )
    if path.stat().st_size > limit:
        raise ModelError(f"{path} is larger than any bundle's file may be")


def _read_sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_SUMS_BYTES:
        raise ModelError(f"{folder} is no bundle: it has no {SUMS}")
    found = _SUMS.fullmatch(path.read_bytes())
    if found is None:
        raise ModelError(f"{path} must name exactly {', '.join(FILES)}, one digest a line")
    return {name: digest.decode() for name, digest in zip(FILES, found.groups(), strict=True)}


def _read_info(path: Path) -> BundleInfo:
    try:
        return BundleInfo.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or INFO
        raise ModelError(f"{path} is not understood at {where}: {first['msg']}") from error
