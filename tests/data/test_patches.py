"""Training patches: pure draws, straight from the store, with class indices; and the data module around them."""

import pickle
from collections.abc import Callable
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spineseg.data.datamodules import PatchDataModule
from spineseg.data.normalization import Normalization
from spineseg.data.patch_augmentation import VolumeAugmentation
from spineseg.data.patches import CUBES, POSITIONS, PatchBatch, PatchDataset, Spacing, class_indices, collate_patches
from spineseg.data.sources.folder import Folder
from spineseg.data.store import StoredCase, build_case, open_store
from spineseg.errors import ConfigError
from spineseg.geometry import Volume

WINDOW = Normalization(low=-200, high=1000, mean=100, sd=400)
LEVELS = (22, 23, 24)
SHAPES = {"a": (30, 41, 62), "b": (9, 36, 50), "thin": (1, 40, 44)}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StoredCase]:
    """Noise with a large level, a tiny one, and one that the class list does not hold; one case is a slice thick."""
    folder: Path = tmp_path_factory.mktemp("store")
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        image = rng.integers(-1000, 1500, shape).astype(np.int16)
        labels = np.zeros(shape, np.uint8)
        labels[:, 5:25, 5:20] = 24
        labels[:, 30:32, 30:32] = 22
        labels[:, 5:15, 35:40] = 19
        build_case(folder / name, Volume(image, np.eye(4)), Volume(labels, np.eye(4)), (None, None, None), "key")
    return open_store(folder, list(SHAPES))


def dataset(cases: dict[str, StoredCase], **settings: object) -> PatchDataset:
    defaults: dict[str, object] = {"size": (16, 20, 24), "normalization": WINDOW, "seed": 3}
    return PatchDataset(cases, LEVELS, **{**defaults, **settings})  # type: ignore[arg-type]


def whole(case: StoredCase) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The case, normalised and with class indices, by numpy alone."""
    everything = (slice(None), slice(None), slice(None))
    hu, ids = case.read_image_box(everything), case.read_label_box(everything)
    labels = np.zeros(ids.shape, np.uint8)
    for i, level in enumerate(LEVELS):
        labels[ids == level] = i + 1
    return ((np.clip(hu, -200, 1000) - 100) / 400).astype(np.float32), labels


class Wide:
    """Reads more than the patch on all sides, and cuts it off again."""

    def read_size(self, size: tuple[int, int, int]) -> tuple[int, int, int]:
        return size[0] + 5, size[1] + 4, size[2] + 13

    def __call__(
        self,
        image: NDArray[np.float32],
        labels: NDArray[np.uint8],
        size: tuple[int, int, int],
        rng: np.random.Generator,
        spacing_mm: Spacing = CUBES,
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        inner = tuple(slice((n - side) // 2, (n - side) // 2 + side) for n, side in zip(image.shape, size, strict=True))
        return image[inner], labels[inner]


@pytest.mark.parametrize("size", [(16, 20, 24), (40, 30, 80), (64, 64, 64), (1, 8, 8)])
@pytest.mark.parametrize("augmentation", [None, Wide()])
def test_a_patch_is_a_slice_of_the_padded_volume(
    cases: dict[str, StoredCase], size: tuple[int, int, int], augmentation: Wide | None
) -> None:
    """Also where the case is smaller than the patch, or one slice thick: air and background all round."""
    data = dataset(cases, size=size, augmentation=augmentation)
    padded = {}
    for name, case in cases.items():
        image, labels = whole(case)
        padded[name] = np.pad(image, 100, constant_values=WINDOW.air), np.pad(labels, 100)
    for draw in range(24):
        sample = data[draw]
        box = tuple(slice(100 + a, 100 + a + n) for a, n in zip(sample["ref"].corner, size, strict=True))
        image, labels = padded[sample["ref"].case]
        assert sample["image"].dtype == torch.float32 and sample["labels"].dtype == torch.uint8
        np.testing.assert_allclose(sample["image"].numpy(), image[box], atol=1e-6)
        np.testing.assert_array_equal(sample["labels"].numpy(), labels[box])


def test_a_patch_leaves_the_scan_only_where_it_is_larger(cases: dict[str, StoredCase]) -> None:
    data = dataset(cases, size=(16, 20, 60))
    for draw in range(60):
        case, corner = data[draw]["ref"]
        for first, side, n in zip(corner, data.size, SHAPES[case], strict=True):
            assert min(0, n - side) <= first <= max(0, n - side)


def test_a_turned_patch_of_a_small_case_is_full(cases: dict[str, StoredCase]) -> None:
    """Zoomed in, what is read may miss a scan that lies at the patch's rim altogether: air."""
    turning = VolumeAugmentation(spatial=1, scale=0.6, rotation=(5, 5, 5), intensity=0)
    data = dataset(cases, size=(48, 48, 48), augmentation=turning, foreground=0)
    samples = [data[draw] for draw in range(60)]
    assert all(sample["image"].shape == sample["labels"].shape == (48, 48, 48) for sample in samples)
    blank = [sample for sample in samples if (sample["image"] == WINDOW.air).all()]
    assert 0 < len(blank) < 40 and {sample["ref"].case for sample in blank} == {"thin"}
    assert not any(sample["labels"].any() for sample in blank)


