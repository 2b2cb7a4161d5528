"""What nnU-Net's planner decides for a recipe, written into its configuration before a run begins.

A run's ``config.yaml`` then holds every number, so that nothing is planned again to resume it or to predict with it.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from spineseg.data.files import locked
from spineseg.data.preparation import prepare_source
from spineseg.data.prepared import read_prepared
from spineseg.data.sources import Source
from spineseg.data.store import as_spacing
from spineseg.errors import ConfigError
from spineseg.models.nnunet import plan
from spineseg.models.nnunet_settings import PlannedSettings
from spineseg.targets import build, plain


def planned(cfg: DictConfig) -> tuple[DictConfig, PlannedSettings]:
    """Fill the keys that are null with what the plan settles; keys with a value win over the plan.

    Args:
        cfg: root configuration of ``train`` with a ``planner`` node: the keyword arguments of ``plan``.

    Returns:
        The configuration, and the plan as nnU-Net's own programs need it.

    Raises:
        ConfigError: a key that the plan settles and the recipe does not have.
    """
    source = build(cfg.data.source, Source)  # type: ignore[type-abstract]
    folder = prepare_source(
        source,
        prepared_root=Path(cfg.data.prepared_root),
        spacing_mm=as_spacing(plain(cfg.data.spacing_mm)),
        split_seed=cfg.data.split_seed,
    )
    prepared = read_prepared(folder)
    chosen = {key: cfg.data[key] for key in ("fold", "split_file", "overfit", "train_subjects")}
    split = prepared.split(**chosen)
    work = folder.with_name(f"{folder.name}-nnunet-plans")
    work.mkdir(exist_ok=True)
    with locked(work / ".lock", "plans"):  # several training processes ask for one plan
        print(f"nnU-Net's planner plans in {work}", flush=True)
        spacing = as_spacing(plain(cfg.data.spacing_mm))
        # A patch, kernels and strides for another spacing than the data's would not fit them.
        given = None if None in spacing else spacing
        settings = plan(prepared, source, split, work=work, spacing_mm=given, **plain(cfg.planner))  # type: ignore[arg-type]
    with open_dict(cfg):
        for key, value in settings.keys().items():
            parent = OmegaConf.select(cfg, key.rpartition(".")[0])
            if parent is None:
                raise ConfigError(f"{key}: the planner settles it, but the recipe has no {key.rpartition('.')[0]}")
            if parent.get(key.rpartition(".")[2]) is None:
                OmegaConf.update(cfg, key, value, force_add=True)
    check_patch(cfg.data.patch_size, cfg.model.architecture.kwargs.strides)
    return cfg, settings


def check_patch(patch_size: Sequence[int], strides: Sequence[Sequence[int]]) -> None:
    """Refuse a patch of one's own that the planned network cannot halve as often as it does.

    >>> check_patch([32, 64, 96], [[1, 1, 1], [2, 2, 2], [1, 2, 2]])
    """
    steps = [math.prod(stage[axis] for stage in strides) for axis in range(3)]
    if any(size % step for size, step in zip(patch_size, steps, strict=True)):
        raise ConfigError(
            f"data.patch_size={list(patch_size)}: expected multiples of {steps}, by which the planned network "
            "shrinks a patch along x, y, z; or null, which takes the planned one"
        )
