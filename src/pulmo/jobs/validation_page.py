"""The split doctor's findings as one HTML page with the pictures they are about."""

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from PIL import Image

from pulmo.config.schema import Config
from pulmo.core.preprocess import decode
from pulmo.data import files
from pulmo.data.audit import Finding
from pulmo.data.reference import MEASURES
from pulmo.errors import DataError
from pulmo.jobs import page
from pulmo.jobs.data import Examined

GROUPS, GROUP, LINES = 8, 3, 40  # shown of a finding: groups, pictures of each, lines
EXTREMES = 6
SIDE = 120

_UNITS = {"width": "pixels", "height": "pixels"}
_ENDS = (
    ("darkest", "brightness", False),
    ("brightest", "brightness", True),
    ("flattest", "contrast", False),
    ("least sharp", "sharpness", False),
)


def render(config: Config, seen: Examined) -> str:
    """The page of one examined data set."""
    report = seen.report
    album = _Album(config, seen)
    sections = [("counts", "Pictures by split and class", _counts(seen))]
    sections += [
        (f"{one.check}-{i}", _title(one), _finding(one, album))
        for i, one in enumerate(report.findings)
    ]
    sections.append(("looks", "How the pictures look", _looks(seen, album)))
    sections.append(("doctor", "What was minded", _minded(config)))
    return page.page(f"{report.name} · data", _head(seen), sections)


class _Album:
    """Thumbnails of a data set's pictures."""

    def __init__(self, config: Config, seen: Examined) -> None:
        self.data, self.root = config.data, seen.root
        self.labels = {row.path: (row.label, row.split) for row in seen.manifest.rows}

    def strip(self, groups: Iterable[tuple[Sequence[str], str]]) -> str:
        """Groups of paths side by side, each with a word about it."""
        shown = []
        for paths, word in groups:
            images = [image for path in paths if (image := self._image(path)) is not None]
            names = "<br>".join(self._name(path) for path in paths)
            told = f"<b>{escape(word)}</b><br>" if word else ""
            caption = page.Raw(f"{told}{names}")
            shown.append(([page.jpeg(image, SIDE) for image in images], paths[0], caption))
        alone = all(len(images) <= 1 for images, _, _ in shown)
        return page.thumbnails(shown, "small" if alone else "pictures")

    def _name(self, path: str) -> str:
        label, split = self.labels.get(path, ("", ""))
        return f"<code>{escape(path)}</code> {escape(f'{label}, {split}')}"

    def _image(self, path: str) -> Image.Image | None:
        try:
            encoded = files.read(self.root / path)
            return decode(encoded, self.data.channels, self.data.dicom)
        except DataError:  # gone or damaged since: its name still says which it was
            return None


def _head(seen: Examined) -> str:
    report = seen.report
    patients = len({row.patient for row in seen.manifest.rows})
    errors, all_found = len(report.errors), len(report.findings)
    verdict = (
        f"<p><b>{errors} of the findings below forbid training.</b> Mend the data, or train with "
        "<code>doctor.allow_errors=true</code>, which is recorded with the model.</p>"
        if errors
        else "<p>Nothing forbids training.</p>"
    )
    cards = "".join(
        f'<div class="card"><span>{name}</span><strong>{count:,}</strong></div>'
        for name, count in (
            ("Pictures", len(seen.manifest.rows)),
            ("Patients", patients),
            ("Errors", errors),
            ("Warnings", all_found - errors),
        )
    )
    return (
        f"<h1>{escape(report.name)} <code>{escape(report.digest[:12])}</code></h1>"
        f'<div class="warning">{verdict}</div><div class="cards">{cards}</div>'
    )


def _counts(seen: Examined) -> str:
    classes = seen.manifest.classes
    rows = [
        (split, *(f"{found[name]:,}" for name in classes), f"{sum(found.values()):,}")
        for split, found in seen.report.counts.items()
    ]
    return page.table(("split", *classes, "all"), rows)


def _title(finding: Finding) -> str:
    return f"{finding.severity}: {finding.check.replace('_', ' ')}"


def _finding(finding: Finding, album: _Album) -> str:
    groups = [(group[:GROUP], "") for group in finding.groups[:GROUPS]]
    shown = album.strip(groups)
    lines = "".join(f"<li>{escape(line)}</li>" for line in finding.where[:LINES])
    more = len(finding.where) - LINES
    rest = f"<p>and {more:,} more in the JSON report.</p>" if more > 0 else ""
    opened = "" if groups else " open"
    message = finding.message[:1].upper() + finding.message[1:]
    return (
        f"<p>{escape(message)}.</p>{shown if groups else ''}"
        f"<details{opened}><summary>Where</summary>"
        f'<ul style="overflow-wrap: anywhere">{lines}</ul>{rest}</details>'
    )


def _looks(seen: Examined, album: _Album) -> str:
    paths = [row.path for row in seen.manifest.rows if row.path in seen.looks]
    if not paths:
        return "<p>No picture could be read.</p>"
    rows = []
    for name in MEASURES:
        values = [getattr(seen.looks[path], name) for path in paths]
        points = np.quantile(values, (0, 0.05, 0.5, 0.95, 1), method="inverted_cdf")
        unit = _UNITS.get(name, "grey levels")
        rows.append((f"{name} ({unit})", *(f"{point:,.4g}" for point in points)))
    kinds = Counter(seen.looks[path].mode for path in paths)
    told = ", ".join(f"{count:,} {mode}" for mode, count in kinds.most_common())
    parts = [
        page.table(("measure", "least", "5 %", "median", "95 %", "greatest"), rows),
        f"<p>Stored as {escape(told)}.</p>",
    ]
    for word, name, most in _ENDS:
        order = sorted(paths, key=lambda path: getattr(seen.looks[path], name), reverse=most)
        ends = order[:EXTREMES]
        groups = [((path,), f"{getattr(seen.looks[path], name):.1f}") for path in ends]
        parts.append(f"<h3>The {word}</h3>{album.strip(groups)}")
    return "".join(parts)


def _minded(config: Config) -> str:
    doctor = config.doctor
    named = {check.replace("_", " "): str(value) for check, value in doctor.severity.items()}
    limits = {
        "near duplicates": f"hashes {doctor.near} bits apart, details alike by {doctor.likeness:g}",
        "blank": f"grey levels spread by less than {doctor.blank:g}",
        "placeholder": f"{doctor.placeholder} equal pictures",
        "small split": f"fewer than {doctor.min_per_class} pictures of a class",
        "drift": f"distributions {doctor.drift:g} apart",
    }
    return f"{page.pairs(named)}<h3>Limits</h3>{page.pairs(limits)}"
