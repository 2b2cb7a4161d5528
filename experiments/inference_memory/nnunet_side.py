"""nnU-Net's predictor on a net of ours: plans and data set are what its classes read, nothing is trained."""

from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray
from torch import Tensor, nn

CONFIGURATION = "3d_fullres"


def plans(spacing: list[float], patch: int) -> dict[str, Any]:
    """Plans as its planner writes them: order 1 for logits, order 0 only along a thick axis."""
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "data",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [patch] * 3,
        "median_image_size_in_voxels": [patch] * 3,
        "spacing": spacing,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": False,
        # The network is given; without this key the plans would be read as those of an older version.
        "architecture": {},
    }
    for kind in ("data", "seg", "probabilities"):
        configuration[f"resampling_fn_{kind}"] = "resample_data_or_seg_to_shape"
        configuration[f"resampling_fn_{kind}_kwargs"] = resampling
    return {
        "dataset_name": "Dataset001_memory",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "configurations": {CONFIGURATION: configuration},
    }


def predict(net: nn.Module, image: Tensor, native: tuple[int, int, int], classes: int, patch: int) -> NDArray[np.uint8]:
    """Labels on the native grid of a normalised image (1, X, Y, Z)."""
    shape = tuple(image.shape[1:])
    # The network's voxels are 1 mm; the native ones what the same field of view makes them.
    spacing = [n / m for n, m in zip(shape, native, strict=True)]
    manager = PlansManager(plans([1.0, 1.0, 1.0], patch))
    configuration = manager.get_configuration(CONFIGURATION)
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{str(k): k for k in range(1, classes)}},
        "file_ending": ".nii.gz",
    }
    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.manual_initialization(net, manager, configuration, [net.state_dict()], dataset, "nnUNetTrainer", None)
    logits = predictor.predict_logits_from_preprocessed_data(image)
    properties = {
        "spacing": spacing,
        "shape_before_cropping": native,
        "bbox_used_for_cropping": [[0, n] for n in native],
        "shape_after_cropping_and_before_resampling": native,
    }
    labels: NDArray[np.uint8] = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits,
        manager,
        configuration,
        predictor.label_manager,
        properties,
        num_threads_torch=torch.get_num_threads(),
    )
    return labels
