"""A network cut in two is the same network."""

import copy

import pytest
import torch
from torch import Tensor

from pulmo.core.bundle import NetworkSpec
from pulmo.errors import ModelError, UntrainableError
from pulmo.models.catalog import Network, build
from pulmo.models.stages import Embedder, split

# architecture, its options, its stages, and the shape of the map below the last two
CUT = [
    ("small_cnn", {"width": 4}, 4, (8, 24, 24)),
    ("efficientnet_lite0", {}, 8, (112, 6, 6)),
    ("resnet18", {}, 5, (128, 12, 12)),
    ("mobilenetv3_small_050", {}, 7, (24, 6, 6)),
]
NAMES = [name for name, *_ in CUT]


def network(name: str, options: dict[str, int], channels: int = 1) -> Network:
    torch.manual_seed(0)
    spec = NetworkSpec(architecture=name, options=options)
    return build(spec, channels=channels, classes=2, weights=None).eval()


def pictures(channels: int = 1) -> Tensor:
    return torch.rand(2, channels, 96, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "options", "stages", "shape"), CUT, ids=NAMES)
def test_both_parts_one_after_the_other_are_the_network(
    name: str, options: dict[str, int], stages: int, shape: tuple[int, ...], channels: int
) -> None:
    whole, images = network(name, options, channels), pictures(channels)
    for thaw in (1, 2, stages - 1):
        lower, upper = split(whole, thaw)
        below = lower(images)
        assert torch.equal(upper(below), whole(images))
        assert thaw != 2 or below.shape[1:] == shape


def test_a_standardising_network_standardises_below() -> None:
    whole = network("small_cnn", {"width": 4, "standardise": 1})
    lower, upper = split(whole, 2)
    assert torch.equal(upper(lower(pictures())), whole(pictures()))


@pytest.mark.parametrize(("name", "options"), [cut[:2] for cut in CUT], ids=NAMES)
def test_only_what_is_thawed_gets_gradients(name: str, options: dict[str, int]) -> None:
    whole = network(name, options).requires_grad_(False)
    before = copy.deepcopy(whole.state_dict())
    lower, upper = split(whole, 2)
    optimizer = torch.optim.SGD(upper.requires_grad_(True).parameters(), lr=0.1)
    upper(lower(pictures())).square().sum().backward()
    optimizer.step()
    learned = {n for n, p in whole.named_parameters() if p.grad is not None}
    assert learned == {n for n, p in whole.named_parameters() if p.requires_grad}
    assert 0 < len(learned) < len(list(whole.parameters()))
    moved = {n for n, value in whole.state_dict().items() if not torch.equal(value, before[n])}
    assert {"head.weight", "head.bias"} <= moved <= learned


@pytest.mark.parametrize("thaw", [0, 4])
def test_a_cut_below_or_above_all_stages_is_refused(thaw: int) -> None:
    told = r"has 4 stages .* set 1 to 3, or take recipe=finetune"
    with pytest.raises(UntrainableError, match=told):
        split(network("small_cnn", {"width": 4}), thaw)


def test_other_networks_are_sent_to_other_recipes() -> None:
    with pytest.raises(ModelError, match=r"stages of ResNetV2: take recipe=probe or recipe=finet"):
        split(network("resnetv2_18", {}), 1)


def test_an_embedder_is_the_network_without_its_head() -> None:
    whole = network("small_cnn", {"width": 4})
    assert torch.equal(Embedder(whole)(pictures()), whole.embed(pictures()))
