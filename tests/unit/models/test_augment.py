"""Augmentation: keyed by sample, bounded, and nothing where its strengths are zero."""

import numpy as np
import torch

from pulmo.config.schema import AugmentConfig
from pulmo.models.augment import augment

OFF = AugmentConfig(rotate=0, shift=0, zoom=0, brightness=0, contrast=0, gamma=0)


def pictures(n: int = 4) -> torch.Tensor:
    return torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def test_zero_strength_changes_nothing() -> None:
    images = pictures()
    changed = augment(images, np.arange(4), OFF, mirror=False, seed=0, epoch=0)
    torch.testing.assert_close(changed, images, atol=1e-4, rtol=0)


def test_a_sample_is_changed_the_same_way_alone_and_in_a_batch() -> None:
    images, rows = pictures(), np.array([5, 6, 7, 8])
    together = augment(images, rows, AugmentConfig(), mirror=True, seed=3, epoch=2)
    alone = augment(images[2:3], rows[2:3], AugmentConfig(), mirror=True, seed=3, epoch=2)
    torch.testing.assert_close(together[2:3], alone)


def test_another_epoch_changes_a_sample_otherwise() -> None:
    images, rows = pictures(), np.arange(4)
    one, two = (
        augment(images, rows, AugmentConfig(), mirror=False, seed=0, epoch=e) for e in (1, 2)
    )
    assert (one - two).abs().mean() > 0.01


def test_values_stay_between_black_and_white() -> None:
    wild = AugmentConfig(brightness=1, contrast=1, gamma=0.9)
    changed = augment(pictures(32), np.arange(32), wild, mirror=True, seed=0, epoch=0)
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_mirroring_alone_mirrors_about_half_of_the_pictures() -> None:
    images, rows = pictures(64), np.arange(64)
    changed = augment(images, rows, OFF, mirror=True, seed=0, epoch=0)
    mirrored = [
        torch.allclose(c, i.flip(-1), atol=1e-4) for c, i in zip(changed, images, strict=True)
    ]
    kept = [torch.allclose(c, i, atol=1e-4) for c, i in zip(changed, images, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 20 < sum(mirrored) < 44


def test_rotation_keeps_the_aspect_of_what_it_turns() -> None:
    picture = torch.zeros(1, 1, 33, 33)
    picture[..., 8:25, 8:25] = 1
    quarter = AugmentConfig(rotate=90, shift=0, zoom=0, brightness=0, contrast=0, gamma=0)
    for row in range(8):
        turned = augment(picture, np.array([row]), quarter, mirror=False, seed=0, epoch=0)
        assert abs(float(turned.sum() / picture.sum()) - 1) < 0.05


def test_stretching_widens_or_narrows_and_keeps_the_height() -> None:
    picture = torch.zeros(1, 1, 33, 33)
    picture[..., 8:25, 8:25] = 1
    only = OFF.model_copy(update={"stretch": 0.5})
    widths, heights = [], []
    for row in range(16):
        changed = augment(picture, np.array([row]), only, mirror=False, seed=0, epoch=0)[0, 0]
        widths.append(float(changed[16].sum()))
        heights.append(float(changed[:, 16].sum()))
    assert min(widths) < 14 < 20 < max(widths)
    assert all(abs(height - 17) < 0.5 for height in heights)


def test_sharpness_changes_fine_detail_alone() -> None:
    images, rows = pictures(8), np.arange(8)
    only = OFF.model_copy(update={"sharpness": 1.0})
    changed = augment(0.4 + 0.2 * images, rows, only, mirror=False, seed=0, epoch=0)
    detail = (changed - changed.mean(dim=(2, 3), keepdim=True)).square().mean(dim=(1, 2, 3))
    before = (0.2 * (images - images.mean(dim=(2, 3), keepdim=True))).square().mean(dim=(1, 2, 3))
    assert (detail < 0.8 * before).any()
    assert (detail > 1.2 * before).any()
    flat = torch.full((8, 1, 16, 16), 0.5)
    kept = augment(flat, rows, only, mirror=False, seed=0, epoch=0)
    torch.testing.assert_close(kept, flat, atol=1e-4, rtol=0)
