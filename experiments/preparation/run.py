"""How long a case takes to prepare: spineseg's `prepare` against nnU-Net's `3d_fullres`; README.md says what is asked.

`python experiments/preparation/run.py`
"""

import os

# One core for both, before any library counts them.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
    os.environ[_name] = "1"
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import argparse  # noqa: E402
import csv  # noqa: E402
import platform  # noqa: E402
import shutil  # noqa: E402
import statistics  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from datetime import date  # noqa: E402
from importlib.metadata import version  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from spineseg.data.preparation import prepare_source  # noqa: E402
from spineseg.data.sources.kaggle import FOLDER, Kaggle  # noqa: E402
from spineseg.data.store import Resampling  # noqa: E402
from spineseg.geometry import SpacingMm, resample_labels_to, resampled_grid  # noqa: E402
from spineseg.simulate import simulate_set  # noqa: E402
from spineseg.volumes import read_volume, write_volume  # noqa: E402

HERE = Path(__file__).parent
PACKAGES = ("numpy", "scipy", "blosc2", "nnunetv2", "torch")
Row = dict[str, Any]


class NnUNet:
    """nnU-Net's own functions on a raw data set, a case at a time, as its command does in one process.

    Args:
        raw: a raw data set as ``export=nnunet`` writes it.
        home: folder of nnU-Net's three folders, which the environment names.
        number: the id under which nnU-Net is to find it.
        spacing_mm: target spacing of ``3d_fullres``; None: as it plans.
    """

    def __init__(self, raw: Path, home: Path, number: int, spacing_mm: float | None) -> None:
        link = home / "raw" / f"Dataset{number}_timed"
        link.symlink_to(raw)
        # It reads its folders from the environment when it is imported.
        import torch
        from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
        from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
        from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

        torch.set_num_threads(1)
        self.extractor = DatasetFingerprintExtractor(number, 1, verbose=False)
        self.extractor.run(overwrite_existing=True)
        target = None if spacing_mm is None else [spacing_mm] * 3
        self.plans = PlansManager(ExperimentPlanner(number, overwrite_target_spacing=target).plan_experiment())
        self.configuration = self.plans.get_configuration("3d_fullres")
        self.preprocessor = self.configuration.preprocessor_class(verbose=False)
        self.dataset_json = self.extractor.dataset_json
        self.files = get_filenames_of_train_images_and_targets(str(link), self.dataset_json)
        self.output = home / "preprocessed" / link.name / "timed"
        self.output.mkdir(parents=True)

    def fingerprint(self, case: str) -> None:
        """What it reads of a case before it plans."""
        entry = self.files[case]
        self.extractor.analyze_case(entry["images"], entry["label"], self.plans.image_reader_writer_class)

    def preprocess(self, case: str) -> None:
        """What it calls preprocessing: read, crop, normalise, resample, sample locations, save."""
        entry = self.files[case]
        for earlier in self.output.glob(f"{case}*"):  # blosc2 does not write over a file
            earlier.unlink()
        self.preprocessor.run_case_save(
            str(self.output / case), entry["images"], entry["label"], self.plans, self.configuration, self.dataset_json
        )


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def anisotropic(root: Path, output: Path, spacing_mm: tuple[float, float, float]) -> Path:
    """The same cases on another grid, so that both have to resample; nearest values, so that padding stays padding."""
    for part in ("volumes", "segmentations"):
        for path in sorted((root / FOLDER / part).iterdir()):
            volume = read_volume(path)
            write_volume(
                output / FOLDER / part / path.name,
                resample_labels_to(volume, resampled_grid(volume.grid, spacing_mm)),
            )
    shutil.copy(root / "SIMULATED.json", output)
    return output


