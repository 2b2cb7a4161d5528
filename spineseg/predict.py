"""The program ``predict``: a trained run on scans, every native sagittal slice, lifted to a label map."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from spineseg.config import check, program

if TYPE_CHECKING:
    from spineseg.data.scans import Scan
    from spineseg.trained import TrainedModel

__all__ = ["find_scans", "main", "predict_scans"]

OUTPUTS = ("nifti", "json", "png")


@program("predict")
def main(cfg: DictConfig) -> None:
    """Predict on a file or a folder of scans and say what was written."""
    from spineseg.predictions.threshold import NAME as THRESHOLD

    check(cfg)
    if cfg.run == THRESHOLD:
        _baseline(cfg)
        return
    from spineseg.runs import find_run
    from spineseg.trained import load_model

    run = find_run(cfg.run, Path(cfg.paths.runs))
    model = load_model(run, cfg.checkpoint)
    scans = find_scans(Path(cfg.input), hu_offset=cfg.hu_offset, source_offset=model.hu_offset)
    failures = predict_scans(
        model,
        scans,
        Path(cfg.output),
        trainer=cfg.trainer,
        convention=cfg.convention,
        outputs=tuple(cfg.outputs),
        memory_limit_gb=cfg.memory_limit_gb,
        provenance={"run": run.name, "checkpoint": cfg.checkpoint},
    )
    _report(cfg.output, len(scans), failures)


def _baseline(cfg: DictConfig) -> None:
    """Predict with the threshold baseline, which has no run."""
    from spineseg.predictions.threshold import predict_threshold

    scans = find_scans(Path(cfg.input), hu_offset=cfg.hu_offset)
    output = Path(cfg.output)
    failures = predict_threshold(scans, output, convention=cfg.convention)
    if "png" in cfg.outputs:
        draw_overlays(scans, output, skip=failures, simulated=False)
    _report(cfg.output, len(scans), failures)


def _report(output: str, total: int, failures: dict[str, str]) -> None:
    from spineseg.errors import DataError

    print(f"{total - len(failures)} of {total} scans predicted in {output}")
    if failures:
        listed = "\n  ".join(f"{case}: {reason}" for case, reason in failures.items())
        raise DataError(f"{len(failures)} of {total} scans failed:\n  {listed}")


def find_scans(where: Path, *, hu_offset: float | None = None, source_offset: float = 0) -> list["Scan"]:
    """A volume, all volumes of a folder, or a prepared source's cases, as scans in HU.

    The case's id is the file's name, or its folder's. In a folder, files named as masks are left out, with a note.

    Args:
        where: a file, a folder, or the ``cases.csv`` that ``prepare`` wrote.
        hu_offset: of plain files, see ``read_scan``; a prepared source knows its own.
        source_offset: that of the data the network was trained on.

    Raises:
        DataError: there is none, or two have the same id.
        ConfigError: ``hu_offset`` for a prepared source.
    """
    from functools import partial

    from spineseg.data.prepared import read_prepared
    from spineseg.data.scans import Scan, read_scan
    from spineseg.errors import ConfigError, DataError
    from spineseg.volumes import is_volume, stem

    if where.name == "cases.csv" or (where / "cases.csv").is_file():
        if hu_offset is not None:
            raise ConfigError(
                f"hu_offset={hu_offset:g}: {where} is a prepared source, which knows its own; leave it out"
            )
        prepared = read_prepared(where if where.is_dir() else where.parent)
        source = prepared.open_source()
        return [Scan(case.id, partial(source.read_image, case)) for case in prepared.cases]
    read = partial(read_scan, hu_offset=hu_offset, source_offset=source_offset)
    if where.is_file():
        return [Scan(stem(where), partial(read, where))]
    every = [p for p in where.rglob("*") if is_volume(p) and not p.name.startswith(".")] if where.is_dir() else []
    masks = sorted(path for path in every if _is_mask(path))
    found = sorted(set(every) - set(masks))
    if not found:
        only = f" but what is named as masks are ({masks[0].name}, …)" if masks else ""
        raise DataError(
            f"{where}: no volume there{only}; expected a NIfTI, MetaImage or NRRD file, or a folder of them"
        )
    if masks:
        listed = ", ".join(str(path.relative_to(where)) for path in masks[:5]) + (", …" if len(masks) > 5 else "")
        print(f"note: left out, for their names are those of masks ({len(masks)}): {listed}")
    names = [stem(path) for path in found]
    # Folders of one scan each (sub-01/ct.nii.gz) are told apart by the folder.
    if len(set(names)) < len(names):
        names = [path.parent.name for path in found]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"{where}: two volumes would be called {', '.join(twice)}; predict them one by one")
    return [Scan(name, partial(read, path)) for name, path in zip(names, found, strict=True)]


def _is_mask(path: Path) -> bool:
    from spineseg.data.sources.folder import MASK_NAMES, MASK_SUFFIXES
    from spineseg.volumes import stem

    name = stem(path).lower()
    return name in MASK_NAMES or name.endswith((*MASK_SUFFIXES, "_msk"))


def predict_scans(
    model: "TrainedModel",
    scans: Sequence["Scan"],
    output: Path,
    *,
    trainer: Any,
    provenance: dict[str, Any],
    convention: str = "verse",
    outputs: Sequence[str] = OUTPUTS,
    memory_limit_gb: float | None = None,
) -> dict[str, str]:
    """Predict on scans and write a predictions folder (CONTRACTS).

    Args:
        model: the network with all that belongs to it.
        scans: what to predict on.
        output: the predictions folder.
        trainer: hardware and precision, a ``lightning.Trainer`` node.
        provenance: what the caller knows; written to predictions.json.
        convention: of the label values in the NIfTI files.
        outputs: ``nifti`` always; ``json`` for the slice instances, ``png`` for an overlay.
        memory_limit_gb: for 3D networks, whose slabs are made to fit; None leaves it to the run.

    Returns:
        The reason for each case that failed; the others are written.
    """
    from torch.utils.data import DataLoader

    from spineseg.callbacks.prediction_writer import ScanWriter
    from spineseg.callbacks.progress import Progress
    from spineseg.callbacks.volume_writer import VolumeWriter
    from spineseg.errors import ConfigError
    from spineseg.hardware import build_trainer
    from spineseg.metrics.detection import DEFAULT_SCORE_THRESHOLD
    from spineseg.predictions.store import PredictionWriter, SliceKind
    from spineseg.tasks.semantic import SemanticSegmentation
    from spineseg.tasks.semantic3d import SemanticSegmentation3D

    if "nifti" not in outputs or set(outputs) - set(OUTPUTS):
        raise ConfigError(f"outputs={list(outputs)}: expected nifti, and json or png if wanted")
    task = model.task
    kind: SliceKind = "label_map" if isinstance(task, SemanticSegmentation) else "detections"
    writer = PredictionWriter(
        output,
        provenance={**provenance, "simulated": model.simulated, "overfit": model.overfit},
        score_threshold=model.score_threshold,
        slices=kind,
        label_convention=convention,
    )
    collector: ScanWriter | VolumeWriter
    if isinstance(task, SemanticSegmentation3D):
        if memory_limit_gb is not None:
            task.inferer = replace(task.inferer, memory_limit_gb=memory_limit_gb)
        collector = VolumeWriter(writer, levels=task.levels, convention=convention, slices="json" in outputs)
    else:
        threshold = DEFAULT_SCORE_THRESHOLD if model.score_threshold is None else model.score_threshold
        collector = ScanWriter(
            writer,
            score_threshold=threshold,
            named=bool(task.levels),
            convention=convention,
            slices="json" in outputs,
            kind=kind,
        )
    batches = DataLoader(model.datamodule.scan_batches(scans), batch_size=None)
    build_trainer(trainer, callbacks=[collector, Progress()], logger=False, devices=1, strategy="auto").predict(
        task, batches, return_predictions=False
    )
    writer.close()
    if "png" in outputs:
        draw_overlays(scans, output, skip=collector.failures, simulated=model.simulated)
    return collector.failures


def draw_overlays(scans: Sequence["Scan"], predictions: Path, *, skip: Collection[str], simulated: bool) -> None:
    """Draw each scan with its label map beside the predictions, ``<case>.png``."""
    from spineseg.predictions.store import open_predictions
    from spineseg.reporting.overlay import write_overlay

    folder = open_predictions(predictions)
    for scan in scans:
        if scan.case in skip:
            continue
        found = folder.read(scan.case)
        title = f"{scan.case}{', model of SIMULATED scans' if simulated else ''}"
        write_overlay(
            predictions / f"{scan.case}.png", scan.read(), found.labels, named=found.kind == "levels", title=title
        )


if __name__ == "__main__":
    main()
