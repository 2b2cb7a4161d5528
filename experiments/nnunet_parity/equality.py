"""For one plan, one set of weights and one batch: the same loss, logits and labels; checkpoints both ways."""

import contextlib
import functools
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import scans
import torch
from recipe import Recipe, our_config
from torch import Tensor

from spineseg.data.datamodules import PatchDataModule
from spineseg.models.nnunet import Loss, planned_network
from spineseg.models.nnunet_settings import PlannedSettings
from spineseg.models.nnunet_weights import export_checkpoint, import_checkpoint
from spineseg.predictions.streaming import SlidingWindow
from spineseg.predictions.strips import StripSums
from spineseg.predictions.windows import lay_windows
from spineseg.targets import build


def measure(recipe: Recipe, work: Path, trained: Path) -> dict[str, Any]:
    """Differences of loss, window logits, stitched logits and labels, with the weights of a trained nnU-Net."""
    torch.set_num_threads(recipe.threads)
    settings = scans.settings(work)
    module = build(our_config(recipe, work, settings).data, PatchDataModule)
    net = planned_network(1, module.num_classes, settings.architecture, settings.deep_supervision)
    net.load_state_dict(import_checkpoint(trained).state_dict)
    folder = work / "exported"
    path = export_checkpoint(net.state_dict(), settings, module.levels, folder, mirror_axes=())
    predictor = _predictor(folder)
    back = import_checkpoint(path).state_dict
    same = all(torch.equal(back[name], value) for name, value in net.state_dict().items())
    found = _training(settings, net, predictor.network, module)
    found |= _prediction(settings, net, predictor, module)
    return {**found, "round_trip": bool(same), "checkpoint_reads_weights_only": _reads(path)}


def _predictor(folder: Path) -> Any:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    with contextlib.redirect_stdout(io.StringIO()):
        predictor = nnUNetPredictor(
            tile_step_size=0.5, use_gaussian=True, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False
        )
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=(0,))
    return predictor


def _reads(path: Path) -> bool:
    torch.load(path, map_location="cpu", weights_only=True)
    return True


def _training(settings: PlannedSettings, net: Any, theirs: Any, module: PatchDataModule) -> dict[str, Any]:
    """One training batch through both networks and both losses."""
    from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    dataset = module.train_dataset()
    samples = [dataset[draw] for draw in range(module.batch_size)]
    images = torch.stack([sample["image"] for sample in samples])[:, None]
    labels = torch.stack([sample["labels"] for sample in samples])[:, None]
    strides = np.cumprod(settings.plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["strides"], 0)
    scales = [list(1 / each) for each in strides][:-1]
    trainer = SimpleNamespace(
        label_manager=SimpleNamespace(has_regions=False, ignore_label=None),
        configuration_manager=SimpleNamespace(batch_dice=settings.batch_dice),
        is_ddp=False,
        _do_i_compile=lambda: False,
        enable_deep_supervision=True,
        _get_deep_supervision_scales=lambda: scales,
    )
    turn = (0, 1, *(2 + axis for axis in settings.axes))
    downsample = DownsampleSegForDSTransform(scales)
    targets = [downsample(segmentation=each.permute(0, *(1 + a for a in settings.axes)).short()) for each in labels]
    stacked = [torch.stack(each) for each in zip(*(target["segmentation"] for target in targets), strict=True)]
    theirs.decoder.deep_supervision = True
    with torch.no_grad():
        outputs, expected = net.train()(images), theirs(images.permute(turn))
        ours = Loss(settings.batch_dice)(outputs, labels).item()
        their_loss = nnUNetTrainer._build_loss(trainer)(expected, stacked).item()
    theirs.decoder.deep_supervision = False
    return {
        "loss": ours,
        "loss_difference": abs(ours - their_loss),
        "window_logits_difference": max(
            _apart(one.permute(turn), other) for one, other in zip(outputs, expected, strict=True)
        ),
        "logits_largest": max(other.abs().max().item() for other in expected),
        "labelled_share": float((labels > 0).float().mean()),
    }


