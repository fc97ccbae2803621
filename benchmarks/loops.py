"""Work without a server, in a loop of its own process: told by JSON lines how long to do it."""

import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pulmo.config.settings import load
from pulmo.core.bundle import Bundle, verify
from pulmo.core.preprocess import decode_for, read, to_pixels
from pulmo.inference.choice import Kind, load_fastest
from pulmo.serving.models import Model

Work = Callable[[bytes], Any]


def answering(bundle: Bundle) -> Work:
    """Bytes to answers, as the server does it, without a server."""
    model = Model(bundle, engine=load().engine)
    return lambda encoded: model.answer([encoded], explain=False)[0].probabilities


def explaining(bundle: Bundle) -> Work:
    """The same with heat maps drawn."""
    model = Model(bundle, engine=load().engine)
    return lambda encoded: model.answer([encoded], explain=True)[0].probabilities


def engine_of(kind: Kind) -> Callable[[Bundle], Work]:
    """Only the graph, by one engine, on decoded pixels."""

    def make(bundle: Bundle) -> Work:
        engine = load_fastest(bundle, 1, kind)
        spec, known = bundle.info.specification, {}

        def work(encoded: bytes) -> Any:
            if id(encoded) not in known:
                known[id(encoded)] = read(encoded, spec.input)[None]
            told = engine(known[id(encoded)]).probabilities[0]
            return dict(zip(spec.classes, map(float, told), strict=True))

        return work

    return make


def pillow(bundle: Bundle) -> Work:
    """Every pixel decoded by Pillow and resized, as people write it."""
    spec = bundle.info.specification.input
    mode = "L" if spec.channels == 1 else "RGB"

    def work(encoded: bytes) -> Any:
        image = Image.open(io.BytesIO(encoded)).convert(mode)
        return np.asarray(image.resize((spec.width, spec.height), Image.Resampling.BILINEAR))

    return work


def reading(bundle: Bundle) -> Work:
    """Decoded and resized by the rule of the bundle."""
    spec = bundle.info.specification.input
    return lambda encoded: to_pixels(decode_for(encoded, spec), spec)


WORKS: dict[str, Callable[[Bundle], Work]] = {
    "answer": answering,
    "explain": explaining,
    "pillow": pillow,
    "read": reading,
    "onnxruntime": engine_of("onnxruntime"),
    "openvino": engine_of("openvino"),
}


def main() -> None:
    """Arguments: what to do, the folder of a bundle, pictures."""
    name, folder, *paths = sys.argv[1:]
    work = WORKS[name](verify(Path(folder)))
    pictures = [Path(path).read_bytes() for path in paths]
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "answers":
            print(json.dumps([work(encoded) for encoded in pictures]), flush=True)
            continue
        done, cpu, begun = 0, time.process_time(), time.perf_counter()
        while time.perf_counter() < begun + order["seconds"]:
            work(pictures[done % len(pictures)])
            done += 1
        told = {"done": done, "wall_s": time.perf_counter() - begun}
        print(json.dumps({**told, "cpu_s": time.process_time() - cpu}), flush=True)


if __name__ == "__main__":
    main()
