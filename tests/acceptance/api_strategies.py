"""What schemathesis cannot draw by itself: pictures, names, tensors that agree with their shape."""

import base64
import io
import random
from typing import Any

import numpy as np
import schemathesis
from hypothesis import strategies as st
from PIL import Image

KINDS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MODES = ("L", "RGB", "RGBA", "1", "P")
SIDE = 16  # of the toy model


@st.composite
def pictures(draw: Any) -> bytes:
    mode, kind = draw(st.sampled_from(MODES)), draw(st.sampled_from(KINDS))
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    noise = np.random.default_rng(draw(st.integers(0, 2**16))).integers(
        0, 256, (*size, 3), np.uint8
    )
    image = Image.fromarray(noise).convert("RGB" if kind == "JPEG" else mode)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


encoded = pictures().map(lambda data: base64.b64encode(data).decode())

schemathesis.openapi.media_type("image/*", pictures())
schemathesis.openapi.media_type("application/dicom", pictures())  # read by what they are
schemathesis.openapi.format("byte", encoded)
schemathesis.openapi.format("binary", pictures())


@schemathesis.hook
def map_case(context: Any, case: Any) -> Any:
    """Names that are there, and tensors that agree with their shape, half of the time."""
    if case.meta is None or case.meta.generation.mode.name != "POSITIVE":
        return case
    drawn = random.Random(repr((case.path_parameters, case.query, str(case.body)[:99])))
    if case.path_parameters and drawn.random() < 0.5:
        known = {"name": "phantom-demo", "version": "v0"}
        case.path_parameters = {k: known.get(k, v) for k, v in case.path_parameters.items()}
    if case.path.endswith("/infer"):
        case.body = _tensor(drawn)
    if case.path.startswith("/registry") and isinstance(case.body, dict) and drawn.random() < 0.5:
        known = {"version": drawn.choice(("v0", "v1")), "to": None}
        case.body = {k: known.get(k, v) for k, v in case.body.items()}
    return case


def _tensor(drawn: random.Random) -> dict[str, Any]:
    shape = [drawn.randint(1, 3), 1, SIDE, SIDE]
    pixels = np.random.default_rng(drawn.randrange(2**16)).integers(0, 256, shape, np.uint8)
    given = {"name": "image", "datatype": "UINT8", "shape": shape, "data": pixels.tolist()}
    outputs = ["probabilities", "prediction", "decision", "receipt", "embedding"]
    asked = drawn.choice([None, [{"name": drawn.choice(outputs)}]])
    return {"inputs": [given]} | ({} if asked is None else {"outputs": asked})
