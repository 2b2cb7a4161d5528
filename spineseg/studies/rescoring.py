"""Ablations that need no training: a trained run predicts its split anew, in another way, and is scored anew."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from spineseg.errors import ConfigError, DataError
from spineseg.runs import Run, read_config
from spineseg.scoring import predict_and_evaluate
from spineseg.tasks.semantic3d import SemanticSegmentation3D
from spineseg.trained import load_model


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
        DataError: a split without a case, or a scan that could not be predicted.
    """
    evaluation = output / "evaluation"
    if not (evaluation / "summary.json").is_file():
        model, cfg = load_model(run), read_config(run)
        if mirror_axes is not None:
            if not isinstance(model.task, SemanticSegmentation3D):
                raise ConfigError(
                    f"{run.root}: mirror_axes={list(mirror_axes)}: 3D networks only, this one reads slices"
                )
            model.task.inferer = replace(model.task.inferer, mirror_axes=tuple(mirror_axes))
        scored = predict_and_evaluate(
            model,
            split,
            output / "predictions",
            evaluation,
            run=run.name,
            trainer=cfg.trainer,
            seed=int(cfg.seed),
            labelling=labelling,
        )
        if scored is None:
            raise DataError(f"{run.root}: its split {split} has no case")
    return pd.read_csv(evaluation / "metrics.csv", keep_default_na=False, na_values={"value": ["", "nan"]})
