"""A Roboflow (YOLO) export: sagittal slices as pictures, outlines as polygons, read from a zip or a folder.

A picture becomes a volume of one sagittal slice. Classes carry no level, so mask values only tell instances apart.
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Final, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from spineseg.data.archives import read_member, zip_members
from spineseg.data.cases import RawCase
from spineseg.data.files import below
from spineseg.data.polygons import rasterise, read_rows
from spineseg.data.sources.base import AnyCase, Source
from spineseg.errors import ConfigError, DataError
from spineseg.geometry import Volume

IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp")
MAX_ZIP_BYTES: Final = 4 << 30
MAX_PIXELS: Final = 64 << 20
# Roboflow's `<name>_png.rf.<hash>`: augmented copies of one picture share the name, and must share a fold.
_ROBOFLOW: Final = re.compile(r"(?P<name>.+?)(_(png|jpe?g|bmp))?\.rf\.[0-9A-Za-z]+")


class YoloExport(Source):
    """An export as ``root/{train,valid,test}/{images,labels}`` or ``root/{images,labels}/{train,val,test}``.

    Args:
        root: the folder or the zip.
        window_hu: HU that grey 0 and 255 stand for.
        pixel_mm: size of a pixel.
        anterior: side of the picture that shows the front of the body.
        exclude: case ids, or an exclusion file.
    """

    name = "yolo_export"
    labels: ClassVar[Literal["levels", "instances"]] = "instances"
    mask_required = False
    hounsfield = False

    def __init__(
        self,
        root: Path | str,
        window_hu: tuple[float, float] = (-200, 1000),
        pixel_mm: float = 1.0,
        anterior: Literal["left", "right"] = "left",
        exclude: Sequence[str] | str = (),
    ) -> None:
        super().__init__(root, levels=(), edge="ignore", exclude=exclude)
        if anterior not in ("left", "right") or pixel_mm <= 0 or window_hu[0] >= window_hu[1]:
            raise ConfigError(
                f"data.source: anterior={anterior}, pixel_mm={pixel_mm}, window_hu={list(window_hu)}: expected left or "
                "right, a positive size, and a window whose first value is the lower"
            )
        self.window_hu = (float(window_hu[0]), float(window_hu[1]))
        self.pixel_mm = float(pixel_mm)
        self.anterior = anterior

    def settings(self) -> dict[str, object]:
        """What the reading of a file depends on."""
        return {"window_hu": list(self.window_hu), "pixel_mm": self.pixel_mm, "anterior": self.anterior}

    def files(self, case: AnyCase) -> tuple[Path, ...]:
        """The zip, or the picture and its label file."""
        return (self.root,) if self._zipped else super().files(case)

    def read_image(self, case: AnyCase) -> Volume:
        """Read a picture as one sagittal slice: int16 HU by ``window_hu``, shape (1, Y, Z), affine of ``pixel_mm``."""
        grey = self._picture(case.image)
        low, high = self.window_hu
        values = np.rint(grey.astype(np.float32) / 255 * (high - low) + low).astype(np.int16)
        return Volume(self._upright(values), np.diag([self.pixel_mm] * 3 + [1.0]))

    def read_labels(self, case: AnyCase) -> Volume:
        """Fill the polygons of a picture: uint8 instance numbers from 1 in the order of the rows, small ones on top.

        Raises:
            DataError: bad rows, all of them named; more than 255.
        """
        if case.label is None:
            raise DataError(f"{self.root / case.image}: case '{case.id}' has no label file")
        height, width = self._picture(case.image).shape
        what = str(self.root / case.label)
        text = self._bytes(case.label).decode("utf-8", errors="replace")
        rows = read_rows(text, class_count=len(self.classes()), shape=(height, width), what=what)
        if len(rows) > 255:
            raise DataError(f"{what}: {len(rows)} polygons; expected at most 255 in a picture")
        masks = [rasterise(points, (height, width)) for _, points in rows]
        numbers = np.zeros((height, width), np.uint8)
        for index in sorted(range(len(masks)), key=lambda i: -int(masks[i].sum())):
            numbers[masks[index]] = index + 1
        return Volume(self._upright(numbers), np.diag([self.pixel_mm] * 3 + [1.0]))

    def classes(self) -> list[str]:
        """Class names of ``data.yaml``.

        Raises:
            DataError: damaged, without classes, or asking for what a data set must not ask for (a download, a path
                outside its folder).
        """
        path = self._yaml()
        where = self.root / path
        try:
            content = yaml.safe_load(self._bytes(path))
            names = content["names"]
        except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{where}: cannot be read ({reason}); expected a list of class names") from error
        if "download" in content:
            raise DataError(
                f"{where}: refused: it asks for a download ({str(content['download'])[:80]}); remove the key"
            )
        for key in ("path", "train", "val", "valid", "test"):
            _check_inside(where, key, content.get(key))
        return [str(name) for name in (names.values() if isinstance(names, dict) else names)]

    def given_split(self) -> dict[str, list[str]]:
        """The export's own parts, by the folder names."""
        parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
        for case in self._find():
            for part, names in (("train", ("train",)), ("val", ("val", "valid")), ("test", ("test",))):
                if any(name in case.image.parts[:-1] for name in names):
                    parts[part].append(case.id)
        return parts

    @property
    def _zipped(self) -> bool:
        return self.root.is_file()

    def _names(self) -> list[Path]:
        """All files, relative to the root, sorted."""
        if self._zipped:
            return sorted(Path(PurePosixPath(m.filename)) for m in zip_members(self.root, max_bytes=MAX_ZIP_BYTES))
        return sorted(path.relative_to(self.root) for path in below(self.root) if path.is_file())

    def _bytes(self, path: Path) -> bytes:
        try:
            return read_member(self.root, path.as_posix()) if self._zipped else (self.root / path).read_bytes()
        except OSError as error:
            raise DataError(f"{self.root / path}: cannot be read ({error.strerror})") from error

    def _yaml(self) -> Path:
        found = [path for path in self._names() if path.name == "data.yaml"]
        if not found:
            raise DataError(f"{self.root}: no data.yaml; expected an export in YOLO's format")
        return min(found, key=lambda path: len(path.parts))

    def _find(self) -> list[RawCase]:
        names = self._names()
        known = set(names)
        cases = []
        for path in names:
            if path.suffix.lower() not in IMAGE_SUFFIXES or "images" not in path.parts[:-1]:
                continue
            place = len(path.parts) - 1 - path.parts[::-1].index("images")
            label = Path(*path.parts[:place], "labels", *path.parts[place + 1 :]).with_name(f"{path.stem}.txt")
            match = _ROBOFLOW.fullmatch(path.stem)
            subject = match["name"] if match else path.stem
            cases.append(RawCase(path.stem, subject, path, label if label in known else None))
        if cases:
            self.classes()
        return cases

    def _missing(self) -> str:
        return (
            f"no YOLO export found at {self.root}: expected a zip or a folder with data.yaml and "
            "train/images/*.png with train/labels/*.txt. Download one from Roboflow (format YOLOv8) and set "
            "data.source.root. To make one from simulated scans: python -m spineseg.simulate layout=csi2014, then "
            "python -m spineseg.prepare data.source.root=data/simulated/csi2014 export=yolo"
        )

    def _picture(self, path: Path) -> NDArray[np.uint8]:
        """Read a picture as grey values (rows, columns)."""
        where = self.root / path
        try:
            with Image.open(io.BytesIO(self._bytes(path))) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise DataError(
                        f"{where}: {picture.width}×{picture.height} pixels; expected at most {MAX_PIXELS:,}"
                    )
                return np.asarray(picture.convert("L"), np.uint8)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{where}: a damaged picture ({error}); export or copy it again") from error

    def _upright(self, picture: NDArray[Any]) -> NDArray[Any]:
        """Rows from the head down and columns from ``anterior`` → (1, Y, Z)."""
        front_last = picture[:, ::-1] if self.anterior == "left" else picture
        return np.ascontiguousarray(front_last[::-1].T[None])


def _check_inside(where: Path, key: str, value: Any) -> None:
    """Refuse paths that lead out of the data set; Roboflow's own ``../train/images`` means ``train/images``."""
    for entry in value if isinstance(value, list) else [value]:
        if entry is None:
            continue
        parts = PurePosixPath(str(entry).replace("\\", "/")).parts
        inner = parts[1:] if parts[:1] == ("..",) else parts
        if parts[:1] == ("/",) or ".." in inner or ":" in str(entry):
            raise DataError(f"{where}: refused: {key}: {entry} leads out of the data set; expected a relative path")
