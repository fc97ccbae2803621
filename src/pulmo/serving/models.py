"""A model that is ready to answer, where it comes from, and how it is replaced while it serves."""

import io
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pulmo.core import wire
from pulmo.core.bundle import CARD, Bundle, sha256, verify
from pulmo.core.decision import Answer, Decider
from pulmo.core.overlay import blend, enlarged, layer
from pulmo.core.ports import ModelRef, Registry, Version
from pulmo.core.preprocess import Pixels, read
from pulmo.errors import BusyError, DataError, InvalidError
from pulmo.inference.choice import Kind, load_fastest
from pulmo.logs import get_logger

logger = get_logger(__name__)


@dataclass(frozen=True)
class Seen:
    """A picture as the graph takes it, uint8 [C, H, W], and the digest of what was sent.

    `shown` is the picture as a heat map is drawn on it, uint8 [C, h, w], where one is asked for.
    """

    pixels: Pixels
    digest: str
    shown: Pixels | None = None


@dataclass(frozen=True)
class Answered:
    """An answer and what it came from: pixels uint8 [C, H, W] and embedding float32 [D], if any."""

    answer: wire.Answer
    pixels: Pixels
    embedding: NDArray[np.float32] | None
    distance: float | None


class Model:
    """A verified bundle with its graph loaded and warmed; safe to ask from several threads.

    Making one raises ModelError for a bundle that cannot answer.
    """

    def __init__(
        self, bundle: Bundle, version: Version | None = None, engine: Kind = "auto"
    ) -> None:
        self.bundle = bundle
        self.version = version
        self.engine: Kind = engine
        self.name = wire.ModelName(
            name=bundle.info.name,
            version=None if version is None else f"v{version.number}",
            digest=bundle.info.model_digest,
        )
        self.card = (bundle.path / CARD).read_text(encoding="utf-8")
        self._specification = bundle.info.specification
        # Requests run side by side, one core each.
        self._engine = load_fastest(bundle, 1, engine)
        self._decider = Decider(self._specification, bundle.reference().get("embeddings"))
        spec = self._specification.input
        self._decider.answers(
            self._engine(np.zeros((1, spec.channels, spec.height, spec.width), np.uint8))
        )

    def answer(self, encoded: Sequence[bytes], *, explain: bool) -> tuple[wire.Answer, ...]:
        """One answer a picture, all or none; raises as `answered`."""
        return tuple(one.answer for one in self.answered(encoded, explain=explain))

    def answered(self, encoded: Sequence[bytes], *, explain: bool) -> tuple[Answered, ...]:
        """One answer a picture with what it came from, all or none.

        Raises DataError for a picture that cannot be read, InvalidError where an explanation is
        asked of a model that has none.
        """
        return self.judged(self.read(encoded, explain=explain))

    def read(self, encoded: Sequence[bytes], *, explain: bool) -> tuple[Seen, ...]:
        """Encoded pictures, ready to be judged; raises as `answered`."""
        if explain and "saliency" not in self._specification.outputs:
            raise InvalidError(f"{self.name} draws no heat maps: ask without explain")
        return tuple(self._read(one, i, len(encoded), explain) for i, one in enumerate(encoded))

    def judged(self, pictures: Sequence[Seen]) -> tuple[Answered, ...]:
        """One answer a picture with what it came from. Raises ModelError."""
        outputs = self._engine(np.stack([one.pixels for one in pictures]))
        told = []
        for row, answer in enumerate(self._decider.answers(outputs)):
            drawn, seen = {}, pictures[row]
            if seen.shown is not None and outputs.saliency is not None:
                index = int(outputs.probabilities[row].argmax())
                index = index if answer.class_index is None else answer.class_index
                drawn = _drawn(seen.shown, outputs.saliency[row, index])
            embedding = None if outputs.embedding is None else outputs.embedding[row]
            made = self._told(answer, seen.digest, drawn)
            told.append(Answered(made, seen.pixels, embedding, answer.distance))
        return tuple(told)

    def _read(self, encoded: bytes, index: int, count: int, explain: bool) -> Seen:
        """A picture, of which what was decoded is let go."""
        spec = self._specification.input
        try:
            pixels = read(encoded, spec)
        except DataError as error:
            if count == 1:
                raise
            raise DataError(f"picture {index + 1} of {count}: {error}") from error
        shown = read(encoded, enlarged(spec)) if explain else None
        return Seen(pixels, sha256(encoded), shown)

    def _told(self, answer: Answer, digest: str, drawn: dict[str, str]) -> wire.Answer:
        classes = self._specification.classes
        return wire.Answer(
            id=uuid.uuid4().hex,
            prediction=answer.label,
            class_index=answer.class_index,
            probability=answer.probability,
            probabilities=dict(zip(classes, answer.probabilities, strict=True)),
            decision=answer.decision,
            reasons=answer.reasons,
            model=self.name,
            input_sha256=digest,
            **drawn,
        )