def test_a_draw_is_a_pure_function_of_seed_and_position(cases: dict[str, StoredCase]) -> None:
    forwards, other = dataset(cases), dataset(cases)
    np.random.seed(5)  # noqa: NPY002  the global generator must not matter
    torch.manual_seed(9)
    first = {draw: forwards[draw] for draw in range(30)}
    for draw in reversed(range(30)):
        again = other[draw]
        assert again["ref"] == first[draw]["ref"]
        assert torch.equal(again["image"], first[draw]["image"]) and torch.equal(again["labels"], first[draw]["labels"])
    refs = [first[draw]["ref"] for draw in range(30)]
    assert len(set(refs)) > 15
    assert [dataset(cases, seed=4)[draw]["ref"] for draw in range(30)] != refs


def test_all_cases_are_drawn_alike(cases: dict[str, StoredCase]) -> None:
    data = dataset(cases, length=7)
    rounds = [[data.case_of(3 * i + k) for k in range(3)] for i in range(20)]
    assert all(sorted(round_) == sorted(cases) for round_ in rounds)
    assert len({tuple(round_) for round_ in rounds}) > 1


def test_small_levels_are_centred_on_as_often_as_large_ones(cases: dict[str, StoredCase]) -> None:
    """A patch of one voxel is the voxel it was centred on; the tiny level is 0.1 % of the volume."""
    data = dataset(cases, size=(1, 1, 1), foreground=1.0)
    counts = np.bincount([int(data[draw]["labels"].item()) for draw in range(600)], minlength=4)
    assert counts[0] == counts[2] == 0
    assert abs(int(counts[1]) - int(counts[3])) < 4 * np.sqrt(600)


@pytest.mark.parametrize("share", [0.0, 0.33, 1.0])
def test_foreground_is_a_share_of_the_draws(cases: dict[str, StoredCase], share: float) -> None:
    """Single voxels again: what is found beyond the volume's own share was centred on a level."""
    only = {"a": cases["a"]}
    data = dataset(only, size=(1, 1, 1), foreground=share)
    found = np.mean([int(data[draw]["labels"].item()) > 0 for draw in range(1500)])
    own = float((whole(cases["a"])[1] > 0).mean())
    expected = share + (1 - share) * own
    assert abs(found - expected) <= 4 * np.sqrt(expected * (1 - expected) / 1500)


def test_a_sample_of_a_large_level_stands_for_it(cases: dict[str, StoredCase]) -> None:
    voxels = dataset(cases)._voxels(cases["a"], 24)
    _, labels = whole(cases["a"])
    assert len(voxels) == POSITIONS < (labels == 3).sum()
    assert len(np.unique(voxels, axis=0)) == POSITIONS and (labels[tuple(voxels.T)] == 3).all()
    assert len(dataset(cases)._voxels(cases["a"], 22)) == (labels == 1).sum()


def test_a_case_without_levels_of_the_list_is_drawn_from_anywhere(tmp_path: Path) -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[2:5, 2:5, 2:5] = 7
    image = Volume(np.zeros(labels.shape, np.int16), np.eye(4))
    build_case(tmp_path / "n", image, Volume(labels, np.eye(4)), (None, None, None), "key")
    data = dataset(open_store(tmp_path, ["n"]), size=(8, 8, 8), foreground=1.0)
    samples = [data[draw] for draw in range(20)]
    assert not any(sample["labels"].any() for sample in samples)
    assert len({sample["ref"] for sample in samples}) > 10


def test_patches_are_stacked_with_one_channel(cases: dict[str, StoredCase]) -> None:
    data = dataset(cases)
    batch = collate_patches([data[draw] for draw in range(3)])
    assert batch["images"].shape == batch["labels"].shape == (3, 1, 16, 20, 24)
    assert batch["refs"] == [data[draw]["ref"] for draw in range(3)]


def test_classes_follow_the_list() -> None:
    lookup = class_indices((26, 20, 7))
    assert lookup[[26, 20, 7]].tolist() == [1, 2, 3] and lookup.sum() == 6


def test_nothing_to_draw_from_is_said() -> None:
    with pytest.raises(ConfigError, match="no case"):
        dataset({})


@pytest.fixture
def module(
    make_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., PatchDataModule]:
    """A data module on tiny spines at 3 mm, prepared once."""
    root = tmp_path_factory.getbasetemp() / "patches"
    if not root.exists():
        make_folder(root=root / "folder")

    def make(**settings: object) -> PatchDataModule:
        # The four levels of the masks but T12.
        source = Folder(root / "folder", levels=["L1", "L2", "L3"], convention="verse", edge="ignore")
        defaults: dict[str, object] = {
            "spacing_mm": (3.0, 3.0, 3.0),
            "patch_size": (8, 8, 8),
            "epoch_patches": 8,
            "fold": 4,  # the hash gives six cases no test case there: three train, three validate
            "workers": 0,
        }
        return PatchDataModule(source, str(root / "prepared"), WINDOW, **{**defaults, **settings})  # type: ignore[arg-type]

    return make


