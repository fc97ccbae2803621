"""Pictures from files, folders, patterns or standard input to one answer each."""

import glob
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pulmo.core.bundle import Bundle
from pulmo.core.decision import Answer, Decider, Outputs
from pulmo.core.overlay import blend, enlarged
from pulmo.core.preprocess import MAX_BYTES, InputSpec, Pixels, is_picture, read
from pulmo.errors import DataError
from pulmo.inference.engine import load
from pulmo.progress import track

STDIN = "-"


@dataclass(frozen=True)
class Prediction:
    """What one model says of one picture, or why it says nothing.

    `label` is None where the picture is out of distribution or could not be read; `probability`
    is then that of the class the model leans to, or None.
    """

    path: str
    model: str
    model_digest: str
    label: str | None = None
    probability: float | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    decision: str | None = None
    reasons: Sequence[str] = ()
    overlay: Path | None = None
    error: str | None = None


@dataclass(frozen=True)
class _Read:
    """A picture as the graph takes it, as it is shown under a heat map, or why it is neither."""

    path: str
    pixels: Pixels | None = None
    shown: Pixels | None = None
    error: str | None = None


def predict(
    bundle: Bundle, inputs: Iterable[str], *, overlay: Path | None = None
) -> Iterator[Prediction]:
    """One prediction a picture, in the order of `inputs`; a picture that cannot be read says so.

    An input is a file, a folder (all pictures below it), a pattern (`**` reaches every depth) or
    `-` for a picture's bytes on standard input. Heat maps go to the folder `overlay` as PNG.
    Memory does not grow with the number of pictures. Raises ModelError where the bundle's graph
    fails or draws no heat maps.
    """
    specification = bundle.info.specification
    if overlay is not None:
        if "saliency" not in specification.outputs:
            raise DataError(f"{bundle.info.name} draws no heat maps: leave --overlay out")
        overlay.mkdir(parents=True, exist_ok=True)
    engine = load(bundle)
    decider = Decider(specification, bundle.reference().get("embeddings"))
    scale = overlay is not None
    pictures = (_read(path, specification.input, enlarge=scale) for path in find(inputs))
    for one in track(pictures, "predicting"):
        if one.pixels is None:
            yield Prediction(one.path, *_model(bundle), error=one.error)
        else:
            outputs = engine(one.pixels[None])
            (answer,) = decider.answers(outputs)
            yield _prediction(bundle, one.path, answer, _draw(one, outputs, answer, overlay))


def find(inputs: Iterable[str]) -> Iterator[str]:
    """The files that `inputs` name, one by one; what names nothing is passed on as it is."""
    for text in inputs:
        path = Path(text)
        if text == STDIN or path.is_file():
            yield text
        elif path.is_dir():
            yield from _or_itself(_below(path), text)
        else:
            found = glob.iglob(text, recursive=True)  # noqa: PTH207 - a pattern may be absolute
            yield from _or_itself(filter(os.path.isfile, found), text)


def _or_itself(paths: Iterator[str], text: str) -> Iterator[str]:
    first = next(paths, text)
    yield first
    yield from paths


def _below(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if is_picture(Path(parent, name)):
                yield str(Path(parent) / name)


def _read(path: str, spec: InputSpec, *, enlarge: bool) -> _Read:
    try:
        encoded = _bytes(path)
        shown = read(encoded, enlarged(spec)) if enlarge else None
        return _Read(path, read(encoded, spec), shown)
    except DataError as error:
        return _Read(path, error=str(error))
    except OSError as error:
        return _Read(path, error=error.strerror or str(error))


def _bytes(path: str) -> bytes:
    if path == STDIN:
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    if Path(path).is_dir():
        raise DataError("the folder holds no pictures")
    with Path(path).open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def _prediction(bundle: Bundle, path: str, answer: Answer, overlay: Path | None) -> Prediction:
    classes = bundle.info.specification.classes
    return Prediction(
        path,
        *_model(bundle),
        label=answer.label,
        probability=answer.probability,
        probabilities=dict(zip(classes, answer.probabilities, strict=True)),
        decision=answer.decision,
        reasons=answer.reasons,
        overlay=overlay,
    )


def _draw(one: _Read, outputs: Outputs, answer: Answer, folder: Path | None) -> Path | None:
    if folder is None or one.shown is None or outputs.saliency is None:
        return None
    leaning = int(outputs.probabilities[0].argmax())
    index = leaning if answer.class_index is None else answer.class_index
    name = "stdin" if one.path == STDIN else Path(one.path).stem
    place = os.fsencode(Path(one.path).absolute())  # files of one name lie in several folders
    target = folder / f"{name}-{hashlib.sha256(place).hexdigest()[:8]}.png"
    blend(one.shown, outputs.saliency[0, index]).save(target)
    return target


def _model(bundle: Bundle) -> tuple[str, str]:
    return bundle.info.name, bundle.info.model_digest
