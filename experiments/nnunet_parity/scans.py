"""The same scans for both: simulated, split, planned by nnU-Net, and preprocessed by each in its own way."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

from recipe import Recipe, our_config, shrunk

from spineseg.config import compose
from spineseg.data.preparation import prepare_source
from spineseg.data.prepared import Prepared, read_prepared
from spineseg.data.sources import Source
from spineseg.data.splits import Split, read_split_file
from spineseg.geometry import canonical
from spineseg.models.nnunet import nnunet_folders, plan
from spineseg.models.nnunet_raw import data_set_name
from spineseg.models.nnunet_settings import PlannedSettings, settings_of
from spineseg.targets import build
from spineseg.volumes import write_volume


def simulate(recipe: Recipe, work: Path) -> dict[str, Any]:
    """Six small scans, unless a set is given."""
    if recipe.scans is None:
        from spineseg.simulate import main

        output = work / "data" / "simulated" / "kaggle"
        main(compose("simulate", ["layout=kaggle", "size=small", "cases=6", f"output={output}", "workers=1"]))
    return {}


def source_of(recipe: Recipe, work: Path) -> Source:
    """The set."""
    return build(our_config_source(recipe, work), Source)  # type: ignore[type-abstract]


def our_config_source(recipe: Recipe, work: Path) -> Any:
    """The node of the source."""
    return our_config(recipe, work).data.source


def opened(recipe: Recipe, work: Path) -> tuple[Prepared, Source, Split]:
    """Prepared cases, their source and the split: half for training, a sixth for validation, the rest for the test."""
    source = source_of(recipe, work)
    folder = prepare_source(
        source, prepared_root=work / "prepared", spacing_mm=(recipe.spacing_mm,) * 3, split_seed=0, workers=1
    )
    prepared = read_prepared(folder)
    file = work / "split.json"
    if not file.is_file():
        ids = sorted(case.id for case in prepared.cases if case.label is not None)
        first, second = len(ids) // 2, len(ids) // 2 + max(1, len(ids) // 6)
        parts = {"train": ids[:first], "val": ids[first:second], "test": ids[second:]}
        file.write_text(json.dumps({"format": "split 1", **parts}))
    return prepared, source, read_split_file(file, prepared.cases)


def prepare(recipe: Recipe, work: Path) -> dict[str, Any]:
    """Plan, make the plan small, and let nnU-Net preprocess for it."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    prepared, source, split = opened(recipe, work)
    theirs = work / "nnunet"
    planned = plan(prepared, source, split, work=theirs, foreground_voxels=1_000_000)
    settings = settings_of(shrunk(planned.plans, recipe))
    settings.write(work / "settings.json")
    name = data_set_name(source)
    preprocessed = theirs / "nnUNet_preprocessed" / name
    (preprocessed / "nnUNetPlans.json").write_text(json.dumps(settings.plans))
    with (
        nnunet_folders(theirs),
        (work / "jobs" / "preprocessing.log").open("w") as log,
        contextlib.redirect_stdout(log),
    ):
        DefaultPreprocessor(verbose=False).run(name, "3d_fullres", "nnUNetPlans", num_processes=1)
    shutil.copy(theirs / "nnUNet_raw" / name / "dataset.json", preprocessed / "dataset.json")
    for case in split.test:
        image = canonical(source.read_image(prepared.case(case)))
        write_volume(theirs / "test" / f"{case}_0000.nii.gz", image)
    return {
        "planned_patch": planned.patch_size,
        "planned_batch": planned.batch_size,
        "planned_spacing_mm": planned.spacing_mm,
        **{part: list(getattr(split, part)) for part in ("train", "val", "test")},
    }


def settings(work: Path) -> PlannedSettings:
    """The small plan."""
    return PlannedSettings.read(work / "settings.json")