def compare(
    name: str, root: Path, work: Path, number: int, spacing_mm: float | None, resampling: Resampling, rounds: int
) -> list[Row]:
    """Each case by both in turns, the order changing with each; ours into an empty folder, its audit included."""
    ids = [case.id for case in Kaggle(root).cases()]
    spacing: SpacingMm = (spacing_mm, spacing_mm, spacing_mm)
    prepare_source(
        Kaggle(root), prepared_root=work / "raw", spacing_mm=spacing, split_seed=0, workers=1, export="nnunet"
    )
    [raw] = (work / "raw").glob("*-nnunet/Dataset*")
    theirs = NnUNet(raw, work.parent / "nnunet", number, spacing_mm)
    theirs.preprocess(ids[0])  # what is done once is not timed; ours was called above
    rows = []
    for turn in range(rounds):
        for position, case in enumerate(ids):
            target = work / "ours"
            shutil.rmtree(target, ignore_errors=True)
            source = Kaggle(root, exclude=[other for other in ids if other != case])

            def ours(source: Kaggle = source, target: Path = target) -> None:
                prepare_source(
                    source,
                    prepared_root=target,
                    spacing_mm=spacing,
                    split_seed=0,
                    workers=1,
                    resampling=resampling,
                )

            parts: list[tuple[str, Callable[[], object]]] = [
                ("ours_s", ours),
                ("fingerprint_s", lambda case=case: theirs.fingerprint(case)),
                ("preprocess_s", lambda case=case: theirs.preprocess(case)),
            ]
            row: Row = {"set": name, "round": turn, "case": case}
            for key, part in parts if (turn + position) % 2 else parts[::-1]:
                row[key] = seconds(part)
            row["planned_spacing_mm"] = " ".join(f"{value:g}" for value in theirs.configuration.spacing[::-1])
            row["shape"] = " ".join(map(str, read_volume(root / FOLDER / "volumes" / f"{case}.nii").shape))
            rows.append(row)
            print(row, flush=True)
    return rows


def table(rows: list[Row], options: argparse.Namespace) -> str:
    """Medians over cases and rounds, and the median and extremes of the ratios of single cases."""
    lines = [
        f"{options.cases} simulated Kaggle cases, size {options.size}, {options.rounds} rounds, in turns in one "
        f"process on one core; {platform.machine()}, {', '.join(f'{name} {version(name)}' for name in PACKAGES)}, "
        f"{date.today()}",
        "",
        "| set | planned spacing | ours: audit + store, s | nnU-Net: preprocess, s | fingerprint, s | ratio "
        "(preprocess) | lowest–highest | ratio with fingerprint |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["set"] for row in rows):
        mine = [row for row in rows if row["set"] == name]
        ours, theirs, before = (
            statistics.median(row[key] for row in mine) for key in ("ours_s", "preprocess_s", "fingerprint_s")
        )
        ratios = [row["preprocess_s"] / row["ours_s"] for row in mine]
        both = statistics.median((row["preprocess_s"] + row["fingerprint_s"]) / row["ours_s"] for row in mine)
        lines.append(
            f"| {name} | {mine[0]['planned_spacing_mm']} | {ours:.2f} | {theirs:.2f} | {before:.2f} | "
            f"{statistics.median(ratios):.1f} | {min(ratios):.1f}–{max(ratios):.1f} | {both:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make the cases, run, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--size", choices=("full", "small"), default="full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sets", choices=("same", "other", "both"), default="both")
    parser.add_argument("--output", type=Path, default=HERE)
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for part in ("raw", "preprocessed", "results"):
            (work / "nnunet" / part).mkdir(parents=True)
            os.environ[f"nnUNet_{part}"] = str(work / "nnunet" / part)
        root = work / "isotropic"
        simulate_set(root, layout="kaggle", cases=options.cases, size=options.size, workers=1)
        if options.sets != "other":
            rows += compare("1.5 mm, nothing to resample", root, work / "a", 501, None, "linear", options.rounds)
        if options.sets != "same":
            coarse = anisotropic(root, work / "anisotropic", (1.0, 1.0, 2.5))
            name = "1 × 1 × 2.5 mm to 1.5 mm, order 3"
            rows += compare(name, coarse, work / "b", 502, 1.5, "cubic", options.rounds)
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / "table.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    text = table(rows, options)
    (options.output / "table.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
