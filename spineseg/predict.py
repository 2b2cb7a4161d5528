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

__all__ = ["main", "predict_scans"]

OUTPUTS = ("nifti", "json", "png")  # where the caller does not say


@program("predict")
def main(cfg: DictConfig) -> None:
    """Predict on a file or a folder of scans and say what was written."""
    from spineseg.predictions.oracles import ORACLES
    from spineseg.predictions.threshold import NAME as THRESHOLD

    check(cfg)
    if cfg.run == THRESHOLD:
        _baseline(cfg)
        return
    if cfg.run in ORACLES:
        _oracle(cfg)
        return
    from spineseg.data.inputs import find_scans
    from spineseg.metrics.references import is_simulated
    from spineseg.runs import find_run
    from spineseg.trained import load_models, origin

    runs = [find_run(name, Path(cfg.paths.runs)) for name in ([cfg.run] if isinstance(cfg.run, str) else cfg.run)]
    model = load_models(runs, cfg.checkpoint)
    scans = find_scans(
        Path(cfg.input),
        hu_offset=cfg.hu_offset,
        source_offset=model.hu_offset,
        memory_limit_gb=cfg.memory_limit_gb,
    )
    failures = predict_scans(
        model,
        scans,
        Path(cfg.output),
        trainer=cfg.trainer,
        convention=cfg.convention,
        outputs=tuple(cfg.outputs),
        memory_limit_gb=cfg.memory_limit_gb,
        labelling=cfg.labelling,
        provenance=origin(runs, model, cfg.checkpoint),
        simulated=is_simulated(Path(cfg.input)),
    )
    _report(cfg.output, len(scans), failures)


def _baseline(cfg: DictConfig) -> None:
    """Predict with the threshold baseline, which has no run."""
    from spineseg.data.inputs import find_scans
    from spineseg.metrics.references import is_simulated
    from spineseg.predictions.extras import Origin, check_outputs, write_extras
    from spineseg.predictions.threshold import NAME, predict_threshold

    scans = find_scans(Path(cfg.input), hu_offset=cfg.hu_offset, memory_limit_gb=cfg.memory_limit_gb)
    output, outputs = Path(cfg.output), tuple(cfg.outputs)
    check_outputs(outputs, scans, named=False)
    simulated = is_simulated(Path(cfg.input))
    failures = predict_threshold(scans, output, convention=cfg.convention, simulated=simulated)
    failures = write_extras(scans, output, outputs, failures, Origin(NAME, learned=False, simulated=simulated))
    _report(cfg.output, len(scans), failures)


def _oracle(cfg: DictConfig) -> None:
    """Predict with an oracle for the 2D way, which reads the references of a prepared source."""
    from spineseg.data.inputs import find_scans
    from spineseg.predictions.extras import Origin, check_outputs, write_extras
    from spineseg.predictions.oracles import find_prepared, find_settings, predict_oracle

    prepared = find_prepared(Path(cfg.input), cfg.run)
    settings = find_settings(cfg.pixel_mm, cfg.mask_ratio, cfg.like, Path(cfg.paths.runs))
    scans = find_scans(Path(cfg.input), memory_limit_gb=cfg.memory_limit_gb)
    output, outputs = Path(cfg.output), tuple(cfg.outputs)
    check_outputs(outputs, scans, named=prepared.open_source().labels == "levels")
    failures = predict_oracle(cfg.run, prepared, output, settings, convention=cfg.convention)
    origin = Origin(cfg.run, learned=False, simulated=prepared.simulated)
    failures = write_extras(scans, output, outputs, failures, origin)
    _report(cfg.output, len(scans), failures)