def test_batches_of_an_epoch(module: Callable[..., PatchDataModule]) -> None:
    data = module(batch_size=3)
    assert set(data.train_dataset().ids) == set(data.split().train)
    assert (data.num_classes, data.channels, data.levels) == (4, 1, (20, 21, 22))
    batches = list(data.train_dataloader())
    # Whole batches only: an epoch of 8 asked for, 6 given.
    assert [batch["images"].shape for batch in batches] == [(3, 1, 8, 8, 8)] * 2
    assert data.state_dict() == {"epoch": 6, "batch": 3}
    seen = torch.cat([batch["labels"].flatten() for batch in batches])
    assert 0 < seen.max() <= 3


def test_validation_is_whole_cases_on_the_store_grid(module: Callable[..., PatchDataModule]) -> None:
    data = module(overfit="s1")
    (volume,) = list(data.val_dataloader())
    stored = open_store(data.prepared.store(data.spacing_mm), ["s1"])["s1"]
    everything = (slice(None), slice(None), slice(None))
    assert volume["case"] == "s1" and volume["spacing_mm"] == stored.spacing_mm
    assert volume["image"].dtype == torch.int16 and volume["labels"].dtype == torch.uint8
    np.testing.assert_array_equal(volume["image"].numpy(), stored.read_image_box(everything))
    ids = stored.read_label_box(everything)
    for i, level in enumerate((20, 21, 22)):
        np.testing.assert_array_equal(volume["labels"].numpy() == i + 1, ids == level)
    assert (ids == 19).any()  # T12 is in the mask, and background here


def test_some_of_the_validation_cases(module: Callable[..., PatchDataModule]) -> None:
    listed = module().split().val
    assert [case.id for case in module().val_dataset().cases] == list(listed)
    chosen = [case.id for case in module(validation_cases=1).val_dataset().cases]
    assert len(chosen) == 1 and chosen[0] in listed
    assert len(module(validation_cases=99).val_dataset()) == len(listed)


def test_a_dataset_travels_to_a_loader_process(module: Callable[..., PatchDataModule]) -> None:
    """Whatever has been opened and remembered before, it gives the same there."""
    data = module(augmentation=VolumeAugmentation(spatial=1, intensity=1)).train_dataset()
    expected = [data[draw] for draw in range(6)]
    there = pickle.loads(pickle.dumps(data))
    for draw, sample in enumerate(expected):
        assert there[draw]["ref"] == sample["ref"] and torch.equal(there[draw]["image"], sample["image"])


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_patches(
    module: Callable[..., PatchDataModule], monkeypatch: pytest.MonkeyPatch, world: int
) -> None:
    """What the processes see together is what one sees, none twice; each has as many."""
    alone = module(epoch_patches=12, batch_size=1)
    expected = [ref for batch in alone.train_dataloader() for ref in batch["refs"]]
    shares = []
    for rank in range(world):
        data = module(epoch_patches=12, batch_size=1)
        monkeypatch.setattr(type(data), "_place", property(lambda _, rank=rank: (rank, world)))
        shares.append([ref for batch in data.train_dataloader() for ref in batch["refs"]])
        monkeypatch.undo()
    assert [ref for group in zip(*shares, strict=True) for ref in group] == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"patch_size": (8, 8)}, "data.patch_size"),
        ({"foreground": 1.5}, "data.foreground"),
        ({"validation_cases": 0}, "data.validation_cases"),
        ({"spacing_mm": (1.5, 1.5)}, "data.spacing_mm"),
    ],
)
def test_settings_that_cannot_be(
    module: Callable[..., PatchDataModule], settings: dict[str, object], expected: str
) -> None:
    with pytest.raises(Exception, match=expected):
        module(**settings)


class Watching(lightning.LightningModule):
    """Notes what it is shown, and saves a checkpoint after the sixth batch: in the middle of the second epoch."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.checkpoint, self.seen = checkpoint, list[object]()

    def training_step(self, batch: PatchBatch, batch_index: int) -> torch.Tensor:
        self.seen += batch["refs"]
        return self.weight.sum()

    def on_train_batch_end(self, *_: object) -> None:
        if self.global_step == 6:
            self.trainer.save_checkpoint(self.checkpoint)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_resumed_run_goes_on_with_the_next_patch(module: Callable[..., PatchDataModule], tmp_path: Path) -> None:
    def fit(batch_size: int, resumed: Path | None = None) -> list[object]:
        watching = Watching(tmp_path / "inside.ckpt")
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=3,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(watching, datamodule=module(batch_size=batch_size), ckpt_path=resumed, weights_only=True)
        return watching.seen

    alone = fit(2)
    assert len(alone) == 24 and len(set(alone)) > 12
    assert fit(2, tmp_path / "inside.ckpt") == alone[12:]
    with pytest.raises(ConfigError, match="as many processes"):
        fit(1, tmp_path / "inside.ckpt")
