"""What is nnU-Net's own, against nnU-Net itself; what needs no nnunetv2 is in ``test_nnunet_plans`` and ``_raw``."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from spineseg.data.preparation import prepare_source
from spineseg.data.prepared import Prepared, read_prepared
from spineseg.data.sources.folder import Folder
from spineseg.data.splits import Split
from spineseg.errors import ConfigError
from spineseg.geometry import Volume, canonical_grid, restore
from spineseg.models.nnunet import Augmentation, Loss, loss_weights, plan, planned_network
from spineseg.models.nnunet_settings import PlannedSettings, settings_of, to_theirs
from spineseg.models.nnunet_weights import export_checkpoint, import_checkpoint
from spineseg.volumes import write_volume

pytest.importorskip("nnunetv2", reason="nnU-Net itself is the oracle")

LEVELS = (20, 21, 22)
SPACING = (2.5, 1.0, 1.5)  # thickest along X: nnU-Net puts it first


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Folder, Split]:
    """Four scans of three blocks of bone, in three orientations; every axis has another size and spacing."""
    root = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    for number, axes in enumerate(("RAS", "PIR", "LPS", "RAS")):
        shape = (24, 40, 36)
        image = rng.normal(-900, 20, shape)
        image[2:-2, 4:-4] = rng.normal(40, 15, (20, 32, 36))
        labels = np.zeros(shape, np.uint8)
        for index, level in enumerate(LEVELS):
            labels[6:18, 10 + number : 30, 25 - 10 * index : 34 - 10 * index] = level
        image[labels > 0] = rng.normal(300, 60, int((labels > 0).sum()))
        upright = Volume(image.astype(np.int16), np.diag([*SPACING, 1.0]))
        native = turned_grid(upright, axes)
        write_volume(root / f"s{number}" / "ct.nii.gz", restore(upright, native))
        write_volume(root / f"s{number}" / "vertebrae.nii.gz", restore(upright.with_array(labels), native))
    source = Folder(root, levels=LEVELS)
    folder = prepare_source(
        source, prepared_root=root / "prepared", spacing_mm=(None, None, None), split_seed=0, workers=1
    )
    prepared = read_prepared(folder)
    ids = [case.id for case in prepared.cases]
    return prepared, source, Split(tuple(ids[:2]), (ids[2],), (ids[3],))


def turned_grid(upright: Volume, axes: str) -> Any:
    """The grid with the given axis codes whose canonical form is ``upright``'s."""
    import nibabel as nib
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    turn = ornt_transform(io_orientation(upright.affine), axcodes2ornt(axes))
    made = nib.Nifti1Image(np.zeros(upright.shape, np.uint8), upright.affine).as_reoriented(turn)
    grid = Volume(np.asarray(made.dataobj), made.affine).grid
    assert canonical_grid(grid).shape == upright.shape
    return grid