def _report(output: str, total: int, failures: dict[str, str]) -> None:
    from spineseg.errors import DataError

    print(f"{total - len(failures)} of {total} scans predicted in {output}")
    if failures:
        listed = "\n  ".join(f"{case}: {reason}" for case, reason in failures.items())
        raise DataError(f"{len(failures)} of {total} scans failed:\n  {listed}")


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
    labelling: bool = True,
    simulated: bool = False,
) -> dict[str, str]:
    """Predict on scans and write a predictions folder (CONTRACTS).

    Args:
        model: the network with all that belongs to it.
        scans: what to predict on.
        output: the predictions folder.
        trainer: hardware and precision, a ``lightning.Trainer`` node.
        provenance: what the caller knows; written to predictions.json.
        convention: of the label values in the NIfTI files.
        outputs: ``nifti`` always; ``json`` for the slice instances, ``png`` for an overlay, ``points`` for VerSe's file
            of body centres, ``dicom_seg`` for a DICOM segmentation.
        memory_limit_gb: for 3D networks, whose slabs are made to fit; None leaves it to the run.
        labelling: whether the objects of a scan get their levels together (``predictions.labelling``), or each as the
            network names it; no difference for a network of one class.
        simulated: whether `simulate` made the scans; those of a model that was trained on simulated ones count as such.

    Returns:
        The reason for each case that failed; the others are written.
    """
    from lightning import LightningModule
    from torch.utils.data import DataLoader

    from spineseg.callbacks.case_progress import CaseProgress
    from spineseg.callbacks.prediction_writer import CaseByCase, ScanWriter
    from spineseg.callbacks.volume_writer import VolumeWriter
    from spineseg.hardware import build_trainer
    from spineseg.metrics.detection import DEFAULT_SCORE_THRESHOLD
    from spineseg.predictions.extras import Origin, check_outputs, write_extras
    from spineseg.predictions.labelling import LabellingSettings
    from spineseg.predictions.store import PredictionWriter, SliceKind
    from spineseg.tasks.semantic import SemanticSegmentation
    from spineseg.tasks.semantic3d import SemanticSegmentation3D

    task = model.task
    prices = LabellingSettings() if labelling and task.levels else None
    said = "n/a" if not task.levels else "off" if prices is None else "on"
    check_outputs(outputs, scans, named=bool(task.levels))
    simulated = simulated or model.simulated
    kind: SliceKind = "label_map" if isinstance(task, SemanticSegmentation) else "detections"
    writer = PredictionWriter(
        output,
        provenance={**provenance, "labelling": said, "simulated": simulated, "overfit": model.overfit},
        score_threshold=model.score_threshold,
        slices=kind,
        label_convention=convention,
    )
    collector: ScanWriter | VolumeWriter
    module: LightningModule = task
    if isinstance(task, SemanticSegmentation3D):
        if memory_limit_gb is not None:
            task.inferer = replace(task.inferer, memory_limit_gb=memory_limit_gb)
        collector = VolumeWriter(
            writer, levels=task.levels, convention=convention, slices="json" in outputs, labelling=prices
        )
    else:
        module = CaseByCase(task)
        threshold = DEFAULT_SCORE_THRESHOLD if model.score_threshold is None else model.score_threshold
        collector = ScanWriter(
            writer,
            score_threshold=threshold,
            named=bool(task.levels),
            convention=convention,
            slices="json" in outputs,
            kind=kind,
            labelling=prices,
        )
    batches = DataLoader(model.datamodule.scan_batches(scans), batch_size=None)
    callbacks = [collector, CaseProgress(len(scans), collector.failures)]
    settings: dict[str, Any] = {
        "logger": False,
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "enable_progress_bar": False,
    }
    build_trainer(trainer, callbacks=callbacks, **settings).predict(module, batches, return_predictions=False)
    writer.close()
    origin = Origin(str(provenance.get("run", "")), simulated=simulated)
    return write_extras(scans, output, outputs, collector.failures, origin)


def draw_overlays(scans: Sequence["Scan"], predictions: Path, *, skip: Collection[str], simulated: bool) -> None:
    """Draw each scan with its label map beside the predictions, ``<case>.png``."""
    from spineseg.predictions.extras import draw_overlay
    from spineseg.predictions.store import open_predictions

    folder = open_predictions(predictions)
    for scan in scans:
        if scan.case not in skip:
            draw_overlay(scan, folder.read(scan.case), predictions, simulated=simulated)


if __name__ == "__main__":
    main()
