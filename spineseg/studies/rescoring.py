"""Ablations that need no training: a trained run predicts its split anew, in another way, and is scored anew."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from spineseg.errors import ConfigError, DataError
from spineseg.runs import Run, read_config


def find_trained(folder: Path) -> list[Run]:
    """Runs with a best checkpoint below a folder of runs or of a study, each once.

    Raises:
        DataError: there is none.
    """
    roots = {path.resolve().parents[1] for path in folder.rglob("checkpoints/best.ckpt")}
    if not roots:
        raise DataError(f"{folder}: no run with checkpoints/best.ckpt below it; `python -m spineseg.train` makes one")
    return [Run(root) for root in sorted(roots)]


def rescore(
    run: Run,
    output: Path,
    *,
    split: str = "test",
    labelling: bool = True,
    mirror_axes: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Predict and score a split with a run's best weights; what lies in ``output`` already is read.

    Args:
        run: trained.
        output: gets ``predictions`` and ``evaluation``.
        split: ``train``, ``val`` or ``test``.
        labelling: as in ``predict``.
        mirror_axes: of ``x``, ``y`` and ``z``, for test-time mirroring of 3D networks; None leaves it to the run.

    Returns:
        Rows of ``metrics.csv``.

    Raises:
        ConfigError: mirroring of a network of slices.
        DataError: a scan that could not be predicted.
    """
    evaluation = output / "evaluation"
    if not (evaluation / "summary.json").is_file():
        _predict_and_evaluate(run, output, split, labelling=labelling, mirror_axes=mirror_axes)
    return pd.read_csv(evaluation / "metrics.csv", keep_default_na=False, na_values={"value": ["", "nan"]})


def _predict_and_evaluate(
    run: Run, output: Path, split: str, *, labelling: bool, mirror_axes: Sequence[str] | None
) -> None:
    from spineseg.data.scans import Scan
    from spineseg.metrics.folder import evaluate_folder
    from spineseg.metrics.references import case_reference
    from spineseg.predict import predict_scans
    from spineseg.tasks.semantic3d import SemanticSegmentation3D
    from spineseg.trained import load_model

    model, cfg = load_model(run), read_config(run)
    if mirror_axes is not None:
        if not isinstance(model.task, SemanticSegmentation3D):
            raise ConfigError(f"{run.root}: mirror_axes={list(mirror_axes)} is for 3D networks, this one reads slices")
        model.task.inferer = replace(model.task.inferer, mirror_axes=tuple(mirror_axes))
    datamodule = model.datamodule
    source = datamodule.source
    cases = [datamodule.prepared.case(case) for case in getattr(datamodule.split(), split)]
    failures = predict_scans(
        model,
        [Scan(case.id, partial(source.read_image, case)) for case in cases],
        output / "predictions",
        trainer=cfg.trainer,
        outputs=("nifti", "json"),
        labelling=labelling,
        provenance={"run": run.name, "split": split},
    )
    if failures:
        raise DataError(f"{run.root}: not predicted: {failures}")
    evaluate_folder(
        [case_reference(source, case) for case in cases],
        output / "predictions",
        output / "evaluation",
        edge=source.edge,
        run=run.name,
        split=split,
        simulated=model.simulated,
        seed=int(cfg.seed),
        fold=datamodule.fold,
    )