@pytest.fixture(scope="module")
def planned(cases: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[PlannedSettings, Path]:
    work = tmp_path_factory.mktemp("work")
    prepared, source, split = cases
    return plan(prepared, source, split, work=work, foreground_voxels=30_000), work


def test_plan_is_of_the_training_cases_in_our_order(cases: Any, planned: Any) -> None:
    settings, work = planned
    split = cases[2]
    assert settings.spacing_mm == pytest.approx(SPACING)
    assert settings.axes == (0, 2, 1)  # thickest first, then as SimpleITK has the others: z, y
    data_set = work / "nnUNet_raw" / "Dataset501_folder"
    fingerprint = json.loads((work / "nnUNet_preprocessed" / data_set.name / "dataset_fingerprint.json").read_text())
    assert len(fingerprint["spacings"]) == len(split.train)
    assert all(np.allclose(each, SPACING[::-1]) for each in fingerprint["spacings"])
    names = {path.name for path in (data_set / "labelsTr").iterdir()}
    assert names == {f"{case}.nii.gz" for case in (*split.train, *split.val)}
    assert json.loads((data_set / "splits_final.json").read_text()) == [
        {"train": list(split.train), "val": list(split.val)}
    ]
    assert settings.batch_size >= 2
    strides = np.prod(settings.architecture["kwargs"]["strides"], axis=0)
    assert not np.any(np.array(settings.patch_size) % strides)
    low, high = settings.normalization["low"], settings.normalization["high"]
    assert low < 300 < high
    assert settings.normalization["mean"] == pytest.approx(300, abs=5)
    assert settings.normalization["sd"] == pytest.approx(60, abs=5)


def test_a_plan_that_holds_is_kept_and_the_environment_too(cases: Any, planned: Any) -> None:
    settings, work = planned
    prepared, source, split = cases
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    environment = dict(os.environ)
    assert plan(prepared, source, split, work=work, foreground_voxels=30_000) == settings
    assert before == {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    assert dict(os.environ) == environment
    assert not any(name.startswith("nnUNet_") for name in environment)


def test_presets_plan_residual_encoders(cases: Any, planned: Any) -> None:
    _, work = planned
    prepared, source, split = cases
    found = plan(prepared, source, split, work=work, preset="resenc_m", foreground_voxels=30_000)
    assert found.architecture["class_name"].endswith("ResidualEncoderUNet")
    assert found.plans["plans_name"] == "nnUNetResEncUNetMPlans"
    with pytest.raises(ConfigError, match="preset=xl"):
        plan(prepared, source, split, work=work, preset="xl")  # type: ignore[arg-type]


def test_a_spacing_of_ones_own_is_planned_for(cases: Any, planned: Any) -> None:
    settings, work = planned
    prepared, source, split = cases
    asked = (2.0, 3.0, 6.0)
    found = plan(prepared, source, split, work=work, foreground_voxels=30_000, spacing_mm=asked)
    assert found.spacing_mm == asked
    assert found.axes[0] == 2  # the thickest first
    again = plan(prepared, source, split, work=work, foreground_voxels=30_000)
    assert again == settings  # kept apart


def small(settings: PlannedSettings) -> PlannedSettings:
    """The same plan with few features."""
    plans = json.loads(json.dumps(settings.plans))
    kwargs = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    kwargs["features_per_stage"] = [4] * kwargs["n_stages"]
    return settings_of(plans)


def theirs_of(settings: PlannedSettings, num_classes: int, deep_supervision: bool) -> torch.nn.Module:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    node = settings.plans["configurations"]["3d_fullres"]["architecture"]
    return get_network_from_plans(
        node["network_class_name"],
        node["arch_kwargs"],
        node["_kw_requires_import"],
        1,
        num_classes,
        deep_supervision=deep_supervision,
    )


def test_network_is_theirs_with_the_axes_turned(planned: Any, tmp_path: Path) -> None:
    settings = small(planned[0])
    ours = planned_network(1, 4, settings.architecture)
    theirs = theirs_of(settings, 4, True)
    path = export_checkpoint(ours.state_dict(), settings, LEVELS, tmp_path)
    theirs.load_state_dict(torch.load(path, weights_only=True)["network_weights"])
    image = torch.randn(1, 1, *settings.patch_size)
    turn = (0, 1, *(2 + axis for axis in settings.axes))
    with torch.no_grad():
        found, expected = ours(image), theirs(image.permute(turn))
        assert isinstance(found, list) and len(found) == len(expected) > 1
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.permute(turn), other, rtol=0, atol=1e-4)
        alone = ours.eval()(image)
        assert isinstance(alone, torch.Tensor) and alone.shape == (1, 4, *settings.patch_size)
        assert isinstance(ours.train()(image), list)
    again = planned_network(1, 4, settings.architecture)
    again.load_state_dict(import_checkpoint(path).state_dict)
    with torch.no_grad():
        assert torch.equal(again.eval()(image), alone)


def test_deep_supervision_lasts_through_validations(planned: Any) -> None:
    """Lightning puts ``training`` back after a validation without calling ``train``."""
    settings = small(planned[0])
    net = planned_network(1, 4, settings.architecture)
    image = torch.randn(1, 1, *settings.patch_size)
    with torch.no_grad():
        assert isinstance(net.eval()(image), torch.Tensor)
        for module in net.modules():
            module.training = True
        outputs = net(image)
        assert isinstance(outputs, list) and len(outputs) > 1
        assert isinstance(planned_network(1, 4, settings.architecture, deep_supervision=False)(image), torch.Tensor)


def test_their_predictor_loads_what_is_exported(planned: Any, tmp_path: Path) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    settings = small(planned[0])
    ours = planned_network(1, 4, settings.architecture).eval()
    export_checkpoint(ours.state_dict(), settings, LEVELS, tmp_path, mirror_axes=())
    predictor = nnUNetPredictor(use_gaussian=False, use_mirroring=True, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(tmp_path), use_folds=(0,))
    image = torch.randn(1, *settings.patch_size)
    theirs = predictor.predict_logits_from_preprocessed_data(image.permute(0, *(1 + axis for axis in settings.axes)))
    with torch.no_grad():
        expected = ours(image[None])[0].permute(0, *(1 + axis for axis in settings.axes))
    # One window, so what differs is its half precision; its Gaussian would vanish in it towards the corners.
    torch.testing.assert_close(theirs.float(), expected, rtol=1e-2, atol=1e-2)


def test_planned_network_draws_from_the_seed_alone(planned: Any) -> None:
    settings = small(planned[0])
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(planned_network(1, 4, settings.architecture).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("batch_dice", [False, True])
def test_loss_is_their_trainers(planned: Any, batch_dice: bool) -> None:
    from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    settings = planned[0]
    strides = np.cumprod(settings.architecture["kwargs"]["strides"], axis=0)[:-1]
    scales = [list(1 / each) for each in strides]
    trainer = SimpleNamespace(
        label_manager=SimpleNamespace(has_regions=False, ignore_label=None),
        configuration_manager=SimpleNamespace(batch_dice=batch_dice),
        is_ddp=False,
        _do_i_compile=lambda: False,
        enable_deep_supervision=True,
        _get_deep_supervision_scales=lambda: scales,
    )
    theirs = nnUNetTrainer._build_loss(trainer)
    labels = torch.randint(0, 4, (2, 1, *settings.patch_size), dtype=torch.uint8)
    downsample = DownsampleSegForDSTransform(scales)
    targets = [downsample(segmentation=each.short())["segmentation"] for each in labels]
    outputs = [
        torch.randn(2, 4, *(n // step for n, step in zip(settings.patch_size, each, strict=True)), requires_grad=True)
        for each in strides
    ]
    ours = Loss(batch_dice)
    expected = theirs(outputs, [torch.stack(each) for each in zip(*targets, strict=True)])
    found = ours(outputs, labels)
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    gradients = [torch.autograd.grad(each, outputs[0], retain_graph=True)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients)
    single = theirs.loss(outputs[0], labels)
    assert ours(outputs[0], labels).item() == pytest.approx(single.item(), abs=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(outputs, labels).item() == found.item()


def test_loss_weights_leave_the_coarsest_out() -> None:
    assert loss_weights(3)[-1] == 0 < loss_weights(3, distributed=True)[-1] < 1e-5
    assert sum(loss_weights(5)) == pytest.approx(1)


@pytest.fixture
def patch() -> Callable[[tuple[int, int, int]], tuple[Any, Any]]:
    def make(size: tuple[int, int, int]) -> tuple[Any, Any]:
        rng = np.random.default_rng(5)
        labels = np.zeros(size, np.uint8)
        labels[tuple(slice(n // 3, n // 2) for n in size)] = 3
        return (rng.normal(0, 1, size) + labels).astype(np.float32), labels

    return make


def test_augmentation_is_a_pure_function_of_the_draw(patch: Any) -> None:
    size = (16, 20, 24)
    ours = Augmentation(axes=(0, 2, 1))
    image, labels = patch(ours.read_size(size))
    kept = image.copy(), labels.copy()
    np.random.seed(9)  # noqa: NPY002
    torch.manual_seed(9)
    state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    results = [ours(image, labels, size, np.random.default_rng(draw)) for draw in range(12)]
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(image, kept[0])
    np.testing.assert_array_equal(labels, kept[1])
    # Another process, another order, another state of the global generators.
    other = Augmentation(axes=(0, 2, 1))
    torch.manual_seed(1)
    for draw in reversed(range(12)):
        again = other(image, labels, size, np.random.default_rng(draw))
        np.testing.assert_array_equal(again[0], results[draw][0])
        np.testing.assert_array_equal(again[1], results[draw][1])
    assert {result[0].dtype for result in results} == {np.dtype(np.float32)}
    assert {result[1].dtype for result in results} == {np.dtype(np.uint8)}
    assert {result[0].shape for result in results} == {result[1].shape for result in results} == {size}
    assert len({result[0].tobytes() for result in results}) > 6  # it does something


@pytest.mark.parametrize("axes", [(2, 1, 0), (0, 2, 1), (1, 0, 2)])
@pytest.mark.parametrize("mirrored", [(), ("x",), ("y",), ("x", "z")])
def test_only_named_axes_are_mirrored(axes: tuple[int, int, int], mirrored: tuple[str, ...]) -> None:
    size = (12, 16, 20)
    ours = Augmentation(mirror_axes=mirrored, axes=axes)
    read = ours.read_size(size)
    # Four corners of labels about the centre tell every flip; turns and zooms are left to chance, so by majority.
    labels = np.zeros(read, np.uint8)
    half = [n // 2 for n in read]
    labels[: half[0], : half[1], : half[2]] = 1
    seen = set()
    for draw in range(40):
        _, found = ours(labels.astype(np.float32), labels, size, np.random.default_rng(draw))
        centre = np.argwhere(found == 1).mean(axis=0) - (np.array(size) - 1) / 2
        seen |= {"xyz"[axis] for axis in range(3) if centre[axis] > 0}
    assert seen == set(mirrored)


def test_augmentation_without_draws_is_a_centre_crop(patch: Any) -> None:
    """Where none of its transforms applies, the patch is the middle of what was read."""
    size = (16, 20, 24)
    ours = Augmentation(mirror_axes=())
    image, labels = patch(ours.read_size(size))
    start = [(n - side) // 2 for n, side in zip(image.shape, size, strict=True)]
    middle = tuple(slice(a, a + side) for a, side in zip(start, size, strict=True))
    unchanged = [
        draw
        for draw in range(60)
        if np.array_equal(ours(image, labels, size, np.random.default_rng(draw))[0], image[middle])
    ]
    # By its probabilities a fifth of the patches stays as it is.
    assert 1 <= len(unchanged) <= 30
    for draw in unchanged:
        np.testing.assert_array_equal(ours(image, labels, size, np.random.default_rng(draw))[1], labels[middle])


def test_read_size_is_theirs(planned: Any) -> None:
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size

    size, axes = (32, 40, 48), (0, 2, 1)
    turn = (-np.pi / 6, np.pi / 6)
    expected = get_patch_size(list(to_theirs(size, axes)), turn, turn, turn, (0.85, 1.25))
    assert to_theirs(Augmentation(axes=axes).read_size(size), axes) == tuple(expected)
    # Thick slices are turned in plane only: nothing more is read along the thick axis.
    thick = (12, 80, 80)
    assert Augmentation(axes=axes).read_size(thick)[0] == 12


@pytest.mark.parametrize(("key", "value"), [("mirror_axes", ("left",)), ("axes", (0, 0, 1))])
def test_augmentation_refuses_other_axes(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        Augmentation(**{key: value})
