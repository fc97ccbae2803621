"""Drift of pictures in files: asked about, and held against the model's reference as one window."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pulmo.core.bundle import Bundle
from pulmo.core.drift import LEAST, MOST
from pulmo.core.neighbours import directions, distances
from pulmo.core.preprocess import MAX_BYTES, InputSpec, Pixels, read
from pulmo.core.sample import Sample, of_outputs, of_reference
from pulmo.core.statistics import picture_statistics
from pulmo.errors import DataError
from pulmo.inference.engine import load
from pulmo.jobs.drift import Drift, groups, look_at
from pulmo.jobs.drift_page import Shown, write
from pulmo.jobs.predict import find
from pulmo.progress import track

SHOWN = 12  # pictures on the page
NEIGHBOURS = 5
GROUP = 16  # pictures held at once


def judge_files(bundle: Bundle, inputs: Iterable[str], out: Path, bound: float) -> Drift:
    """Hold the pictures that `inputs` name (as in `predict`) against a bundle's reference.

    Of more than 1,000 pictures 1,000, evenly spread, are looked at. Writes drift.json, plots and
    drift.html into `out`. Raises DataError where too few pictures can be read.
    """
    paths = list(find(inputs))
    if len(paths) > MOST:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, MOST).round().astype(int)]
    failed: dict[str, str] = {}
    known: list[str] = []
    parts = []
    for some, sample in _answered(bundle, paths, failed):
        known += some
        parts.append(sample)
    if len(known) < LEAST:
        because = f" ({len(failed)} of the inputs could not be read)" if failed else ""
        raise DataError(
            f"{len(known)} pictures{because} cannot tell drift from chance: at least {LEAST} are "
            "needed, 50 or more see smaller changes"
        )
    reference, window = of_reference(bundle), _joined(parts)
    look = look_at(reference, window, bound)
    info, source = bundle.info, f"{len(known):,} files"
    classes = info.specification.classes
    found = Drift(info.name, info.model_digest, classes, source, look, failed=failed)
    write(out, found, reference, window, _unlike(bundle, reference, window, known))
    return found


def _answered(
    bundle: Bundle, paths: Sequence[str], failed: dict[str, str]
) -> Iterator[tuple[list[str], Sample]]:
    """Groups of files that can be read, and what the model says of them."""
    engine, spec = load(bundle), bundle.info.specification.input
    for group in groups(track(paths, "looking", total=len(paths)), GROUP):
        pixels: dict[str, Pixels] = {}
        for path in group:
            try:
                pixels[path] = _pixels(path, spec)
            except DataError as error:
                failed[path] = str(error)
            except OSError as error:
                failed[path] = error.strerror or str(error)
        if pixels:
            stacked = np.stack(list(pixels.values()))
            yield list(pixels), of_outputs(bundle, engine(stacked), picture_statistics(stacked))


def _pixels(path: str, spec: InputSpec) -> Pixels:
    if Path(path).is_dir():
        raise DataError("the folder holds no pictures")
    with Path(path).open("rb") as stream:
        return read(stream.read(MAX_BYTES + 1), spec)


def _joined(parts: Sequence[Sample]) -> Sample:
    def joined(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values)

    names = ("probabilities", "score", "decided", "referred", "outlying", "embeddings")
    return Sample(
        **{name: joined(name) for name in names},
        statistics={
            name: np.concatenate([part.statistics[name] for part in parts])
            for name in parts[0].statistics
        },
    )


def _unlike(bundle: Bundle, reference: Sample, window: Sample, paths: Sequence[str]) -> list[Shown]:
    """The pictures that lie farthest from the reference, farthest first."""
    if window.embeddings is None or reference.embeddings is None:
        return []
    far = distances(window.embeddings, directions(reference.embeddings), NEIGHBOURS)
    spec = bundle.info.specification
    return [
        Shown(
            path=paths[i],
            distance=float(far[i]),
            answer=spec.classes[window.decided[i]],
            pixels=_pixels(paths[i], spec.input),
        )
        for i in np.argsort(-far, kind="stable")[:SHOWN]
    ]
