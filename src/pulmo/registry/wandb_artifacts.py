"""Bundles as W&B artifacts of type `model`: one collection a model, asked through W&B's own SDK."""

import base64
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulmo.config.settings import shown
from pulmo.config.wandb import entity, is_offline, load_wandb, project, require_key
from pulmo.core.arrays import MAX_FILE_BYTES
from pulmo.core.bundle import FILES, MAX_SIGNATURE_BYTES, SIGNATURE, SUMS, Bundle
from pulmo.errors import ModelError, NotFoundError, PulmoError, RegistryError
from pulmo.logs import get_logger

TYPE = "model"
TIMEOUT_S = 30
# What an artifact's metadata says of the bundle in it; `model_digest` is part of W&B's webhooks.
MODEL, BUNDLE, SIGNED = "model_digest", "bundle_digest", "model_sig"

log = get_logger(__name__)


@dataclass(frozen=True)
class Kept:
    """One version of a collection as W&B shows it; `digest` is W&B's own, over MD5 sums.

    What its metadata says of digests is a claim until the bundle was verified.
    """

    path: str  # entity/project/name:v3
    digest: str
    model_digest: str | None
    bundle_digest: str | None
    aliases: frozenset[str]


class Artifacts:
    """The artifacts of one project of one entity: the key's own where WANDB_ENTITY names none.

    Nothing is asked and the SDK is not imported before the first call. Every method raises
    ConfigError without package or key, RegistryError where W&B cannot be reached or says no.
    """

    def __init__(self) -> None:
        self._opened: Any = None

    def upload(self, bundle: Bundle) -> None:
        """Log a verified bundle, unless there is a version with its bytes.

        With WANDB_MODE=offline it is kept for `wandb sync`.
        """
        draft = _draft(load_wandb(), bundle)
        if is_offline():
            log.warning(
                "%s is kept in %s: `wandb sync` sends it to W&B", bundle.info.name, self._log(draft)
            )
            return
        for artifact in self._all(bundle.info.name):
            known = artifact.metadata.get(BUNDLE)
            if known == bundle.digest:
                return
            if known is None and artifact.digest == draft.digest:  # logged by other means than ours
                with _reached():
                    artifact.metadata.update(draft.metadata)
                    artifact.save()
                return
        self._log(draft)

    def versions(self, name: str) -> list[Kept]:
        """Every committed version of a model's collection, oldest first; none for no collection."""
        return [_kept(artifact) for artifact in self._all(name)]

    def find(self, name: str, bundle_digest: str) -> Kept | None:
        """The version that says of itself that it holds this bundle, the first of equals."""
        return next((k for k in self.versions(name) if k.bundle_digest == bundle_digest), None)

    def download(self, path: str, folder: Path) -> None:
        """Fetch the files of a bundle (`entity/project/name:v3`, or an alias) into a folder.

        What no bundle holds, and references to other places, are refused. Nothing is verified.
        """
        with _reached():
            artifact = self._api().artifact(path, type=TYPE)
            _require_bundle(artifact, path)
            artifact.download(root=str(folder), skip_cache=True)
            signature = artifact.metadata.get(SIGNED)
        if isinstance(signature, str) and len(signature) <= 2 * MAX_SIGNATURE_BYTES:
            (folder / SIGNATURE).write_bytes(_decoded(signature, path))

    def sign(self, name: str, bundle_digest: str, signature: bytes) -> None:
        """Put a signature into the metadata: files of an artifact never change."""
        artifact = self._require(name, bundle_digest)
        with _reached():
            artifact.metadata[SIGNED] = base64.b64encode(signature).decode()
            artifact.save()

    def signature(self, name: str, bundle_digest: str) -> bytes | None:
        """The signature that was put last, None where there is none."""
        artifact = self._require(name, bundle_digest)
        text = artifact.metadata.get(SIGNED)
        return _decoded(text, artifact.qualified_name) if isinstance(text, str) else None

    def point(self, name: str, alias: str, bundle_digest: str) -> None:
        """Let an alias be at the version with this bundle; W&B takes it from any other."""
        artifact = self._require(name, bundle_digest)
        if alias not in artifact.aliases:
            with _reached():
                artifact.aliases.append(alias)
                artifact.save()

    def remove(self, name: str, alias: str) -> None:
        """Take an alias away, wherever it is."""
        for artifact in self._all(name):
            if alias in artifact.aliases:
                with _reached():
                    artifact.aliases.remove(alias)
                    artifact.save()

    def _require(self, name: str, bundle_digest: str) -> Any:
        for artifact in self._all(name):
            if artifact.metadata.get(BUNDLE) == bundle_digest:
                return artifact
        raise NotFoundError(
            f"W&B has no version of {self._path(name)} with bundle {bundle_digest}: register it "
            "again, or send a run that was kept offline with `wandb sync`"
        )

    def _all(self, name: str) -> list[Any]:
        with _reached():
            try:
                found = list(self._api().artifacts(TYPE, self._path(name)))
            except ValueError:  # what the SDK makes of an answer without such a collection
                return []
        return sorted(found, key=lambda artifact: int(artifact.version.removeprefix("v")))

    def _log(self, draft: Any) -> Path:
        """Log an artifact in a run of its own; the folder that an offline run is kept in."""
        wandb, offline = load_wandb(), is_offline()
        with _reached(), tempfile.TemporaryDirectory(prefix="pulmo-") as scratch:
            root = (os.environ.get("WANDB_DIR") or str(Path.cwd())) if offline else scratch
            with wandb.init(
                entity=entity(),
                project=project(),
                job_type="register",
                mode="offline" if offline else "online",
                name=f"register {draft.name} {draft.metadata[BUNDLE][:12]}",
                reinit="create_new",  # beside a training run that may go on
                settings=_quiet(wandb, root),
            ) as run:
                run.log_artifact(draft)
                if not offline:
                    draft.wait()
                return Path(run.dir).parent

    def _path(self, name: str) -> str:
        return f"{entity() or self._api().default_entity}/{project()}/{name}"

    def _api(self) -> Any:
        if is_offline():
            raise RegistryError("W&B is not asked while WANDB_MODE=offline")
        if self._opened is None:
            wandb = load_wandb()
            require_key(wandb)
            self._opened = wandb.Api(timeout=TIMEOUT_S)
        return self._opened


