"""The figure of the side by side: every model's slice AP and Dice beside what needs no training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path


def by_subject(folder: Path, metric: str) -> dict[str, float]:
    """Values of the test subjects of an evaluation: named Dice, or slice AP at IoU 0.5 of each one's slices alone."""
    from spineseg.metrics.detections_table import read_detections
    from spineseg.metrics.means import subject_values
    from spineseg.metrics.pooling import ap_from_detections
    from spineseg.metrics.summary import metric_rows
    from spineseg.reporting.runs import read_metrics

    if metric == "dice":
        return subject_values(metric_rows(read_metrics(folder / "metrics.csv"), "dice"))
    table = read_detections(folder / "detections.parquet")
    people = json.loads((folder / "summary.json").read_text())["subjects"]
    values = {
        subject: ap_from_detections(table, which="exclusive", shape="mask", named=False, subjects=[subject])[0]
        for subject in people
    }
    return {subject: float(value) for subject, value in values.items()}


def draw(folders: Mapping[str, Mapping[str, Path]], baselines: Sequence[str], path: Path) -> None:
    """Slice AP and Dice of every model, each test subject a point, its value a bar; what needs no training as lines.

    Args:
        folders: set → model → evaluation folder.
        baselines: models that are lines; the first one below, the others above what a model can reach.
        path: of the picture.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = (("mask_map50", "mask mAP50, one class"), ("dice", "Dice by name"))
    figure, axes = plt.subplots(len(folders), 2, figsize=(9, 3.2 * len(folders)), squeeze=False, layout="constrained")
    for row, (layout, models) in zip(axes, folders.items(), strict=True):
        for axis, (metric, title) in zip(row, panels, strict=True):
            totals = {
                name: json.loads((folder / "summary.json").read_text())["metrics"][metric]["value"]
                for name, folder in models.items()
            }
            names = [name for name in models if name not in baselines]
            for place, name in enumerate(names):
                values = list(by_subject(models[name], metric).values())
                axis.plot([place] * len(values), values, "o", color="0.6", zorder=2)
                axis.plot([place - 0.25, place + 0.25], [totals[name]] * 2, "k-", zorder=3)
            for name, style in zip(baselines, ("-.", ":", "--", "-"), strict=True):
                if totals[name] is not None:
                    color = "tab:red" if name == baselines[0] else "tab:blue"
                    axis.axhline(totals[name], ls=style, lw=1, color=color, label=name)
            axis.set(title=f"{layout}, SIMULATED: {title}", ylim=(-0.02, 1.03), xticks=range(len(names)))
            axis.set_xticklabels(names)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=len(labels))
    figure.savefig(path, dpi=130)
    plt.close(figure)
