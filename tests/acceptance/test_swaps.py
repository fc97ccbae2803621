"""Two hundred models one after the other under load: nobody fails, every answer names its model."""

import time
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
from served import Load, descriptors, serving

from pulmo.config.settings import Settings
from pulmo.core.bundle import Bundle
from pulmo.wiring import open_registry

SWAPS = 200


def test_two_hundred_swaps_under_load_fail_nobody(
    make_bundle: Callable[..., Bundle],
    toy_bundle: Bundle,
    grey_png: Callable[[int], bytes],
    tmp_path: Path,
    tell: Callable[[str], None],
) -> None:
    settings = Settings(
        registry_url=f"sqlite:///{tmp_path / 'registry.db'}", files_url=str(tmp_path / "files")
    )
    registry = open_registry(settings)
    strict = toy_bundle.info.specification.decision.model_copy(
        update={"threshold": 0.995, "refer_low": 0.994, "refer_high": 0.996}
    )
    other = make_bundle(tmp_path / "strict", weights=b"strict", decision=strict)
    versions = [registry.register(b.path, actor="me") for b in (toy_bundle, other)]
    registry.set_alias("toy", "live", 0, expected=None, actor="me", reason="start")
    took = []
    places = {
        "PULMO_REGISTRY_URL": settings.registry_url,
        "PULMO_FILES_URL": settings.files_url,
    }
    with (
        serving("toy:live", tmp_path, **places) as (process, url),
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        with Load(url, grey_png(200), clients=2) as load:
            for turn in range(SWAPS):
                after = 1 - turn % 2
                registry.set_alias(
                    "toy", "live", after, expected=turn % 2, actor="me", reason="turn"
                )
                begun = time.perf_counter()
                digest = versions[after].model_digest
                while client.get("/health").json()["model"]["digest"] != digest:
                    time.sleep(0.02)
                took.append(time.perf_counter() - begun)
        opened = descriptors(process)
    tell(
        f"{SWAPS} swaps, {len(load.answers):,} answers, none failed or mixed; taken over "
        f"within {max(took):.2f} s (median {sorted(took)[SWAPS // 2]:.2f} s)"
    )
    assert load.lost == []
    assert {answer[:3] for answer in load.answers} == {
        (200, versions[0].model_digest, "BRIGHT"),
        (200, versions[1].model_digest, "DARK"),
    }
    assert opened < 80