def _drawn(shown: Pixels, saliency: NDArray[np.float32]) -> dict[str, str]:
    height, width = shown.shape[1:]
    return {
        "image_png": wire.pack(_png(blend(shown, saliency))),
        "heatmap_png": wire.pack(_png(layer(saliency, width, height))),
    }


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # a third of the usual time, a fifth more bytes
    return buffer.getvalue()


class Source(Protocol):
    """Where the model comes from; `moves` is whether it may become another one."""

    moves: bool

    def newest(self, present: Model | None) -> Model:
        """The model to serve now: `present` itself while nothing has changed.

        Raises RegistryError or ModelError where it cannot be had.
        """


class Pinned:
    """One bundle, for ever."""

    moves = False

    def __init__(
        self, bundle: Bundle, version: Version | None = None, engine: Kind = "auto"
    ) -> None:
        self._bundle, self._version = bundle, version
        self._engine: Kind = engine

    def newest(self, present: Model | None) -> Model:
        """The bundle's model, loaded once."""
        return present or Model(self._bundle, self._version, self._engine)


class Following:
    """Whatever version an alias points at."""

    moves = True

    def __init__(self, registry: Registry, ref: ModelRef, engine: Kind = "auto") -> None:
        self._registry, self._ref = registry, ref
        self._engine: Kind = engine

    def newest(self, present: Model | None) -> Model:
        """The present model until the alias points elsewhere."""
        version = self._registry.get(self._ref)
        known = None if present is None else present.version
        if present is not None and known is not None and _key(known) == _key(version):
            return present
        exact = ModelRef(version.name, version=version.number)  # the alias may move meanwhile
        return Model(verify(self._registry.fetch(exact)), version, self._engine)


class Awaited:
    """A source that may not be there yet: `find` is called again until it gives one."""

    moves = True

    def __init__(self, find: Callable[[], Source]) -> None:
        self._find = find
        self._found: Source | None = None

    def newest(self, present: Model | None) -> Model:
        """What the source has; raises what `find` raises while there is none."""
        if self._found is None:
            self._found = self._find()
        return self._found.newest(present)


def _key(version: Version) -> tuple[str, int, str]:
    return version.name, version.number, version.bundle_digest


class Present:
    """The model that answers now. Requests take it once, so that none ever sees two.

    With `waits` a server begins without a model and takes one over once it is there.
    """

    def __init__(self, source: Source, *, waits: bool = False) -> None:
        self.source = source
        self.waits = waits
        self.swaps = 0
        self._model: Model | None = None
        self._refreshing = threading.Lock()

    @property
    def model(self) -> Model:
        """The model to ask. Raises BusyError while there is none."""
        if self._model is None:
            raise BusyError("no model is loaded yet: ask again in a moment")
        return self._model

    @property
    def ready(self) -> bool:
        """Whether there is a model."""
        return self._model is not None

    def refresh(self) -> None:
        """Take over what the source has; the former model is freed after its last request."""
        with self._refreshing:
            newest = self.source.newest(self._model)
            if newest is not self._model:
                self.swaps += self._model is not None
                self._model = newest
                logger.info("serving %s", newest.name)
