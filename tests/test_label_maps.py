"""The label-map recipes end to end on a tiny set: train, score, load again, and two processes that validate as one."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from spineseg.config import compose
from spineseg.runs import find_run, read_config
from spineseg.volumes import read_grid, read_volume

ValidatedByTwo = Callable[[list[str], Path], tuple[dict[str, float], dict[str, float]]]
TINY = [
    "+preset=quick",
    "data/source=folder",
    "data.fold=2",  # the hash gives five subjects no case in folds 0 and 1
    "data.batch_size=2",
    "data.workers=0",
    "trainer.max_epochs=2",
    "trainer.check_val_every_n_epoch=1",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "trainer.log_every_n_steps=1",
    "logger.wandb.mode=disabled",
]
PATCHES = [
    "data.spacing_mm=[3,4,4]",
    "data.patch_size=[16,16,16]",
    "data.epoch_patches=4",
    "data.validation_cases=2",
    "callbacks.volume_panels.every_n_epochs=1",
]
RECIPES = {
    "unet2d_csi": ["data.pixel_mm=2", "data.image_size=[64,64]", "data.epoch_slices=8", "model.features=[8,8,8,8,8]"],
    "unet_csi": [*PATCHES, "model.features=[8,8,8]", "model.strides=[2,2]"],
    "nnunet_csi": [*PATCHES, "planner.base_features=4", "planner.max_features=8"],
}


def arguments(recipe: str, scans: Path, work: Path) -> list[str]:
    places = [f"data.source.root={scans}", f"paths.prepared={work / 'prepared'}", f"paths.runs={work / 'runs'}"]
    return [f"+experiment={recipe}", *TINY, *RECIPES[recipe], *places]


@pytest.fixture(scope="module", params=RECIPES)
def trained(request: pytest.FixtureRequest, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder."""
    from spineseg.train import main

    work = tmp_path_factory.mktemp(request.param)
    main(compose("train", arguments(request.param, scans, work)))
    return find_run(work / "runs" / "csi2014" / request.param).root


def test_a_run_is_complete_and_named(trained: Path) -> None:
    run = find_run(trained)
    metrics = json.loads(run.results.read_text())["splits"]["test"]
    for name in ("dice", "dice_spine", "mask_map50", "mask_map50_named", "pq"):
        assert 0 <= metrics[name]["value"] <= 1, name
    assert metrics["mask_map50_native"] == {"value": None, "status": "n/a"}
    assert list((trained / "panels").glob("*.png")) and run.best.is_file()
    with run.log.open() as stream:
        names = {row["name"] for row in csv.DictReader(stream)}
    assert {"train/loss", "val/dice", "val/dice_L3", "val/mask_map50", "train/iterations_per_second"} <= names


def test_predictions_lie_on_the_native_grid_and_are_made_again_by_a_loaded_model(
    trained: Path, scans: Path, tmp_path: Path
) -> None:
    from spineseg.predict import main

    folder = find_run(trained).predictions("test")
    (path, *_) = sorted(folder.glob("*.nii.gz"))
    case = path.name.removesuffix(".nii.gz")
    assert json.loads((folder / "predictions.json").read_text())["slices"] == "label_map"
    native = read_grid(scans / case / "ct.nii.gz")
    np.testing.assert_array_equal(read_grid(path).affine, native.affine)
    hardware = ["trainer.accelerator=cpu", "trainer.precision=32-true"]
    given = [f"run={trained}", f"input={scans / case}/ct.nii.gz", f"output={tmp_path}", *hardware]
    main(compose("predict", given))
    np.testing.assert_array_equal(read_volume(tmp_path / "ct.nii.gz").array, read_volume(path).array)
    earlier, again = (
        json.loads(file.read_text())["slices"] for file in (folder / f"{case}.json", tmp_path / "ct.json")
    )
    assert earlier == again