def _prediction(settings: PlannedSettings, net: Any, predictor: Any, module: PatchDataModule) -> dict[str, Any]:
    """A whole case, stitched by both."""
    from nnunetv2.inference import predict_from_raw_data, sliding_window_prediction

    image = module.val_dataset()[0]["image"].numpy()
    # Narrower than a window, nnU-Net would add zeros and ours air: both are given the air.
    room = [(0, max(0, side - n)) for n, side in zip(image.shape, settings.patch_size, strict=True)]
    image = np.pad(image, room, constant_values=-1024)
    net.eval()
    window = SlidingWindow(overlap=0.5)
    streamed = window(
        net,
        image,
        patch_size=settings.patch_size,
        normalization=module.normalization,
        num_classes=module.num_classes,
    )
    ours = _stitched(net, image, settings, module)
    given = torch.from_numpy(module.normalization(image).transpose(settings.axes)[None].copy())
    back = (0, *(1 + axis for axis in np.argsort(settings.axes)))
    theirs = predictor.predict_logits_from_preprocessed_data(given).float().permute(back)
    # The same with its sums and weights in single precision: what is left is not its half precision.
    single = functools.partial(sliding_window_prediction.compute_gaussian, dtype=torch.float32)
    with (
        mock.patch.object(torch, "half", torch.float32),
        mock.patch.object(predict_from_raw_data, "compute_gaussian", single),
    ):
        exact = predictor.predict_logits_from_preprocessed_data(given).float().permute(back)
    weight = _their_weight(predictor, given.shape[1:]).permute(*np.argsort(settings.axes).tolist())
    # Half precision holds weights down to 6e-5 with all its digits; what is below lies at the scan's borders.
    held = weight >= 6.2e-5
    labels = torch.from_numpy(streamed.labels)
    return {
        "stitched_logits_difference": _apart(ours[:, held], theirs[:, held]),
        "stitched_logits_difference_borders": _apart(ours, theirs),
        "border_share": float((~held).float().mean()),
        "stitched_logits_difference_single": _apart(ours, exact),
        "argmax_agreement": float((labels == theirs.argmax(0)).double().mean()),
        "argmax_agreement_single": float((labels == exact.argmax(0)).double().mean()),
        "argmax_agreement_theirs": float((theirs.argmax(0) == exact.argmax(0)).double().mean()),
        "classes_predicted": int(torch.unique(theirs.argmax(0)).numel()),
        "windows": lay_windows(image.shape, settings.patch_size, 0.5).count,
        "case_shape": list(image.shape),
    }


def _their_weight(predictor: Any, shape: Any) -> Tensor:
    """Summed Gaussians of its windows over a volume, in its axis order and single precision."""
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian

    patch = tuple(predictor.configuration_manager.patch_size)
    bell = compute_gaussian(patch, 1 / 8, 10, dtype=torch.float32, device=torch.device("cpu"))
    total = torch.zeros(tuple(shape))
    for where in predictor._internal_get_sliding_window_slicers(tuple(shape)):
        total[where[1:]] += bell
    return total


def _stitched(net: Any, image: Any, settings: PlannedSettings, module: PatchDataModule) -> Tensor:
    """Our averaged logits (K, X, Y, Z): what ``SlidingWindow`` adds up, kept in place of labelled."""
    windows = lay_windows(image.shape, settings.patch_size, 0.5)
    found = torch.zeros(module.num_classes, *image.shape)

    def keep(block: Tensor, start: tuple[int, int, int]) -> None:
        x, y, z = (slice(first, first + n) for first, n in zip(start, block.shape[1:], strict=True))
        found[:, x, y, z] = block

    sums = StripSums(windows, (0, 1, 2), module.num_classes, keep, torch.device("cpu"))
    with torch.inference_mode():
        for strip in sums.corners():
            for index in strip:
                corner = [windows.starts[axis][n] for axis, n in enumerate(index)]
                seen = torch.from_numpy(windows.read(image, corner, module.normalization))[None, None]
                sums.add(index, net(seen)[0])
    return found


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())
