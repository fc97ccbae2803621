"""Names to networks."""

import pytest
import torch

from pulmo.core.bundle import NetworkSpec
from pulmo.errors import ModelError
from pulmo.models.catalog import PACKAGED, build


def network(name: str, **options: int) -> NetworkSpec:
    return NetworkSpec(architecture=name, options=options)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_small_cnn_scores_every_class(channels: int) -> None:
    built = build(network("small_cnn", width=4), channels=channels, classes=5, weights=None)
    assert built(torch.rand(2, channels, 32, 32)).shape == (2, 5)
    assert built.feature_map(torch.rand(2, channels, 32, 32)).shape == (2, 32, 4, 4)


def test_scores_are_the_pooled_class_activation_map() -> None:
    built = build(network("small_cnn", width=4), channels=1, classes=3, weights=None).eval()
    images = torch.rand(2, 1, 32, 32)
    maps = torch.einsum("kd,ndhw->nkhw", built.head.weight, built.feature_map(images))
    expected = maps.mean(dim=(2, 3)) + built.head.bias
    torch.testing.assert_close(built(images), expected)


def test_packaged_weights_know_imagenet() -> None:
    plain = build(network("efficientnet_lite0"), channels=3, classes=2, weights=None)
    filled = build(network("efficientnet_lite0"), channels=3, classes=2, weights="packaged")
    stem, filled_stem = (n.body.network.conv_stem.weight for n in (plain, filled))
    assert not torch.equal(stem, filled_stem)
    norms = [m for m in filled.body.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all((norm.running_var >= 0).all() for norm in norms)
    with torch.no_grad():
        embedding = filled.eval().embed(torch.rand(4, 3, 64, 64))
    assert embedding.shape == (4, 1280)
    assert torch.isfinite(embedding).all()


def test_a_grey_picture_feeds_a_colour_network() -> None:
    built = build(network("resnet18"), channels=1, classes=2, weights=None).eval()
    grey = torch.rand(1, 1, 64, 64)
    repeated = build(network("resnet18"), channels=3, classes=2, weights=None).eval()
    repeated.load_state_dict(built.state_dict())
    torch.testing.assert_close(built(grey), repeated(grey.expand(-1, 3, -1, -1)))


def test_an_unknown_network_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="did you mean resnet18"):
        build(network("resnet18x"), channels=1, classes=2, weights=None)


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match=r"model\.options does not fit small_cnn"):
        build(network("small_cnn", depth=3), channels=1, classes=2, weights=None)


def test_the_small_cnn_has_no_pretrained_weights() -> None:
    with pytest.raises(ModelError, match=r"model\.weights=null"):
        build(network("small_cnn"), channels=1, classes=2, weights="packaged")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "levit_128s"])
def test_a_network_of_one_size_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=f"{name} does not take pictures of every size .*choose"):
        build(network(name), channels=1, classes=2, weights=None)


def test_a_network_without_a_feature_map_is_refused() -> None:
    with pytest.raises(ModelError, match="convolutional"):
        build(network("mixer_s32_224", img_size=96), channels=1, classes=2, weights=None)


def test_every_packaged_network_is_installed() -> None:
    for name in PACKAGED:
        assert (
            build(network(name), channels=1, classes=2, weights="packaged").head.out_features == 2
        )


def test_a_standardising_network_sees_the_same_at_any_exposure() -> None:
    spec = NetworkSpec(architecture="small_cnn", options={"width": 4, "standardise": True})
    network = build(spec, channels=1, classes=2, weights=None).eval()
    images = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    darker = 0.1 + 0.4 * images
    assert torch.allclose(network(darker), network(images), atol=0.05)
    seen = network.normalised(images)
    assert torch.allclose(seen.mean(dim=(1, 2, 3)), torch.full((3,), -0.2), atol=1e-5)
    usual = build(
        NetworkSpec(architecture="small_cnn", options={"width": 4}),
        channels=1,
        classes=2,
        weights=None,
    )
    assert not torch.allclose(usual.normalised(darker), usual.normalised(images), atol=0.05)


def test_a_flat_picture_is_standardised_to_a_flat_one() -> None:
    spec = NetworkSpec(architecture="small_cnn", options={"standardise": True})
    network = build(spec, channels=1, classes=2, weights=None).eval()
    seen = network.normalised(torch.full((1, 1, 16, 16), 0.7))
    assert torch.isfinite(seen).all()
    assert seen.std() < 1e-4
