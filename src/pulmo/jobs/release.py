"""Staging: a candidate is tested in its own process, judged, and only if it passes promoted."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pulmo.config.schema import Config
from pulmo.config.settings import Settings
from pulmo.core.bundle import verify
from pulmo.core.ports import (
    PRODUCTION,
    STAGING,
    Check,
    ModelRef,
    Move,
    Registry,
    Verdict,
    Version,
)
from pulmo.data.manifest import GATE, Manifest, load
from pulmo.errors import ConfigError, ModelError, NotFoundError, RefusedError
from pulmo.inference.graph import inspect
from pulmo.jobs.lineage import unreproducible
from pulmo.jobs.run_folder import BUNDLE
from pulmo.jobs.staged import REF_VARIABLE, TERMS_VARIABLE, Terms
from pulmo.jobs.verdict import read_junit, write_reports
from pulmo.logs import get_logger

log = get_logger(__name__)


def stage(
    registry: Registry, target: str, config: Config, settings: Settings, *, actor: str, reason: str
) -> Verdict:
    """Point `staging` at a candidate, test exactly that candidate, promote it if it passes.

    `target` is a model reference, a bundle folder or a run folder; a folder is registered first.
    Raises RefusedError with the failed checks where the answer is no; production is then as it was.
    """
    version = resolve(registry, target, actor=actor)
    point(registry, version, actor=actor, reason=reason)
    verdict = judge(registry, version, config, settings)
    if not verdict.passed:
        raise RefusedError(refusal(version, verdict))
    promote(registry, version, config, actor=actor, reason=reason)
    return verdict


def point(registry: Registry, version: Version, *, actor: str, reason: str) -> None:
    """Point `staging` at a version, unless it is there."""
    before = _pointed(registry, ModelRef(version.name, alias=STAGING))
    if before != version.number:
        registry.set_alias(
            version.name, STAGING, version.number, expected=before, actor=actor, reason=reason
        )
    log.info("staged %s, testing it", version.label)


def resolve(registry: Registry, target: str, *, actor: str) -> Version:
    """The version that `target` names; a bundle or run folder is registered first."""
    path = Path(target)
    if path.is_dir():
        bundle = verify(path / BUNDLE if (path / BUNDLE).is_dir() else path)
        inspect(bundle.graph)  # what nothing may load need not be registered
        version = registry.register(bundle.path, actor=actor)
        if reason := unreproducible(bundle.info.lineage):
            log.warning("%s can never be reproduced: %s", version.label, reason)
        return version
    if os.sep in target or target.startswith("."):
        raise ModelError(f"{target} is no folder: give a run, a bundle or name:alias")
    return registry.get(ModelRef.parse(target))


def judge(registry: Registry, version: Version, config: Config, settings: Settings) -> Verdict:
    """Run the staged tests on one version in a process of their own and store the verdict.

    A test that is missing, skipped, timed out or crashed is a no.
    """
    _same_name(version, config)
    dataset = load(settings.data_dir, config.data.name)
    champion = _version(registry, ModelRef(version.name, alias=PRODUCTION))
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    folder = Path(config.run.root) / "staged" / f"{version.name}-v{version.number}-{stamp}"
    folder.mkdir(parents=True)
    split = gate_digest(dataset.manifest)
    number = tries(registry, version, split) + 1 if champion else 1
    against = champion.model_digest if champion else None
    terms = Terms.of(config).model_copy(update={"number": number, "champion": against})
    trouble = _run_suite(version, terms, settings, folder)
    checks = read_junit(folder / "junit.xml", config.gate.required)
    if trouble:
        checks = [*checks, Check("suite", False, trouble)]
    verdict = registry.record_verdict(
        Verdict(
            name=version.name,
            model_digest=version.model_digest,
            suite_digest=suite_digest(config),
            champion_digest=against,
            passed=all(check.passed for check in checks),
            checks=checks,
            data_digest=dataset.manifest.digest,
            details={"gate_digest": split, "number": number, "warnings": worn_out(number, config)},
        )
    )
    for warning in verdict.details["warnings"]:
        log.warning("%s: %s", version.label, warning)
    write_reports(folder, version, champion, verdict)
    log.info("%s: the report is in %s", "passed" if verdict.passed else "refused", folder)
    return verdict


def promote(
    registry: Registry, version: Version, config: Config, *, actor: str, reason: str
) -> Move:
    """Point `production` at a version whose stored verdict passes, within the cap of a day."""
    _same_name(version, config)
    cap = config.gate.promotions_per_day
    if cap is not None:
        since = datetime.now(UTC) - timedelta(days=1)
        moves = [
            m for m in registry.history(version.name) if m.action == "promote" and m.at > since
        ]
        if len(moves) >= cap:
            raise RefusedError(
                f"{version.name} was promoted {len(moves)} times in the last 24 hours and "
                f"gate.promotions_per_day is {cap}: wait, or raise the limit where it is reviewed"
            )
    return registry.promote(
        version.name, version.number, suite_digest=suite_digest(config), actor=actor, reason=reason
    )


def suite_digest(config: Config) -> str:
    """SHA-256 over the staged tests and their terms: a verdict of other tests is no evidence."""
    digest = hashlib.sha256()
    suite = suite_folder()
    for path in sorted(suite.rglob("*.py")):
        digest.update(f"{path.relative_to(suite).as_posix()}\n".encode() + path.read_bytes())
    digest.update(Terms.of(config).model_dump_json().encode())
    return digest.hexdigest()


def suite_folder() -> Path:
    """The staged tests: beside the package in an installation, at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "staged_model_tests", package.parents[1] / "staged_model_tests"):
        if folder.is_dir():
            return folder
    raise ConfigError("the staged tests are not installed: reinstall pulmo")


