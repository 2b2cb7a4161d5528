"""``evaluate``: score a predictions folder, of any model or tool, against reference label maps (PROTOCOL.md).

Importing this module must stay cheap: ``--help`` waits for it. What it offers to other programs is imported on demand.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spineseg.config import check, program

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from spineseg.metrics.folder import evaluate_folder
    from spineseg.metrics.references import Reference, find_references

__all__ = ["Reference", "evaluate_folder", "find_references", "main"]


@program("evaluate")
def main(cfg: "DictConfig") -> None:
    """Score a predictions folder and print its numbers."""
    check(cfg)
    # Heavy imports wait until the configuration is known to be right.
    # numexpr announces its threads when pandas finds it.
    logging.getLogger("numexpr").setLevel(logging.WARNING)
    from spineseg.data.files import read_json
    from spineseg.metrics.folder import SUMMARY_FORMAT, evaluate_folder
    from spineseg.metrics.references import default_edge, find_references, is_simulated, prepared_folder
    from spineseg.predictions.store import open_predictions

    where, predictions = Path(cfg.reference), Path(cfg.prediction)
    references = find_references(
        where,
        convention_name=cfg.reference_convention,
        subjects=None if cfg.subjects is None else Path(cfg.subjects),
    )
    edge = cfg.edge or default_edge(where)
    provenance = open_predictions(predictions).provenance
    results = evaluate_folder(
        references,
        predictions,
        Path(cfg.output),
        edge=edge,
        run=str(provenance.get("run", predictions.name)),
        split=str(provenance.get("split", "")),
        simulated=bool(provenance.get("simulated", False)) or is_simulated(where),
        prediction_convention=cfg.prediction_convention,
        prediction_labels=cfg.prediction_labels,
        reference_settings={
            # The name alone: a path may name a person.
            "folder": where.absolute().name,
            # A prepared folder knows its own.
            "convention": None if prepared_folder(where) else cfg.reference_convention,
            "subjects": None if cfg.subjects is None else Path(cfg.subjects).name,
        },
        by_part=cfg.by_part,
        worst=cfg.worst,
    )
    for name, entry in results.items():
        print(f"{name:24} {_shown(entry)}")
    summary = read_json(Path(cfg.output) / "summary.json", SUMMARY_FORMAT, "python -m spineseg.evaluate")
    for note in summary["notes"]:
        print(f"note: {note}")
    left_out = f"{summary['ignored_references']} reference and {summary['dropped_predictions']} predicted levels"
    simulated = "SIMULATED data, " if summary["simulated"] else ""
    print(f"{simulated}protocol {summary['protocol']}, edge={edge} ({left_out} left out)")
    print(f"{len(references)} cases, written to {cfg.output}")


def __getattr__(name: str) -> Any:
    if name == "evaluate_folder":
        from spineseg.metrics import folder

        return folder.evaluate_folder
    if name in ("Reference", "find_references"):
        from spineseg.metrics import references

        return getattr(references, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _shown(entry: dict[str, Any]) -> str:
    if entry["value"] is None:
        return str(entry["status"])
    ends = "" if entry["low"] is None else f"  [{entry['low']:.3f}, {entry['high']:.3f}]"
    text = f"{entry['value']:.3f}{ends}"
    if "found" in entry:  # a median over found levels means nothing without their share
        first, third = entry["quartiles"]
        text += f"  IQR {first:.3f} to {third:.3f} mm, {100 * entry['found']:.1f} % of the levels found"
    if "levels" in entry:
        text += f"  {entry['levels']:.1f} levels a case"
    if "scores" in entry:
        text += f"  scores {entry['scores']}"
    return f"{text}  n = {entry['subjects']}"


if __name__ == "__main__":
    main()
