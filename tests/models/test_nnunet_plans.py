import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spineseg.errors import ConfigError, DataError
from spineseg.models.nnunet_settings import (
    PlannedSettings,
    checked_architecture,
    settings_of,
    their_axes,
    to_ours,
    to_theirs,
)
from spineseg.models.nnunet_weights import (
    export_checkpoint,
    import_checkpoint,
    network_state,
    to_our_weights,
    to_their_weights,
)

ORDERS = list(itertools.permutations(range(3)))


def plans(transpose_forward: tuple[int, ...] = (0, 1, 2)) -> dict[str, Any]:
    """A plans file as nnU-Net writes it, every value of an axis another one."""
    return {
        "dataset_name": "Dataset501_folder",
        "plans_name": "nnUNetPlans",
        "transpose_forward": list(transpose_forward),
        "transpose_backward": [list(transpose_forward).index(axis) for axis in range(3)],
        "image_reader_writer": "NibabelIOWithReorient",
        "label_manager": "LabelManager",
        "configurations": {
            "2d": {"spacing": [1.0, 1.0], "patch_size": [64, 64]},
            "3d_fullres": {
                "batch_size": 2,
                "patch_size": [16, 32, 48],
                "spacing": [3.0, 1.0, 0.5],
                "normalization_schemes": ["CTNormalization"],
                "batch_dice": True,
                "architecture": {
                    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                    "arch_kwargs": {
                        "n_stages": 3,
                        "features_per_stage": [4, 8, 16],
                        "conv_op": "torch.nn.modules.conv.Conv3d",
                        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
                        "strides": [[1, 1, 1], [1, 2, 2], [1, 1, 2]],
                        "n_conv_per_stage": [1, 1, 1],
                        "n_conv_per_stage_decoder": [1, 1],
                        "conv_bias": True,
                        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                        "dropout_op": None,
                        "dropout_op_kwargs": None,
                        "nonlin": "torch.nn.LeakyReLU",
                        "nonlin_kwargs": {"inplace": True},
                    },
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
            },
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
        "foreground_intensity_properties_per_channel": {
            "0": {"percentile_00_5": -90.0, "percentile_99_5": 1100.0, "mean": 250.0, "std": 180.0}
        },
    }


@pytest.mark.parametrize("order", ORDERS)
def test_axes_follow_a_volume_through_nnunets_reading(order: tuple[int, int, int]) -> None:
    # Our volume, as SimpleITK hands it over (axes reversed), transposed as nnU-Net's preprocessing does.
    ours = np.zeros((2, 3, 5))
    theirs = ours.transpose(2, 1, 0).transpose(order)
    axes = their_axes(order)
    assert to_ours(theirs.shape, axes) == ours.shape
    assert to_theirs(ours.shape, axes) == theirs.shape
    assert ours.transpose(axes).shape == theirs.shape


def test_settings_are_in_our_order() -> None:
    # transpose_forward (2, 0, 1): nnU-Net holds (x, z, y).
    found = settings_of(plans((2, 0, 1)))
    assert found.axes == (0, 2, 1)
    assert found.spacing_mm == (3.0, 0.5, 1.0)
    assert found.patch_size == (16, 48, 32)
    kwargs = found.architecture["kwargs"]
    assert kwargs["strides"] == [[1, 1, 1], [1, 2, 2], [1, 2, 1]]
    assert kwargs["kernel_sizes"][0] == [1, 3, 3]
    # A patch can be halved as often as the strides say, in the order in which both are held.
    assert all(n % step == 0 for n, step in zip(found.patch_size, np.prod(kwargs["strides"], axis=0), strict=True))


def test_settings_survive_a_file(tmp_path: Path) -> None:
    found = settings_of(plans((1, 0, 2)))
    found.write(tmp_path / "nnunet.json")
    back = PlannedSettings.read(tmp_path / "nnunet.json")
    assert back == found
    assert json.dumps(found.keys()) == json.dumps(back.keys())  # plain: what a config.yaml holds


@pytest.mark.parametrize("name", ["2d", "3d_cascade_fullres", "3d_lowres"])
def test_other_configurations_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        settings_of(plans(), name)


def test_other_normalisation_is_refused() -> None:
    foreign = plans()
    foreign["configurations"]["3d_fullres"]["normalization_schemes"] = ["ZScoreNormalization"]
    with pytest.raises(DataError, match="ZScore"):
        settings_of(foreign)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("class_name", "os.system"),
        ("class_name", "dynamic_network_architectures.architectures.vnet.VNet"),
        ("conv_op", "subprocess.Popen"),
        ("norm_op", "torch.nn.BatchNorm3d"),
        ("dropout_op", "builtins.exec"),
        ("nonlin", "torch.hub.load"),
    ],
)
def test_architectures_name_nothing_else(key: str, value: str) -> None:
    architecture = settings_of(plans()).architecture
    checked_architecture(architecture)
    (architecture if key == "class_name" else architecture["kwargs"])[key] = value
    with pytest.raises(ConfigError, match=key):
        checked_architecture(architecture)


