"""It behaves: small changes leave answers alone, nonsense gets none, wrong input is refused."""

import io
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from pulmo.core.decision import Decider, labels_of
from pulmo.core.ports import Check
from pulmo.core.preprocess import Pixels
from pulmo.errors import ModelError
from pulmo.jobs.staged import Case

PICTURES = 200
NONSENSE = 16


def test_small_changes_do_not_change_answers(case: Case, show: Callable[..., None]) -> None:
    specification = case.candidate.bundle.info.specification
    step = max(1, len(case.candidate.pixels) // PICTURES)
    pixels = np.ascontiguousarray(case.candidate.pixels[::step])
    expected = labels_of(case.candidate.outputs.probabilities[::step], specification)
    for name, changed in _small_changes(pixels, mirror=case.terms.mirror):
        answered = labels_of(case.candidate.engine.infer(changed).probabilities, specification)
        share = float((answered == expected).mean())
        detail = (
            f"{name}: {share:.1%} of {len(pixels)} answers stay, {case.limits.stability:.0%} must"
        )
        show(Check(name, share >= case.limits.stability, detail))


def _small_changes(pixels: Pixels, *, mirror: bool) -> Iterator[tuple[str, Pixels]]:
    for factor in (0.95, 1.05):
        scaled = np.rint(np.clip(pixels.astype(np.float32) * factor, 0, 255))
        yield f"brightness × {factor}", scaled.astype(np.uint8)
    shift = max(1, pixels.shape[-1] // 80)
    padded = np.pad(pixels, ((0, 0), (0, 0), (0, 0), (shift, 0)), mode="edge")
    yield f"shift by {shift} px", np.ascontiguousarray(padded[..., :-shift])
    yield "JPEG quality 90", np.stack([_recompressed(picture) for picture in pixels])
    if mirror:
        yield "mirror", np.ascontiguousarray(pixels[..., ::-1])


def _recompressed(picture: Pixels) -> Pixels:
    grey = picture.shape[0] == 1
    image = Image.fromarray(picture[0] if grey else picture.transpose(1, 2, 0))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, subsampling=0)
    again = np.asarray(Image.open(buffer))
    return again[None] if grey else again.transpose(2, 0, 1)


def test_nonsense_gets_no_label(case: Case, show: Callable[..., None]) -> None:
    bundle = case.candidate.bundle
    shape = (NONSENSE, *case.candidate.pixels.shape[1:])
    drawn = {
        "noise": np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8),
        "black": np.zeros(shape, dtype=np.uint8),
        "white": np.full(shape, 255, dtype=np.uint8),
    }
    decider = Decider(bundle.info.specification, bundle.reference().get("embeddings"))
    refused = {
        kind: sum(a.label is None for a in decider.answers(case.candidate.engine(pixels)))
        for kind, pixels in drawn.items()
    }
    told = ", ".join(f"{count} of {NONSENSE} {kind}" for kind, count in refused.items())
    share = sum(refused.values()) / (NONSENSE * len(drawn))
    detail = f"without a label: {told}; {case.limits.nonsense:.0%} of all must be"
    show(Check("nonsense", share >= case.limits.nonsense, detail))


def test_wrong_input_is_refused(case: Case) -> None:
    good = case.candidate.pixels[:1]
    for wrong in (good.astype(np.float32), good[..., :-1], good[0], good[:0]):
        with pytest.raises(ModelError):
            case.candidate.engine(wrong)


def test_the_drift_reference_is_whole(case: Case, show: Callable[..., None]) -> None:
    bundle = case.candidate.bundle
    reference = bundle.reference()
    lengths = {name: len(values) for name, values in reference.items()}
    needed = {"embeddings", "labels", "probabilities", "stat_brightness", "stat_contrast"}
    assert needed <= reference.keys()
    assert len(set(lengths.values())) == 1
    assert all(np.isfinite(values).all() for values in reference.values())
    Decider(bundle.info.specification, reference["embeddings"])  # raises where it is another's
    show(Check("reference", True, f"{lengths['labels']} validation pictures"))
