"""Pictures of a few validation slices with reference and prediction, every few epochs; and how pictures are drawn."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from spineseg.errors import ConfigError

Pixels = NDArray[np.uint8]
# Okabe and Ito's colours, which colour-blind readers can tell apart; used in turn.
COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
HEADER_PX = 18


class Drawn(Protocol):
    """What a task's `detect` returns for one image: half-open boxes y0, z0, y1, z1, and masks on the image's pixels."""

    boxes: Tensor  # (N, 4)
    scores: Tensor  # (N,)
    classes: Tensor  # (N,)
    masks: Tensor  # (N, Y, Z) bool


class Pictures(Callback):
    """Makes a picture in the validation of every few epochs and of the last one.

    Args:
        every_n_epochs: Epochs between two pictures; the last epoch always has one.
        height_px: Height of a row.
        simulated: Whether the picture must say that its scans are simulated.
    """

    def __init__(self, every_n_epochs: int, height_px: int, simulated: bool) -> None:
        if every_n_epochs < 1 or height_px < 32:
            raise ConfigError(
                f"{type(self).__name__}: every_n_epochs={every_n_epochs}, height_px={height_px}: too small; "
                "expected at least 1 and 32"
            )
        self.every_n_epochs = every_n_epochs
        self.height_px = height_px
        self.simulated = simulated

    def due(self, trainer: Trainer) -> bool:
        """Whether this validation has a picture, and this process makes it."""
        last = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        due = last or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        return due and trainer.is_global_zero and not trainer.sanity_checking

    def publish(self, trainer: Trainer, rows: list[tuple[Pixels, Pixels, Pixels]]) -> None:
        """Write `<run>/panels/epoch_<n>.png`, and log it as `val/panels` where a logger takes pictures."""
        kind = "  SIMULATED" if self.simulated else ""
        title = f"epoch {trainer.current_epoch}{kind}: image | reference | prediction"
        picture = compose_rows(rows, self.height_px, title)
        folder = Path(trainer.default_root_dir) / "panels"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"epoch_{trainer.current_epoch:04d}.png"
        partial = path.with_name(f".partial-{path.name}")
        picture.save(partial, format="PNG")
        partial.replace(path)
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        for logger in trainer.loggers:
            log_image = getattr(logger, "log_image", None)
            if log_image is not None:
                log_image("val/panels", [picture], step=step)


class Panels(Pictures):
    """Pictures of slices, for tasks that see slices; in the validation of volumes it does nothing.

    The slices are the same at every epoch: the validation slices in order, cut into as many stretches as there are
    pictures, and of each stretch the slice with most vertebrae. A row shows the slice, its reference and its
    prediction; head up, front on the left, middle channel.

    Args:
        every_n_epochs: Epochs between two pictures; the last epoch always has one.
        slices: Rows of a picture.
        score_threshold: Detections below it are not drawn.
        height_px: Height of a row.
        simulated: Whether the picture must say that its scans are simulated.
    """

    def __init__(
        self,
        every_n_epochs: int = 5,
        slices: int = 6,
        score_threshold: float = 0.25,
        height_px: int = 320,
        simulated: bool = False,
    ) -> None:
        super().__init__(every_n_epochs, height_px, simulated)
        if slices < 1:
            raise ConfigError(f"Panels: slices={slices}: too small; expected at least 1")
        self.slices = slices
        self.score_threshold = score_threshold
        self._batch_size = 1
        self._chosen: dict[int, tuple[int, Tensor, Tensor, Tensor]] = {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the slices of the last picture."""
        self._chosen = {}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the slices of this batch that have the most vertebrae of their stretch so far."""
        if "index_map" not in batch or not self.due(trainer):
            return
        size = int(batch["images"].shape[0])
        if batch_idx == 0:
            self._batch_size = size  # all but the last batch have as many
        total = int(sum(trainer.num_val_batches)) * self._batch_size
        for index in range(size):
            stretch = min((batch_idx * self._batch_size + index) * self.slices // total, self.slices - 1)
            mine = batch["batch_index"] == index
            count = int(mine.sum())
            if stretch not in self._chosen or count > self._chosen[stretch][0]:
                kept = (batch["images"][index], batch["index_map"][index], batch["classes"][mine])
                self._chosen[stretch] = (count, kept[0].clone(), kept[1].clone(), kept[2].clone())

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Predict the chosen slices with the weights that are validated, draw, write and log."""
        if not self._chosen:
            return
        chosen = [self._chosen[stretch] for stretch in sorted(self._chosen)]
        # One at a time: validation slices may differ in size.
        found: list[Drawn] = [pl_module.detect(image[None])[0] for _, image, _, _ in chosen]  # type: ignore[operator]
        names = list(getattr(pl_module, "classes", ()))
        rows = []
        for (_, image, index_map, classes), detections in zip(chosen, found, strict=True):
            gray = to_gray(image)
            reference = reference_masks(index_map.cpu().numpy(), len(classes))
            truth = draw_instances(gray, reference, _labels(classes, names, None))
            rows.append((gray, truth, self._drawn(gray, detections, names)))
        self.publish(trainer, rows)
        self._chosen = {}

    def _drawn(self, gray: Pixels, found: Drawn, names: list[str]) -> Pixels:
        kept = found.scores >= self.score_threshold
        masks = found.masks[kept].cpu().numpy()
        return draw_instances(gray, masks, _labels(found.classes[kept], names, found.scores[kept]))