def test_no_architecture_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="planning"):
        checked_architecture(None)


def small_network(kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> nn.Sequential:
    """Every kind of layer that nnU-Net's networks have, with a kernel and a stride that differ along the axes."""
    padding = tuple(n // 2 for n in kernel)
    return nn.Sequential(
        nn.Conv3d(1, 3, kernel, stride, padding),
        nn.InstanceNorm3d(3, affine=True),
        nn.LeakyReLU(),
        nn.ConvTranspose3d(3, 2, stride, stride),
    )


@pytest.mark.parametrize("order", ORDERS)
def test_turned_weights_give_turned_outputs(order: tuple[int, int, int]) -> None:
    axes = their_axes(order)
    kernel, stride = (1, 3, 5), (1, 2, 4)
    theirs = small_network(kernel, stride).double()
    ours = small_network(to_ours(kernel, axes), to_ours(stride, axes)).double()
    ours.load_state_dict(network_state(to_our_weights(theirs.state_dict(), axes)))
    image = torch.randn(1, 1, 8, 8, 8, dtype=torch.float64)
    turn = (0, 1, *(2 + axis for axis in axes))
    torch.testing.assert_close(ours(image).permute(turn), theirs(image.permute(turn)), rtol=0, atol=1e-12)
    back = to_their_weights(ours.state_dict(), axes)
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in theirs.state_dict().items())


def their_checkpoint(path: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """A file as nnU-Net's trainer saves it; returns the weights in it."""
    weights = small_network((1, 3, 5), (1, 2, 4)).state_dict()
    content = {
        "network_weights": weights,
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {
            "mean_fg_dice": [np.float64(0.5), np.float32(0.25)],
            "dice_per_class_or_region": [[np.float32(0.5), np.float64("nan")]],
            "epoch_start_timestamps": [1.5],
        },
        "_best_ema": np.float64(0.5),
        "current_epoch": 7,
        "init_args": {
            "plans": plans((2, 0, 1)),
            "configuration": "3d_fullres",
            "fold": 0,
            "dataset_json": {"labels": {"L1": 2, "background": 0, "T12": 1}},
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 2),
        **changes,
    }
    torch.save(content, path)
    return weights


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_their_checkpoint_is_read_without_running_code(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "checkpoint_final.pth"
    weights = their_checkpoint(path)
    their_checkpoint(path, network_weights={prefix + name: value for name, value in weights.items()})
    with pytest.raises(Exception, match="weights_only"):
        torch.load(path, weights_only=True)  # NumPy's scalars: else a test of nothing
    found = import_checkpoint(path)
    assert found.settings == settings_of(plans((2, 0, 1)))
    assert found.labels == ("background", "T12", "L1")
    assert found.mirror_axes == ("x", "y")  # it holds (x, z, y)
    assert found.epochs == 7
    back = to_their_weights(network_state(found.state_dict), found.settings.axes)
    assert all(torch.equal(back[name], value) for name, value in weights.items())
    # What was allowed for this file is not allowed for the next.
    with pytest.raises(Exception, match="weights_only"):
        torch.load(path, weights_only=True)


def test_a_file_with_code_is_refused(tmp_path: Path) -> None:
    class Danger:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "checkpoint_final.pth"
    their_checkpoint(path, logging=Danger())
    with pytest.raises(DataError, match="refused"):
        import_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_a_run_of_ours_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "last.ckpt")
    with pytest.raises(DataError, match="network_weights"):
        import_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize("order", ORDERS)
def test_export_is_undone_by_import(tmp_path: Path, order: tuple[int, int, int]) -> None:
    settings = settings_of(plans(order))
    kernel, stride = (1, 3, 5), (1, 2, 4)
    ours = {f"net.network.{name}": value for name, value in small_network(kernel, stride).state_dict().items()}
    path = export_checkpoint(ours, settings, (19, 20), tmp_path, mirror_axes=("x", "z"))
    assert path == tmp_path / "fold_0" / "checkpoint_final.pth"
    assert json.loads((tmp_path / "plans.json").read_text()) == settings.plans
    assert json.loads((tmp_path / "dataset.json").read_text())["labels"] == {"background": 0, "T12": 1, "L1": 2}
    back = import_checkpoint(path)
    assert back.settings == settings
    assert back.mirror_axes == ("x", "z")
    assert back.labels == ("background", "T12", "L1")
    assert {f"net.{name}" for name in back.state_dict} == ours.keys()
    assert all(torch.equal(ours[f"net.{name}"], value) for name, value in back.state_dict.items())


def test_a_state_of_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no network of nnU-Net's"):
        export_checkpoint({"net.model.0.weight": torch.zeros(1)}, settings_of(plans()), (20,), tmp_path)
