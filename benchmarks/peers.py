"""The servers that Pulmo is measured against, each in the fewest lines that its users write.

`fastapi`, `litserve` and `torch` are what tutorials show; `fastapi-tuned` and `litserve-tuned` do
what the documentation of each recommends, with Pulmo's own engine and decoder. All these tell
probabilities alone; `fastapi-whole` is `fastapi-tuned` giving the answer of Pulmo's server, which
decides, looks for outliers and names picture and model; without receipts, keys, limits or figures.
"""

import asyncio
import io
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pulmo.config.settings import load as settings
from pulmo.core.bundle import GRAPH, WEIGHTS, Bundle, verify
from pulmo.core.preprocess import read
from pulmo.inference.choice import load_fastest
from pulmo.serving.models import Model

Classify = Callable[[bytes], dict[str, float]]


def session(bundle: Bundle) -> Any:
    """ONNX Runtime with one thread, like every other arm."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(bundle.path / GRAPH, options)


def pixels(encoded: bytes, bundle: Bundle) -> Any:
    """A picture as the graph takes it, by Pillow alone."""
    spec = bundle.info.specification.input
    image = Image.open(io.BytesIO(encoded)).convert("L" if spec.channels == 1 else "RGB")
    array = np.asarray(image.resize((spec.width, spec.height), Image.Resampling.BILINEAR))
    return array[None, None] if spec.channels == 1 else array.transpose(2, 0, 1)[None]


def named(probabilities: Any, bundle: Bundle) -> dict[str, float]:
    """Probabilities by class name."""
    classes = bundle.info.specification.classes
    return dict(zip(classes, map(float, probabilities), strict=True))


def by_session(bundle: Bundle) -> Classify:
    """Pillow and ONNX Runtime."""
    ready = session(bundle)
    return lambda data: named(ready.run(None, {"image": pixels(data, bundle)})[0][0], bundle)


def by_torch(bundle: Bundle) -> Classify:
    """Pillow and PyTorch."""
    import torch

    from pulmo.models.export import Deployed, from_weights

    torch.set_num_threads(1)
    spec = bundle.info.specification
    weights = (bundle.path / WEIGHTS).read_bytes()
    model = Deployed(from_weights(weights, spec), spec.temperature).eval()

    def classify(data: bytes) -> dict[str, float]:
        with torch.inference_mode():
            image = torch.from_numpy(pixels(data, bundle).copy())
            return named(model(image)[0][0], bundle)

    return classify


def by_pulmo(bundle: Bundle) -> Classify:
    """Pulmo's decoder and engine."""
    engine, spec = load_fastest(bundle, 1, settings().engine), bundle.info.specification.input
    return lambda data: named(engine(read(data, spec)[None]).probabilities[0], bundle)


def whole(bundle: Bundle) -> Callable[[bytes], bytes]:
    """Pulmo's whole answer, as JSON."""
    model = Model(bundle, engine=settings().engine)

    def tell(data: bytes) -> bytes:
        (answer,) = model.answer([data], explain=False)
        return answer.model_dump_json(exclude_unset=True).encode()

    return tell


def alone(classify: Classify) -> Callable[[bytes], bytes]:
    """Probabilities, as JSON."""
    import orjson

    return lambda data: orjson.dumps(classify(data))


def fastapi(classify: Classify, port: int) -> None:
    """A multipart upload, as in FastAPI's tutorial."""
    import uvicorn
    from fastapi import FastAPI, UploadFile

    app = FastAPI()

    @app.post("/predict")
    async def predict(file: UploadFile) -> dict[str, float]:
        return classify(await file.read())

    uvicorn.run(app, port=port, log_level="warning")


def fastapi_tuned(tell: Callable[[bytes], bytes], port: int) -> None:
    """A raw body, work in a thread, a Response that is not validated again, no access log."""
    import uvicorn
    from fastapi import FastAPI, Request, Response

    app, pool = FastAPI(), ThreadPoolExecutor(1)

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        body = await request.body()
        told = await asyncio.get_running_loop().run_in_executor(pool, tell, body)
        return Response(told, media_type="application/json")

    uvicorn.run(
        app, port=port, loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )


def main() -> None:
    """Arguments: the kind, the folder of a bundle, a port."""
    kind, folder, text = sys.argv[1:]
    bundle, port = verify(Path(folder)), int(text)
    if kind == "fastapi":
        fastapi(by_session(bundle), port)
    elif kind == "torch":
        fastapi(by_torch(bundle), port)
    elif kind == "fastapi-tuned":
        fastapi_tuned(alone(by_pulmo(bundle)), port)
    elif kind == "fastapi-whole":
        fastapi_tuned(whole(bundle), port)
    else:
        from benchmarks import litserve_peer

        litserve_peer.serve(Path(folder), port, tuned=kind == "litserve-tuned")


if __name__ == "__main__":
    main()