def test_rescoring_repeats_the_scores_and_reads_what_is_there(trained: Path, tmp_path: Path) -> None:
    import pandas as pd

    from spineseg.errors import ConfigError, DataError
    from spineseg.studies.rescoring import find_trained, rescore

    (run,) = find_trained(trained)
    found = rescore(run, tmp_path)
    kept = pd.read_csv(run.evaluation("test") / "metrics.csv", keep_default_na=False, na_values={"value": ["", "nan"]})
    pd.testing.assert_frame_equal(found, kept)
    written = (tmp_path / "evaluation" / "summary.json").stat().st_mtime_ns
    rescore(run, tmp_path)
    assert (tmp_path / "evaluation" / "summary.json").stat().st_mtime_ns == written
    with pytest.raises(DataError, match="no run with"):
        find_trained(tmp_path)
    if "unet2d" in trained.parts[-2]:
        with pytest.raises(ConfigError, match="3D networks only"):
            rescore(run, tmp_path / "mirrored", mirror_axes=["x"])


def write_scan(path: Path, shape: tuple[int, int, int], *, shear: float = 0.0, bad: float | None = None) -> None:
    """Air with a bright block; ``shear`` is the x that a voxel along z moves by, of 3 mm."""
    hu = np.full(shape, -1000, np.float32)
    hu[tuple(slice(n // 4, max(1, n // 4 + n // 2)) for n in shape)] = 400
    if bad is not None:
        hu.flat[0] = bad
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[0, 2] = shear
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(hu, affine), path)


def test_hostile_scans_are_predicted_or_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from spineseg.errors import DataError
    from spineseg.predict import main

    scans = tmp_path / "scans"
    whole = {"smaller": (5, 6, 7), "thin_x": (1, 30, 30), "thin_y": (30, 1, 30), "thin_z": (30, 30, 1)}
    for name, shape in whole.items():
        write_scan(scans / f"{name}.nii.gz", shape)
    write_scan(scans / "rounded.nii.gz", (9, 30, 30), shear=1e-5)
    write_scan(scans / "nan.nii.gz", (9, 30, 30), bad=np.nan)
    write_scan(scans / "sheared.nii.gz", (9, 30, 30), shear=1.5)
    hardware = ["trainer.accelerator=cpu", "trainer.precision=32-true"]
    given = [f"run={trained}", f"input={scans}", f"output={tmp_path / 'found'}", *hardware]
    with pytest.raises(DataError) as refused:
        main(compose("predict", given))
    said = str(refused.value)
    assert "nan: " in said and "finite" in said
    assert "sheared: " in said and "°" in said
    for name in (*whole, "rounded"):
        assert f"{name}: " not in said
        found, native = (read_grid(folder / f"{name}.nii.gz") for folder in (tmp_path / "found", scans))
        assert found.shape == native.shape
        np.testing.assert_array_equal(found.affine, native.affine)


def test_a_scan_beyond_the_memory_is_refused_with_a_forecast(trained: Path, tmp_path: Path) -> None:
    from spineseg.errors import DataError
    from spineseg.predict import main

    if "unet2d" in str(trained):
        return  # slices need no more for a longer scan
    write_scan(tmp_path / "long.nii.gz", (40, 60, 400))
    given = [f"run={trained}", f"input={tmp_path / 'long.nii.gz'}", f"output={tmp_path / 'found'}"]
    with pytest.raises(DataError, match=r"long: .*memory_limit_gb"):
        main(compose("predict", [*given, "memory_limit_gb=0.005", "trainer.accelerator=cpu"]))


def test_a_run_holds_what_was_planned(trained: Path) -> None:
    cfg = read_config(find_run(trained))
    assert ("architecture" in cfg.model) == (trained / "nnunet.json").is_file()
    assert cfg.model.get("architecture", {}) is not None


@pytest.mark.parametrize("recipe", ["unet2d_csi", "unet_csi"])
def test_two_processes_validate_as_one(
    recipe: str, scans: Path, tmp_path: Path, validated_by_two: ValidatedByTwo
) -> None:
    settings = [
        *arguments(recipe, scans, tmp_path),
        "trainer.max_epochs=1",
        "trainer.num_sanity_val_steps=0",
        "score_splits=[]",
    ]
    logged, alone = validated_by_two(settings, tmp_path / "runs")
    assert {"val/dice", "val/mask_map50"} <= logged.keys()
    assert logged == alone
