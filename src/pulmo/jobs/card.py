"""The model card: what a bundle is, for people."""

from pulmo.core.bundle import BundleInfo, Estimate

_TEMPLATE = """\
---
pipeline_tag: image-classification
library_name: pulmo
---

# {name}

{intended_use}

| | |
|---|---|
| classes | {classes} |
| input | {height}×{width} pixels, {colour}, {resize} |
| network | {architecture} |
| answer | {rule} |
| data | {data_name}, digest `{data_digest}` |
| code | {commit} |
| trained | {created_at}, seed {seed}, {machine} |
| model digest | `{digest}` |

## Measured on held-out data

{metrics}

Intervals are bootstrap intervals over patients. Temperature, threshold and refer band were chosen
on the validation split, so its figures flatter the model a little; the gate and the official test
split were not used for any choice.

## Limits

- Pictures unlike the validation pictures are referred to a human and get no label.
- {refer}
- The model knows the acquisition, age group and label habits of its training data and no others.
"""


def model_card(info: BundleInfo, intended_use: str) -> str:
    """Markdown with Hugging Face front matter; every figure is one of `info`."""
    spec, origin = info.specification, info.lineage
    decision = spec.decision
    if decision.rule == "threshold":
        rule = f"{decision.positive} from a probability of {decision.threshold:.3f} up"
        refer = (
            f"Probabilities of {decision.positive} from {decision.refer_low:.3f} to "
            f"{decision.refer_high:.3f} are referred to a human."
        )
    else:
        rule = "the most probable class"
        refer = f"Answers less probable than {decision.refer_high:.3f} are referred to a human."
    tree = {True: "clean tree", False: "uncommitted changes", None: "state unknown"}[origin.clean]
    return _TEMPLATE.format(
        name=info.name,
        intended_use=intended_use,
        classes=", ".join(spec.classes),
        height=spec.input.height,
        width=spec.input.width,
        colour="grey" if spec.input.channels == 1 else "colour",
        resize={"squash": "stretched to fit", "crop": "centre crop"}[spec.input.resize],
        architecture=spec.network.architecture,
        rule=rule,
        refer=refer,
        data_name=origin.data_name,
        data_digest=origin.data_digest[:12],
        commit=f"`{origin.commit[:12]}`, {tree}" if origin.commit else "not from a git checkout",
        created_at=origin.created_at,
        seed=origin.seed,
        machine=origin.machine,
        digest=info.model_digest,
        metrics=_table(info.metrics),
    )


def _table(metrics: dict[str, dict[str, Estimate]]) -> str:
    rows = ["| split | metric | value | interval |", "|---|---|---|---|"]
    for split, values in metrics.items():
        for name, estimate in values.items():
            value, low, high = (_number(x) for x in (estimate.value, estimate.low, estimate.high))
            rows.append(f"| {split} | {name.replace('_', ' ')} | {value} | {low} to {high} |")
    return "\n".join(rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
