"""The table: CSV with every number, Markdown with the comparison."""

import csv
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

from recipe import Recipe
from training import METRICS, SPEEDS


def write_table(recipe: Recipe, results: dict[str, dict[str, Any]], work: Path) -> str:
    """Write ``table.csv`` and ``table.md`` in the work folder; returns the latter's text."""
    with (work / "table.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("job", "quantity", "value"))
        for name, found in results.items():  # without the places of weights on this machine
            writer.writerows((name, key, value) for key, value in found.items() if key != "weights")
    text = _markdown(recipe, results)
    (work / "table.md").write_text(text)
    return text


def _markdown(recipe: Recipe, results: dict[str, dict[str, Any]]) -> str:
    same, prepared = results["equality"], results["prepare"]
    patch = " × ".join(map(str, recipe.patch))
    lines = [
        f"SIMULATED scans: {len(prepared['train'])} for training, {len(prepared['val'])} for validation, "
        f"{len(prepared['test'])} for the test; {recipe.spacing_mm:g} mm, patch {patch}, features "
        f"{', '.join(map(str, recipe.features))}, {recipe.epochs} epochs of {recipe.iterations} iterations, batch "
        f"{recipe.batch}, {recipe.threads} threads; {_machine()}",
        "",
        "| same plan, weights and batch | found | asked for |",
        "|---|---|---|",
        f"| loss, difference | {same['loss_difference']:.1e} | ≤ 1e-5 |",
        f"| logits of a window, largest difference | {same['window_logits_difference']:.1e} | ≤ 1e-4 |",
        f"| logits stitched ({same['windows']} windows), largest difference | "
        f"{same['stitched_logits_difference']:.1e} | ≤ 1e-2 |",
        f"| the same with the scan's borders ({100 * same['border_share']:.1f} % of voxels) | "
        f"{same['stitched_logits_difference_borders']:.1e} | |",
        "| with borders, nnU-Net's weights and sums in single precision | "
        f"{same['stitched_logits_difference_single']:.1e} | ≤ 1e-2 |",
        f"| labels that agree | {100 * same['argmax_agreement']:.4f} % | ≥ 99.99 % |",
        f"| the same, nnU-Net in single precision | {100 * same['argmax_agreement_single']:.4f} % | |",
        f"| nnU-Net's labels with half and with single precision | {100 * same['argmax_agreement_theirs']:.4f} % | |",
        f"| weights through both formats | {'equal' if same['round_trip'] else 'DIFFERENT'} | equal |",
        "",
        f"The largest logit of a window is {same['logits_largest']:.1f}; {same['classes_predicted']} classes are "
        "predicted.",
        "",
        "| trained | nnU-Net | spineseg | ours against theirs | asked for |",
        "|---|---|---|---|---|",
    ]
    for metric in METRICS:
        for seed in recipe.seeds:
            pair = [results[f"{kind}-{seed}"][metric] for kind in ("theirs", "ours")]
            lines.append(_row(f"`{metric}`, seed {seed}", *pair, "difference", ""))
        means = [_mean(results[f"{kind}-{seed}"][metric] for seed in recipe.seeds) for kind in ("theirs", "ours")]
        lines.append(_row(f"`{metric}`, mean", *means, "difference", "≥ −0.02"))
    for key, what in zip(SPEEDS, ("iterations a second", "iterations a second of the processor"), strict=True):
        means = [_mean(results[f"{kind}-{seed}"][key] for seed in recipe.seeds) for kind in ("theirs", "ours")]
        lines.append(_row(f"{what}, float32", *means, "ratio", "≥ 1.1"))
        lines.append(_row(f"{what}, theirs float32, ours bf16", means[0], results["ours-bf16"][key], "ratio", "≥ 2"))
    return "\n".join(lines) + "\n"


def _row(name: str, theirs: float | None, ours: float | None, how: str, asked: str) -> str:
    if theirs is None or ours is None:
        return f"| {name} | {theirs} | {ours} | n/a | {asked} |"
    against = f"{ours - theirs:+.3f}" if how == "difference" else f"{ours / theirs:.2f}×" if theirs else "n/a"
    return f"| {name} | {theirs:.3f} | {ours:.3f} | {against} | {asked} |"


def _mean(values: Any) -> float | None:
    found = list(values)
    return None if None in found else mean(found)


def _machine() -> str:
    from importlib.metadata import version

    from spineseg.provenance import hardware

    machine = hardware()
    used = ", ".join(f"{name} {version(name)}" for name in ("torch", "nnunetv2", "lightning"))
    return f"{machine['cores']} cores of {machine['processor']}, {used}, {datetime.now(UTC).date()}"
