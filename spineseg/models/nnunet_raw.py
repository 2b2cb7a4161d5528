"""Our cases and split as nnU-Net's raw data set; no import of nnunetv2."""

import json
import shutil
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.progress import track

from spineseg.data.exports import NNUNET_ID
from spineseg.data.files import read_json, sha256_of_text, write_json, write_text
from spineseg.data.prepared import Prepared
from spineseg.data.sources import Source
from spineseg.data.splits import Split
from spineseg.errors import ConfigError
from spineseg.geometry import canonical
from spineseg.processors import processors
from spineseg.vertebrae import level_name
from spineseg.volumes import write_volume

RAW_FORMAT: Final = "nnunet raw 1"
FILE_ENDING: Final = ".nii.gz"
# Each holds a scan and its mask.
MOST_THREADS: Final = 8


def data_set_name(source: Source) -> str:
    """Name of a source's data set among nnU-Net's."""
    return f"Dataset{NNUNET_ID}_{source.name}"


def dataset_json(levels: Sequence[int], cases: Sequence[str] = ()) -> dict[str, Any]:
    """Content of nnU-Net's ``dataset.json``: label i + 1 is the i-th level.

    The reader that it names turns every file to RAS+, so that a model that is exported to nnU-Net reads scans of any
    orientation. The files are listed because nnU-Net else starts a dozen processes to find them.

    Args:
        levels: canonical level ids, the source's class list.
        cases: ids of the cases of the data set.
    """
    return {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{level_name(level): index for index, level in enumerate(levels, start=1)}},
        "numTraining": len(cases),
        "file_ending": FILE_ENDING,
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
        "dataset": {
            case: {
                "images": [f"imagesTr/{case}_0000{FILE_ENDING}"],
                "label": f"labelsTr/{case}{FILE_ENDING}",
            }
            for case in cases
        },
    }


def write_raw(prepared: Prepared, source: Source, split: Split, raw: Path) -> Path:
    """Write the training and validation cases of a split as a raw data set with ``splits_final.json`` of one fold.

    Volumes are written in canonical RAS+, not as the files lie: by itself nnU-Net plans and trains on file axes as they
    are, and scans of one source differ in them. The export of ``prepare`` (native volumes, all folds) is for use of
    nnU-Net apart from this project. Levels outside the source's class list are background, as in training. A data set
    of the same content that is there is kept.

    Args:
        prepared: cases and their content hashes.
        source: reads native images and masks.
        split: its test cases are left out.
        raw: the folder that nnU-Net knows as ``nnUNet_raw``.

    Returns:
        The data set's folder.

    Raises:
        ConfigError: masks that name no levels.
        DataError: a case of the split that cannot be read.
    """
    if source.labels != "levels":
        raise ConfigError(f"nnU-Net needs masks that name levels; those of '{source.name}' do not")
    folder = raw / data_set_name(source)
    key = raw_key(prepared, source, split)
    marker = folder / "spineseg.json"
    if marker.is_file() and read_json(marker, RAW_FORMAT, "python -m spineseg.train")["key"] == key:
        return folder
    levels = tuple(source.levels)
    table = np.zeros(256, np.uint8)
    table[list(levels)] = np.arange(1, len(levels) + 1)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    # The one case of an overfit check stands in both parts.
    ids = list(dict.fromkeys([*split.train, *split.val]))

    def export(case_id: str) -> None:
        case = prepared.case(case_id)
        image, labels = canonical(source.read_image(case)), canonical(source.read_labels(case))
        write_volume(partial / "imagesTr" / f"{case_id}_0000{FILE_ENDING}", image)
        write_volume(partial / "labelsTr" / f"{case_id}{FILE_ENDING}", labels.with_array(table[labels.array]))

    # Most of the time goes into compression, which threads share.
    with ThreadPool(min(processors(), MOST_THREADS)) as pool:
        for _ in track(pool.imap_unordered(export, ids), "exporting volumes", total=len(ids)):
            pass
    write_json(partial / "dataset.json", dataset_json(levels, ids))
    folds = [{"train": list(split.train), "val": list(split.val)}]
    write_text(partial / "splits_final.json", json.dumps(folds, indent=1, ensure_ascii=False) + "\n")
    write_json(
        partial / marker.name,
        {"format": RAW_FORMAT, "key": key, "simulated": prepared.simulated, "prepared": prepared.root.name},
    )
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def raw_key(prepared: Prepared, source: Source, split: Split) -> str:
    """Digest of what the data set's files follow from; whoever has it need not write them."""
    cases = {
        case.id: (case.image_sha256, case.label_sha256)
        for case in prepared.cases
        if case.id in {*split.train, *split.val}
    }
    content = [sorted(cases.items()), list(split.train), list(split.val), list(source.levels), source.settings()]
    return sha256_of_text(json.dumps(content, sort_keys=True, default=str))
