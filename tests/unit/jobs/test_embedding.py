"""What a frozen part makes of pictures is made once, and fits."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from pytorch_lightning.profilers import PassThroughProfiler
from torch import Tensor, nn

from pulmo.config.compose import compose
from pulmo.config.schema import Config
from pulmo.data.datamodule import Samples
from pulmo.errors import UntrainableError
from pulmo.jobs import hardware
from pulmo.jobs.embedding import Embedded, Known, changed, embedded, scaled, unpacked


class Counted(nn.Module):
    """Gives pictures back, `times` as bright, as maps or as rows; counts them."""

    def __init__(self, times: float = 1.0, flat: bool = False) -> None:
        super().__init__()
        self.times, self.flat, self.seen = times, flat, 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.times * (images.flatten(1) if self.flat else images)


@pytest.fixture
def part() -> Samples:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 1, 6, 8), dtype=np.uint8)
    rows = np.arange(3, 40, 2, dtype=np.int64)
    return Samples(pixels, rows, np.zeros(len(rows), dtype=np.int64))


def partial(*overrides: str) -> Config:
    return compose(["recipe=partial", "trainer.accelerator=cpu", *overrides])


def made(
    lower: nn.Module,
    part: Samples,
    config: Config,
    views: int,
    known: Known | None = None,
    data: str = "0" * 64,
) -> Embedded:
    kept = {} if known is None else known
    return embedded(lower, part, config, views, PassThroughProfiler(), kept, data)


def test_maps_of_all_views_lie_one_behind_the_other(part: Samples) -> None:
    config = partial()
    found = made(Counted(), part, config, 3)
    plain = scaled(torch.from_numpy(part.inputs[part.rows]))
    for view in range(3):
        expected = changed(plain, part.rows, config, view) if view else plain
        batch = found[view * 19 : (view + 1) * 19]
        assert np.array_equal(batch, expected.half().numpy())
    assert found.shape == (57, 1, 6, 8)
    assert found.dtype == np.float16


def test_embeddings_keep_all_their_bits(part: Samples) -> None:
    found = made(Counted(1e6, flat=True), part, compose(["trainer.accelerator=cpu"]), 1)
    assert (found.shape, found.dtype) == ((19, 48), np.float32)
    assert np.array_equal(found, 1e6 * (part.inputs[part.rows].reshape(19, 48) / np.float32(255)))


def test_maps_are_unpacked_to_what_convolutions_take() -> None:
    maps = torch.rand(2, 3, 4, 5).half()
    found = unpacked(maps)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, maps.float())
    rows = torch.rand(2, 3)
    assert unpacked(rows) is rows


def test_what_is_known_is_not_made_again(part: Samples) -> None:
    lower, known = Counted(), Known()
    once = made(lower, part, partial(), 2, known)
    assert made(lower, part, partial("recipe.learning_rate=0.1"), 2, known) is once
    assert lower.seen == 38
    for config, views in [
        (partial("recipe.thaw=1"), 2),
        (partial("seed=1"), 2),
        (partial("recipe.augment.zoom=0"), 2),
        (partial(), 1),
    ]:
        before = lower.seen
        made(lower, part, config, views, known)
        assert lower.seen == before + 19 * views
    made(lower, part, partial("recipe.augment.zoom=0"), 1, known)  # the plain picture has none
    assert lower.seen == 38 + 3 * 38 + 19
    made(lower, part, partial(), 1, known, "1" * 64)  # of other pictures
    assert lower.seen == 38 + 3 * 38 + 38


@pytest.mark.parametrize("times", [7e4, float("inf"), float("nan")])
def test_maps_that_16_bits_do_not_hold_are_refused(part: Samples, times: float) -> None:
    part.inputs[part.rows[0]] = 255
    with pytest.raises(UntrainableError, match="16 bits hold: take recipe=finetune"):
        made(Counted(times), part, partial(), 1)


def test_more_than_memory_holds_is_refused_before_it_is_made(
    part: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = 4 * 19 * 6 * 8 * 2
    lower, known = Counted(), Known(earlier=np.zeros((1, 1), dtype=np.float32))
    monkeypatch.setattr(hardware, "free_memory", lambda: need)
    with pytest.raises(UntrainableError, match=r"76 views of pictures .* lower recipe\.views"):
        made(lower, part, partial(), 4, known)
    assert lower.seen == 16
    assert not known


def test_what_was_known_makes_way_where_memory_is_short(
    part: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known(earlier=np.zeros((1, 1), dtype=np.float32))
    monkeypatch.setattr(hardware, "free_memory", lambda: 0 if "earlier" in known else 10**6)
    found = made(Counted(), part, partial(), 4, known)
    assert [id(value) for value in known.values()] == [id(found)]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is kept, and told, on Linux")
def test_what_made_way_is_free_at_once() -> None:
    code = """
import resource
from pathlib import Path
import torch
from pulmo.jobs import embedding, hardware

def held():
    return resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[1])

def free():
    return 0 if known else 2**40

hardware.keep_memory()
hardware.free_memory = free
known = {}
one = torch.zeros(2**15).half()
before = held()
known["maps"] = embedding._room(one, 2**10, known)
known["maps"].fill(1)
training = [known["maps"]]
training.append(training)  # as Lightning's parts know each other
del training
full = held() - before
embedding._room(one, 2**10, known)
print(full, held() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    full, left = map(int, done.stdout.split())
    assert full >= 2**26
    assert left < 2**25