def to_gray(image: Tensor) -> Pixels:
    """Return the middle channel of an image (C, Y, Z) as 0–255 (Y, Z), spread over its own range."""
    plane = image[image.shape[0] // 2].float().cpu().numpy()
    low, high = float(plane.min()), float(plane.max())
    return ((plane - low) / max(high - low, 1e-6) * 255).round().astype(np.uint8)


def reference_masks(index_map: NDArray[np.integer[Any]], count: int) -> NDArray[np.bool_]:
    """Return the masks (N, Y, Z) of an index map (Y, Z), where instance i has the value i + 1."""
    masks: NDArray[np.bool_] = index_map[None] == np.arange(1, count + 1)[:, None, None]
    return masks


def draw_instances(gray: Pixels, masks: NDArray[np.bool_], labels: list[str]) -> NDArray[np.uint8]:
    """Tint masks (N, Y, Z) over a slice (Y, Z), with outlines, as it is looked at: (Z, Y, 3), head up, front left.

    Labels stand at the middle of their mask.
    """
    canvas = np.repeat(gray[..., None], 3, axis=2).astype(np.float32)
    for number, mask in enumerate(masks):
        color = np.array(COLORS[number % len(COLORS)], dtype=np.float32)
        edge = mask & ~_eroded(mask)
        canvas[mask] = 0.65 * canvas[mask] + 0.35 * color
        canvas[edge] = color
    picture = Image.fromarray(upright(canvas.round().astype(np.uint8)))
    draw = ImageDraw.Draw(picture)
    for mask, label in zip(masks, labels, strict=True):
        if label and mask.any():
            y, z = (float(axis.mean()) for axis in np.nonzero(mask))
            place = (mask.shape[0] - 1 - y, mask.shape[1] - 1 - z)
            draw.text(place, label, fill=(255, 255, 255), font=ImageFont.load_default(10), anchor="mm")
    return np.asarray(picture)


def upright(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a slice (Y, Z, …) in RAS+ as it is looked at: rows from head to foot, columns from front to back."""
    return np.ascontiguousarray(np.flip(plane, axis=(0, 1)).swapaxes(0, 1))


def compose_rows(rows: list[tuple[Pixels, Pixels, Pixels]], height_px: int, title: str) -> Image.Image:
    """Set slices, references and predictions into one picture under a title, each row `height_px` high."""
    tiles = []
    for gray, reference, prediction in rows:
        plain = np.repeat(upright(gray)[..., None], 3, axis=2)
        tiles.append([_scaled(array, height_px) for array in (plain, reference, prediction)])
    width = max(sum(tile.width for tile in row) for row in tiles)
    picture = Image.new("RGB", (width, HEADER_PX + height_px * len(tiles)))
    ImageDraw.Draw(picture).text((4, 2), title, fill=(255, 255, 255), font=ImageFont.load_default(12))
    for index, row in enumerate(tiles):
        left = 0
        for tile in row:
            picture.paste(tile, (left, HEADER_PX + index * height_px))
            left += tile.width
    return picture


def _scaled(array: Pixels, height_px: int) -> Image.Image:
    image = Image.fromarray(array)
    return image.resize((max(1, round(image.width * height_px / image.height)), height_px))


def _labels(classes: Tensor, names: list[str], scores: Tensor | None) -> list[str]:
    labels = []
    for index, value in enumerate(classes.tolist()):
        name = names[int(value)] if len(names) > 1 and int(value) < len(names) else ""
        score = f"{float(scores[index]):.2f}" if scores is not None else ""
        labels.append(f"{name} {score}".strip())
    return labels


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    padded = np.pad(mask, 1)
    return mask & padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