def gate_digest(manifest: Manifest) -> str:
    """SHA-256 over the gate pictures and their labels: what every try looks at."""
    rows = sorted(f"{row.pixels} {row.label}\n" for row in manifest.rows if row.split == GATE)
    return hashlib.sha256("".join(rows).encode()).hexdigest()


def tries(registry: Registry, version: Version, split: str) -> int:
    """How many other models were compared with a champion on this gate split before."""
    judged = {
        verdict.model_digest
        for verdict in registry.verdicts(version.name)
        if verdict.champion_digest and verdict.details.get("gate_digest") == split
    }
    return len(judged - {version.model_digest})


def worn_out(number: int, config: Config) -> list[str]:
    """What to say of a gate split on which the `number`-th candidate is compared; often nothing."""
    limit = config.gate.worn_out
    if limit is None or number <= limit:
        return []
    return [
        f"the gate split of {config.data.name} is worn out: this is the {number}th candidate that "
        f"was compared on it, gate.worn_out is {limit}; add new pictures to the data set"
    ]


def _run_suite(version: Version, terms: Terms, settings: Settings, folder: Path) -> str | None:
    """Run pytest on the suite; what went wrong beside failing tests, or None."""
    stored = folder / "terms.json"
    stored.write_text(terms.model_dump_json(indent=2) + "\n", encoding="utf-8")
    environment = {
        **os.environ,
        **settings.environment(),
        REF_VARIABLE: f"{version.name}@{version.model_digest}",
        TERMS_VARIABLE: str(stored.resolve()),
    }
    junit = f"--junitxml={(folder / 'junit.xml').resolve()}"
    command: Sequence[str] = [sys.executable, "-m", "pytest", str(suite_folder()), junit, "-q"]
    with (folder / "output.log").open("wb") as output:
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=terms.limits.timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"the staged tests did not end within {terms.limits.timeout_s:.0f} s"
    if done.returncode in (0, 1):
        return None
    return f"the staged tests ended with {done.returncode}: see {folder / 'output.log'}"


def _same_name(version: Version, config: Config) -> None:
    if config.registry.name != version.name:
        raise ConfigError(
            f"the configuration is that of {config.registry.name}, not of {version.name}: "
            f"add data=… of the data set that {version.name} was trained for"
        )


def refusal(version: Version, verdict: Verdict) -> str:
    """Why a version was not promoted, in one sentence."""
    failed = "; ".join(f"{c.name}: {c.detail}" for c in verdict.checks if not c.passed)
    return f"{version.label} was refused and production is unchanged: {failed}"


def _pointed(registry: Registry, ref: ModelRef) -> int | None:
    version = _version(registry, ref)
    return version.number if version else None


def _version(registry: Registry, ref: ModelRef) -> Version | None:
    try:
        return registry.get(ref)
    except NotFoundError:
        return None
