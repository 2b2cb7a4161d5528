"""The table: CSV with every number, Markdown with the comparison."""

import csv
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

from recipe import Recipe

METRIC = "mask_map50_native"


def write_table(recipe: Recipe, results: dict[str, dict[str, Any]], work: Path) -> str:
    """Write ``table.csv`` and ``table.md`` in the work folder; returns the latter's text."""
    rows = [
        {"job": name, "quantity": key, "value": value}
        for name, found in results.items()
        for key, value in found.items()
        if key != "weights"  # a place on this machine
    ]
    with (work / "table.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ("job", "quantity", "value"))
        writer.writeheader()
        writer.writerows(rows)
    text = _markdown(recipe, results)
    (work / "table.md").write_text(text)
    return text


def _markdown(recipe: Recipe, results: dict[str, dict[str, Any]]) -> str:
    size, slices = results["export"]["size"], results["export"]["slices"]
    after = results["postprocess"]
    lines = [
        f"SIMULATED scans, {len(results['export']['test'])} test subjects; images {size[0]} × {size[1]} of "
        f"{recipe.pixel_mm:g} mm, {slices['train']} training slices, {recipe.epochs} epochs, batch {recipe.batch}, "
        f"{recipe.threads} threads; {_machine()}",
        "",
        "| | Ultralytics | spineseg | ours against theirs | asked for |",
        "|---|---|---|---|---|",
    ]
    for seed in recipe.seeds:
        lines.append(_row(f"`{METRIC}`, seed {seed}", *_pair(results, f"score-{{}}-{seed}", METRIC), "difference", ""))
    theirs, ours = (mean(results[f"score-{k}-{s}"][METRIC] for s in recipe.seeds) for k in ("theirs", "ours"))
    lines.append(_row(f"`{METRIC}`, mean", theirs, ours, "difference", "≥ −0.01"))
    speeds = [_mean(results[f"{k}-{s}"]["images_a_second"] for s in recipe.seeds) for k in ("theirs", "ours")]
    lines.append(_row("images a second, float32", *speeds, "ratio", "≥ 1.15"))
    fastest = [_best(results, kind, speed) for kind, speed in zip(("theirs", "ours"), speeds, strict=True)]
    best = [speed for speed, _ in fastest]
    lines.append(_row("images a second, each one's best CPU setting", *best, "ratio", "≥ 2"))
    memory = [max(results[f"{k}-{s}"]["memory_mb"] for s in recipe.seeds) for k in ("theirs", "ours")]
    lines.append(_row("peak memory above imports, float32, MB", *memory, "ratio", "≤ 1"))
    for what, key in (("as each does in training", "theirs_ms"), ("both at all pixels", "theirs_native_ms")):
        name = f"validation post-processing, ms a slice, {what}"
        lines.append(_row(name, after[key], after["ours_ms"], "times faster", "≥ 5"))
    lines += [
        "",
        f"Best settings: {fastest[0][1]}; {fastest[1][1]}. Threads found while training at float32: "
        f"{_threads(results, 'theirs')} and {_threads(results, 'ours')}. "
        f"Post-processing: {after['slices']} slices of {after['size'][0]} × {after['size'][1]}, "
        f"{after['their_detections']} and {after['our_detections']} detections.",
    ]
    return "\n".join(lines) + "\n"


def _pair(results: dict[str, dict[str, Any]], pattern: str, key: str) -> tuple[Any, Any]:
    theirs, ours = (results[pattern.format(kind)][key] for kind in ("theirs", "ours"))
    return theirs, ours


def _row(name: str, theirs: float | None, ours: float | None, how: str, asked: str) -> str:
    if theirs is None or ours is None:
        return f"| {name} | {theirs} | {ours} | n/a | {asked} |"
    if how == "difference":
        against = f"{ours - theirs:+.3f}"
    else:
        above, below = (theirs, ours) if how == "times faster" else (ours, theirs)
        against = f"{above / below:.2f}×" if below else "n/a"
    return f"| {name} | {theirs:.3f} | {ours:.3f} | {against} | {asked} |"


def _mean(values: Any) -> float | None:
    found = list(values)
    return None if None in found else mean(found)


def _best(results: dict[str, dict[str, Any]], kind: str, speed: float | None) -> tuple[float | None, str]:
    """The highest of all speeds that were measured, and the setting it came from."""
    found = {}
    for name in results:
        if name.startswith(f"{kind}-best-"):
            setting = f"{results[name]['precision']}, {name.rpartition('-')[2]} loader processes"
            found[setting] = results[name]["images_a_second"]
    found["float32, as above"] = speed
    known = {setting: value for setting, value in found.items() if value is not None}
    setting = max(known, key=known.__getitem__, default="")
    return known.get(setting), setting


def _threads(results: dict[str, dict[str, Any]], kind: str) -> str:
    found = {
        value["threads"] for name, value in results.items() if name.startswith(f"{kind}-") and "-best-" not in name
    }
    return ", ".join(str(each) for each in sorted(found))


def _machine() -> str:
    from spineseg.provenance import hardware, versions

    machine, packages = hardware(), versions()
    used = ", ".join(f"{name} {packages[name]}" for name in ("torch", "ultralytics", "lightning"))
    return f"{machine['cores']} cores of {machine['processor']}, {used}, {datetime.now(UTC).date()}"
