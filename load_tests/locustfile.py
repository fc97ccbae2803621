"""Users of a server, one kind for each way to send a picture; ends with 3 beyond its limits."""

import base64
import functools
import itertools
import logging
import os
import tomllib
import uuid
from io import BytesIO
from pathlib import Path

import gevent
from locust import FastHttpUser, constant, events, task
from locust.env import Environment
from PIL import Image

from pulmo.core.preprocess import MAX_BYTES, is_picture
from pulmo.data.phantom import draw

DRAWN, SIDE = 12, 384  # pictures where no folder is given, and their pixels a side
AT_MOST = 500  # pictures of a folder that are held in memory
TOO_MUCH = 3  # the exit code of a check that said no

logger = logging.getLogger(__name__)


@functools.cache
def pictures() -> list[bytes]:
    """Encoded pictures: those below the folder PULMO_LOAD_PICTURES, or drawn chest phantoms."""
    folder = os.environ.get("PULMO_LOAD_PICTURES")
    if not folder:
        return [_drawn(patient) for patient in range(DRAWN)]
    paths = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    fitting = [p for p in paths if is_picture(p) and p.stat().st_size < MAX_BYTES]
    chosen = fitting[:: max(len(fitting) // AT_MOST, 1)][:AT_MOST]
    if not chosen:
        raise SystemExit(f"there are no pictures below {folder}")
    return [path.read_bytes() for path in chosen]


def _drawn(patient: int) -> bytes:
    pixels = draw(patient, 0, ill=patient % 2 == 1, size=SIDE, noise=0.02)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class _User(FastHttpUser):
    """Asks again as soon as it is answered."""

    abstract = True
    wait_time = constant(0)

    def on_start(self) -> None:
        """Know the pictures, and a key where the server asks for one."""
        self.pictures = itertools.cycle(pictures())
        key = os.environ.get("PULMO_LOAD_KEY")
        self.key = {"Authorization": f"Bearer {key}"} if key else {}

    def ask(self, body: bytes, content_type: str) -> None:
        """Send a body; anything but an answer with a prediction is a failure."""
        head = {**self.key, "Content-Type": content_type}
        name = f"/predict ({type(self).__name__.lower()})"
        with self.client.post(
            "/predict", data=body, headers=head, name=name, catch_response=True
        ) as answer:
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}")
            elif "prediction" not in (answer.json() or {}):
                answer.failure("an answer without a prediction")


class Raw(_User):
    """The picture is the body."""

    @task
    def predict(self) -> None:
        """Ask about one picture."""
        self.ask(next(self.pictures), "image/jpeg")


class Multipart(_User):
    """The picture is a form's field, as browsers send it."""

    @task
    def predict(self) -> None:
        """Ask about one picture."""
        boundary = uuid.uuid4().hex
        head = 'Content-Disposition: form-data; name="file"; filename="picture"'
        begin = f"--{boundary}\r\n{head}\r\nContent-Type: image/jpeg\r\n\r\n".encode()
        end = f"\r\n--{boundary}--\r\n".encode()
        picture = next(self.pictures)
        self.ask(begin + picture + end, f"multipart/form-data; boundary={boundary}")


class Base64(_User):
    """The picture is text in JSON."""

    @task
    def predict(self) -> None:
        """Ask about one picture."""
        text = base64.b64encode(next(self.pictures))
        self.ask(b'{"image": "' + text + b'"}', "application/json")


@events.init.add_listener
def prepare(environment: Environment, **_: object) -> None:
    """Make the pictures before time is measured."""
    pictures()
    gevent.sleep(0)  # its clock stood still meanwhile


@events.quitting.add_listener
def hold_to_limits(environment: Environment, **_: object) -> None:
    """Compare what was measured with the limits in the file PULMO_LOAD_LIMITS."""
    with Path(os.environ["PULMO_LOAD_LIMITS"]).open("rb") as stream:
        limits = tomllib.load(stream)["limits"]
    total = environment.stats.total
    p95 = total.get_response_time_percentile(0.95) or 0
    broken = [
        f"{name} is {value:g}, the limit {limits[name]:g}"
        for name, value in (("p95_ms", p95), ("error_share", total.fail_ratio))
        if value > limits[name]
    ]
    if total.num_requests == 0:
        broken.append("no request was answered")
    for line in broken:
        logger.error("beyond the limits: %s", line)
    environment.process_exit_code = TOO_MUCH if broken else 0
