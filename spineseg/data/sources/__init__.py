"""Sources: where a data set's files lie and what its labels mean; nothing else."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final, cast

from spineseg.data.sources.base import Edge, Source
from spineseg.errors import DataError

__all__ = ["CLASSES", "Edge", "Source", "reopen"]

# Classes that a prepared folder may name; a folder of somebody else's must not import anything further.
CLASSES: Final = {
    "CSI2014": "spineseg.data.sources.csi2014",
    "Kaggle": "spineseg.data.sources.kaggle",
    "Verse": "spineseg.data.sources.verse",
    "Folder": "spineseg.data.sources.folder",
    "YoloExport": "spineseg.data.sources.yolo_export",
}


def reopen(class_name: str, root: Path, settings: Mapping[str, Any]) -> Source:
    """Make a source again from what ``source.json`` of a prepared folder holds.

    Raises:
        DataError: a class that is not one of ours.
    """
    if class_name not in CLASSES:
        raise DataError(f"unknown source class '{class_name}'; expected one of {', '.join(CLASSES)}")
    return cast(Source, getattr(import_module(CLASSES[class_name]), class_name)(root, **settings))
