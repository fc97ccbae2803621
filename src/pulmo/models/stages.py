"""A network cut in two: lower stages that stay as they are, and upper ones that are trained."""

from torch import Tensor, nn

from pulmo.errors import ModelError, UntrainableError
from pulmo.models.catalog import Network, TimmBody


class Embedder(nn.Module):
    """A network without its head: float32 [N, C, H, W] in [0, 1] → embeddings [N, D]."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """float32 [N, C, H, W] in [0, 1] → [N, D]."""
        return self.network.embed(images)


class _Lower(nn.Module):
    def __init__(self, network: Network, stages: list[nn.Module]) -> None:
        super().__init__()
        self.network, self.stages = network, nn.Sequential(*stages)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.stages(self.network.normalised(images))
        return features


class _Upper(nn.Module):
    def __init__(self, stages: list[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.stages, self.head = nn.Sequential(*stages), head

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stages(features).mean(dim=(2, 3)))
        return logits


def split(network: Network, thaw: int) -> tuple[nn.Module, nn.Module]:
    """What lies below the last `thaw` stages, and those stages with the head.

    The lower part maps float32 [N, C, H, W] in [0, 1] to a feature map [N, d, h, w], the upper one
    that to logits [N, K]; both share the parameters of `network`. What stands between the last
    blocks and the pooling belongs to the last stage. Raises ModelError for a network whose stages
    are not known, UntrainableError where none would stay.
    """
    stages = _stages(network)
    if not 0 < thaw < len(stages):
        raise UntrainableError(
            f"recipe.thaw={thaw}, but the network has {len(stages)} stages and one must stay "
            f"frozen: set 1 to {len(stages) - 1}, or take recipe=finetune, which trains all"
        )
    return _Lower(network, stages[:-thaw]), _Upper(stages[-thaw:], network.head)


def _stages(network: Network) -> list[nn.Module]:
    """The parts of a body, which make its feature map one after the other."""
    from timm.models import EfficientNet, MobileNetV3, ResNet

    body = network.body
    if isinstance(body, nn.Sequential):
        return _from_each_convolution(body)
    assert isinstance(body, TimmBody)
    inner = body.network
    if isinstance(inner, EfficientNet):
        *blocks, last = inner.blocks
        stem = nn.Sequential(body.colour, inner.conv_stem, inner.bn1)
        return [stem, *blocks, nn.Sequential(last, inner.conv_head, inner.bn2)]
    if isinstance(inner, MobileNetV3):
        return [nn.Sequential(body.colour, inner.conv_stem, inner.bn1), *inner.blocks]
    if isinstance(inner, ResNet):
        stem = nn.Sequential(body.colour, inner.conv1, inner.bn1, inner.act1, inner.maxpool)
        return [stem, *(inner.get_submodule(f"layer{i}") for i in range(1, 5))]
    raise ModelError(
        f"recipe=partial does not know the stages of {type(inner).__name__}: take recipe=probe or "
        "recipe=finetune, or an EfficientNet, MobileNet, ResNet or small_cnn"
    )


def _from_each_convolution(body: nn.Sequential) -> list[nn.Module]:
    starts = [i for i, layer in enumerate(body) if isinstance(layer, nn.Conv2d)]
    ends = [*starts[1:], len(body)]
    return [body[start:end] for start, end in zip(starts, ends, strict=True)]
