"""Oracles of the 2D way: what they keep and lose, the training targets' own masks, and the program."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from spineseg.data.preparation import prepare_source
from spineseg.data.sources.folder import Folder
from spineseg.errors import ConfigError, DataError
from spineseg.geometry import Volume, canonical
from spineseg.metrics.overlap import confusion
from spineseg.predictions.masks import decode
from spineseg.predictions.oracles import (
    ORACLES,
    OracleSettings,
    find_prepared,
    find_settings,
    lifted_levels,
    oracle_slices,
    predict_oracle,
)
from spineseg.predictions.slicing import slice_labels
from spineseg.predictions.store import PredictionWriter, open_predictions
from spineseg.runs import CONFIG_FORMAT
from spineseg.vertebrae import convention, relabel
from spineseg.volumes import read_volume, write_volume

LEVELS = (20, 21, 22)


def column(spacing: tuple[float, float, float]) -> Volume:
    """Three rounded blocks with a hole (the canal), one above the other."""
    shape = tuple(round(mm / step) for mm, step in zip((40, 60, 120), spacing, strict=True))
    x, y, z = (np.arange(n) * step for n, step in zip(shape, spacing, strict=True))
    labels = np.zeros(shape, np.uint8)
    for n, level in enumerate(LEVELS):
        away = [
            ((x - 20) / 16)[:, None, None],
            ((y - 30) / 22)[None, :, None],
            ((z - 100 + 34 * n) / 14)[None, None, :],
        ]
        inside = sum(part**4 for part in away) < 1
        hole = (away[0] ** 2 * 9 + ((y - 42)[None, :, None] / 6) ** 2 < 1) & np.ones(shape, bool)
        labels[inside & ~hole] = level
    return Volume(labels, np.diag([*spacing, 1.0]))


def dice(volume: Volume, name: str, settings: OracleSettings) -> dict[int, float]:
    slices = oracle_slices(name, volume, settings)  # type: ignore[arg-type]
    pairs = confusion(volume.array, lifted_levels(slices, volume.shape))
    return {level: pairs.dice_of(level) for level in LEVELS}


@pytest.mark.parametrize("spacing", [(1.0, 0.5, 0.5), (1.5, 1.5, 1.5)])
def test_native_is_the_identity_and_coarser_masks_cost_more(spacing: tuple[float, float, float]) -> None:
    volume = column(spacing)
    native, pixel, mask = (dice(volume, name, OracleSettings(pixel_mm=1.0)) for name in ORACLES)
    assert set(native.values()) == {1.0}
    for level in LEVELS:
        # Where network pixels are finer than the scan's own they lose nothing.
        assert mask[level] < pixel[level] <= 1 and (pixel[level] < 1) == (spacing[1] < 1)
        assert pixel[level] > 0.95 and mask[level] > 0.8
    finer, finer_mask = (dice(volume, name, OracleSettings(pixel_mm=0.5)) for name in ORACLES[1:])
    assert all(finer[level] >= pixel[level] and finer_mask[level] > mask[level] for level in LEVELS)


def test_at_the_scans_own_pixels_nothing_is_lost() -> None:
    volume = column((2.0, 1.0, 1.0))
    assert set(dice(volume, "oracle_pixel", OracleSettings(pixel_mm=1.0)).values()) == {1.0}


def test_masks_are_the_training_targets() -> None:
    """Mask pixels that a network is trained on, drawn by the detector's own code from logits of ±1."""
    torch = pytest.importorskip("torch")
    from spineseg.geometry import resample_labels
    from spineseg.models.detections import SliceDetections, draw_on
    from spineseg.models.yolo import mask_targets

    volume = column((2.0, 0.7, 0.9))
    network = resample_labels(volume, (None, 1.0, 1.0)).array
    x = network.shape[0] // 2
    padded = np.pad(network[x], [(0, -side % 32) for side in network[x].shape])
    targets = mask_targets(torch.from_numpy(padded)[None])[0].numpy()
    (found,) = [s for s in oracle_slices("oracle_mask", volume, OracleSettings()) if s.index == x]
    assert found.levels.tolist() == list(LEVELS)
    for level, rle in zip(found.levels, found.masks, strict=True):
        rows, columns = (np.flatnonzero((network[x] == level).any(axis=axis)) for axis in (1, 0))
        box = [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]
        perfect = SliceDetections(
            boxes=torch.tensor([box]),
            scores=torch.ones(1),
            classes=torch.zeros(1, dtype=torch.int64),
            distributions=torch.ones(1, 1),
            coefficients=torch.ones(1, 1),
            prototypes=torch.from_numpy((targets == level).astype(np.float32) * 2 - 1)[None],
        )
        _, crops = draw_on(perfect, (volume.shape[1], volume.shape[2]), (0.7, 0.9))
        crop, (y0, z0) = crops[0]
        expected = np.zeros(volume.shape[1:], bool)
        expected[y0 : y0 + crop.shape[0], z0 : z0 + crop.shape[1]] = crop
        np.testing.assert_array_equal(decode(rle), expected)


def test_no_pixel_is_given_twice() -> None:
    volume = column((2.0, 0.6, 0.6))
    touching = volume.with_array(
        np.where(volume.array > 0, np.where(np.arange(volume.shape[2]) < 110, 21, 20), 0).astype(np.uint8)
    )
    for name in ORACLES:
        for s in oracle_slices(name, touching):
            assert np.sum([decode(rle) for rle in s.masks], axis=0).max(initial=0) <= 1


def test_an_empty_case_has_empty_slices() -> None:
    empty = Volume(np.zeros((3, 20, 30), np.uint8), np.diag([3.0, 0.7, 0.7, 1.0]))
    for name in ORACLES:
        slices = oracle_slices(name, empty)
        assert [s.index for s in slices] == [0, 1, 2] and not any(len(s) for s in slices)
        assert not lifted_levels(slices, empty.shape).any()