def _quiet(wandb: Any, root: str) -> Any:
    """A run that only carries an artifact: nothing is watched and nothing printed."""
    return wandb.Settings(
        root_dir=root,
        silent=True,
        console="off",
        disable_git=True,
        save_code=False,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )


def _draft(wandb: Any, bundle: Bundle) -> Any:
    with _reached():
        draft = wandb.Artifact(bundle.info.name, TYPE, metadata=_metadata(bundle))
        for name in (*FILES, SUMS):
            draft.add_file(str(bundle.path / name), name, policy="immutable", skip_cache=True)
    return draft


def _metadata(bundle: Bundle) -> dict[str, Any]:
    """What W&B shows beside an artifact: our digests, metrics with their intervals, the origin."""
    info = bundle.info
    metadata: dict[str, Any] = {
        MODEL: info.model_digest,
        BUNDLE: bundle.digest,
        "score_metric": info.score_metric,
        "metrics": {
            split: {metric: estimate.model_dump(mode="json") for metric, estimate in each.items()}
            for split, each in info.metrics.items()
        },
        "classes": list(info.specification.classes),
        "lineage": info.lineage.model_dump(mode="json", exclude={"configuration"}),
    }
    if bundle.signature is not None:
        metadata[SIGNED] = base64.b64encode(bundle.signature).decode()
    return metadata


def _kept(artifact: Any) -> Kept:
    about: Mapping[str, Any] = artifact.metadata
    claims = [str(about[key]) if about.get(key) else None for key in (MODEL, BUNDLE)]
    path = f"{artifact.entity}/{artifact.project}/{artifact.name}"
    return Kept(path, artifact.digest, claims[0], claims[1], frozenset(artifact.aliases))


def _require_bundle(artifact: Any, path: str) -> None:
    """Raise ModelError unless an artifact has the files of a bundle and no others."""
    entries = artifact.manifest.entries
    if set(entries) != {*FILES, SUMS}:
        raise ModelError(f"{path} holds no bundle: its files are {', '.join(sorted(entries))}")
    for name, entry in entries.items():
        if entry.ref is not None or entry.size is None or entry.size > MAX_FILE_BYTES:
            raise ModelError(f"{name} of {path} lies elsewhere or is larger than any file may be")


def _decoded(text: str, path: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ModelError(f"the signature in the metadata of {path} is damaged") from error


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except PulmoError:
        raise
    except Exception as error:  # the SDK raises what its many parts like
        told = shown(f"W&B did not do what was asked: {error}; check key, address and your rights")
        raise RegistryError(told) from error
