"""Where a run's numbers come from: what it saw, and whether another run may build on it."""

import json
from typing import Any

import lightning
from omegaconf import DictConfig

from spineseg.data.files import sha256_of_text
from spineseg.data.loading import CaseDataModule
from spineseg.errors import DataError
from spineseg.models.flops import forward_flops
from spineseg.provenance import read_provenance, subjects_seen
from spineseg.runs import Run
from spineseg.trained import Task


def facts(cfg: DictConfig, datamodule: CaseDataModule, task: Task, trainer: lightning.Trainer) -> dict[str, Any]:
    """What provenance.json cannot find out by itself."""
    prepared = datamodule.prepared
    return {
        "seed": int(cfg.seed),
        "fold": None if datamodule.overfit or datamodule.split_file else datamodule.fold,
        "precision": str(trainer.precision),
        "devices": trainer.num_devices * trainer.num_nodes,
        "simulated": prepared.simulated,
        "overfit": datamodule.overfit,
        "data": prepared.root.name,
        "exclusions": prepared.exclusions.note,
        **hashes(datamodule),
        "train_subjects": _subjects(datamodule, "train"),
        "parameters": sum(parameter.numel() for parameter in task.net.parameters()),
        "flops": forward_flops(task.net, datamodule.input_shape),
        "flops_of": list(datamodule.input_shape),
        "classes": list(task.classes),
    }


def hashes(datamodule: CaseDataModule) -> dict[str, str]:
    """SHA-256 of the cases and their content, and of the split that is used."""
    split = datamodule.split()
    parts = {name: list(getattr(split, name)) for name in ("train", "val", "test")}
    cases = (datamodule.prepared.root / "cases.csv").read_text(encoding="utf-8")
    return {"data_hash": sha256_of_text(cases), "split_hash": sha256_of_text(json.dumps(parts))}


def check_same_data(run: Run, datamodule: CaseDataModule) -> None:
    """Refuse to resume a run on other data or another split than it began with."""
    known, found = read_provenance(run), hashes(datamodule)
    for name, what in (("data_hash", "the data set"), ("split_hash", "the split")):
        if known.get(name) not in (None, found[name]):
            raise DataError(
                f"{run.root}: {what} has changed since this run began ({name} {str(known[name])[:12]}…, now "
                f"{found[name][:12]}…); its numbers would be of two. Bring the files back, or start a new run"
            )


def check_ancestor(run: Run, datamodule: CaseDataModule) -> None:
    """Refuse weights of a run that was trained on subjects which this run validates or tests on."""
    shared = sorted(
        subjects_seen(read_provenance(run)) & {*_subjects(datamodule, "val"), *_subjects(datamodule, "test")}
    )
    if shared:
        raise DataError(
            f"init_from={run.root}: that run was trained on {', '.join(shared)}, which this run validates or tests on; "
            "use the same data.fold and split_seed, or another run"
        )


def seen_subjects(datamodule: CaseDataModule, ancestor: Run | None) -> list[str]:
    """What a run to be will have seen: its own training subjects, and what its ancestor has."""
    before = subjects_seen(read_provenance(ancestor)) if ancestor is not None else set()
    return sorted({*_subjects(datamodule, "train"), *before})


def _subjects(datamodule: CaseDataModule, part: str) -> list[str]:
    """Subjects of a part of the split, with their source: ``csi2014:case1`` is not another set's ``case1``."""
    ids = set(getattr(datamodule.split(), part))
    return sorted({f"{case.source}:{case.subject}" for case in datamodule.prepared.cases if case.id in ids})