def test_a_real_spine(real_ct: Path) -> None:
    rule = convention("totalsegmentator_v2")
    native = read_volume(real_ct / "chest_1p5mm" / "vertebrae.nii.gz")
    labels = native.with_array(relabel(native.array, rule.table, what="chest", drop=rule.other))
    volume = canonical(labels)
    volume = Volume(np.ascontiguousarray(volume.array), volume.affine)
    means = {}
    for pixel_mm in (1.0, 2.0):
        for name in ORACLES:
            slices = oracle_slices(name, volume, OracleSettings(pixel_mm=pixel_mm))
            pairs = confusion(volume.array, lifted_levels(slices, volume.shape))
            means[name, pixel_mm] = float(np.mean([pairs.dice_of(level) for level in pairs.reference_ids]))
    # 1.5 mm scans: at 1 mm a pixel the masks alone cost something.
    assert means["oracle_native", 1.0] == means["oracle_pixel", 1.0] == 1
    assert 0.85 < means["oracle_mask", 1.0] < 0.95
    assert means["oracle_mask", 1.0] > means["oracle_mask", 2.0] > 0.5
    assert 1 > means["oracle_pixel", 2.0] > means["oracle_mask", 2.0]


@pytest.fixture(scope="module")
def prepared(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    return prepare_source(
        Folder(str(scans)), prepared_root=root, spacing_mm=(None, None, None), split_seed=0, workers=1
    )


def test_the_folder_of_an_oracle_is_scored_like_any_models(prepared: Path, tmp_path: Path) -> None:
    from spineseg.evaluate import evaluate_folder, find_references

    source = find_prepared(prepared / "cases.csv", "oracle_mask")
    found = {}
    for name in ORACLES:
        assert predict_oracle(name, source, tmp_path / name, convention="kaggle") == {}
        folder = open_predictions(tmp_path / name)
        assert folder.convention == "kaggle" and folder.provenance["run"] == name
        references = find_references(prepared / "cases.csv")
        found[name] = evaluate_folder(
            references, tmp_path / name, tmp_path / f"{name}_e", edge="count", run=name, split="", simulated=False
        )
    assert found["oracle_native"]["dice"]["value"] == found["oracle_native"]["id"]["value"] == 1
    assert found["oracle_native"]["mask_map50"]["value"] == pytest.approx(1)
    assert 0.8 < found["oracle_mask"]["dice"]["value"] < found["oracle_pixel"]["dice"]["value"] <= 1


def test_predict_offers_them_as_runs(prepared: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "spineseg.predict", "run=oracle_mask", f"input={prepared}", "outputs=[nifti,json]"]
    done = subprocess.run(
        [*command, "pixel_mm=1.5", f"output={tmp_path / 'o'}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "5 of 5 scans predicted" in done.stdout
    folder = open_predictions(tmp_path / "o")
    assert folder.provenance["settings"] == {"pixel_mm": 1.5, "mask_ratio": 4}
    assert (folder.kinds or {})["case0"] == "levels"


def test_what_is_no_prepared_source_is_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "scan.nii.gz", Volume(np.zeros((3, 3, 3), np.int16), np.eye(4)))
    with pytest.raises(DataError, match=r"oracle_pixel reads references"):
        find_prepared(tmp_path, "oracle_pixel")


@pytest.mark.parametrize("settings", [{"pixel_mm": 0.0}, {"mask_ratio": 3}, {"mask_ratio": 64}])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        OracleSettings(**settings)  # type: ignore[arg-type]


def test_settings_come_from_keys() -> None:
    assert find_settings(None, None, None, Path()) == OracleSettings(1.0, 4)
    assert find_settings(0.5, 2, None, Path()) == OracleSettings(0.5, 2)


def test_components_of_the_reference_stay_one_instance() -> None:
    volume = column((2.0, 1.0, 1.0))
    parted = volume.array.copy()
    parted[:, 28:31] = 0
    cut = volume.with_array(parted)
    assert ndimage.label(parted[parted.shape[0] // 2] == 21)[1] >= 2
    for name in ORACLES:
        (middle,) = [s for s in oracle_slices(name, cut) if s.index == parted.shape[0] // 2]
        assert middle.levels.tolist() == list(LEVELS)
    assert len(slice_labels(parted)) == volume.shape[0]


def test_settings_come_from_a_run(tmp_path: Path) -> None:
    for name, data in (("slices", "{pixel_mm: 0.7}"), ("patches", "{spacing_mm: [1, 1, 1]}")):
        folder = tmp_path / "csi2014" / name / "now"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(f"format: {CONFIG_FORMAT}\ndata: {data}\n")
    assert find_settings(None, None, "csi2014/slices/now", tmp_path) == OracleSettings(0.7, 4)
    with pytest.raises(ConfigError, match="give one of them"):
        find_settings(1.0, None, "csi2014/slices/now", tmp_path)
    with pytest.raises(ConfigError, match="no pixel size"):
        find_settings(None, None, "csi2014/patches/now", tmp_path)


def test_a_case_that_cannot_be_written_does_not_end_the_run(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = PredictionWriter.write

    def refuse_one(self: PredictionWriter, case: str, *args: Any, **options: Any) -> None:
        if case == "case1":
            raise DataError("no value for it")
        write(self, case, *args, **options)

    monkeypatch.setattr(PredictionWriter, "write", refuse_one)
    source = find_prepared(prepared, "oracle_native")
    assert predict_oracle("oracle_native", source, tmp_path / "o") == {"case1": "no value for it"}
    folder = open_predictions(tmp_path / "o")
    assert dict(folder.failures) == {"case1": "no value for it"} and "case2" in folder.files
