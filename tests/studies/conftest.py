"""What several tests of studies share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def prepared(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five tiny scans, prepared as the recipe reads them."""
    from spineseg.config import compose
    from spineseg.studies.identity import DataIdentities

    root = tmp_path_factory.mktemp("prepared")
    overrides = ["data/source=folder", f"data.source.root={scans}", f"paths.prepared={root}", "data.fold=2"]
    DataIdentities()(compose("train", ["+experiment=yolo_csi", "+preset=quick", *overrides]))
    return root
