"""``simulate``: write a data set of digital spines in the layout of a real one, with its marker file."""

import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from spineseg.config import program
from spineseg.errors import ConfigError, DataError, FormatError
from spineseg.processors import processors

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from spineseg.phantom import DifficultyName, Layout, Size

MARKER: Final = "SIMULATED.json"
FORMAT: Final = "simulated 1"
_RECORDS: Final = ".records"
_CASE_GB: Final = {"small": 0.5, "full": 2.0}  # peak of one process


@dataclass(frozen=True)
class Settings:
    """What decides the bytes of every case; the number of cases does not, so that a set can grow."""

    layout: "Layout"
    seed: int
    difficulty: "DifficultyName"
    size: "Size"
    generator: str

    def differences(self, found: dict[str, Any]) -> list[str]:
        """Name the settings in which a marker's content differs."""
        return [f"{k}={found.get(k)} (asked: {v})" for k, v in asdict(self).items() if found.get(k) != v]


def simulate_set(
    output: Path,
    *,
    layout: "Layout" = "csi2014",
    cases: int = 10,
    seed: int = 0,
    difficulty: "DifficultyName" = "default",
    size: "Size" = "small",
    workers: int | None = None,
) -> Path:
    """Write ``cases`` simulated cases and ``SIMULATED.json`` into a folder.

    Cases are made in ``<output>.partial``, which has a marker without cases from its start, and moved when all are
    complete, so that no folder ever holds simulated cases without a marker. What an earlier run with the same settings
    completed is used again. The marker holds each case's facts (see ``PhantomOptions``).

    Args:
        output: folder of the set.
        layout: ``csi2014`` or ``kaggle``.
        cases: how many.
        seed: of the set. Who is drawn as case i depends on (seed, layout, i) and the difficulty alone; two layouts show
            other persons, two difficulties or sizes may show the same one.
        difficulty: how varied subjects and scanners are.
        size: ``full`` as the real set, or ``small``.
        workers: processes; None = one a core. They do not change a byte.

    Returns:
        The path of the marker file.

    Raises:
        ConfigError: a bad value, or ``output`` holds a set with other settings.
        DataError: ``output`` holds files that are not simulated.
    """
    from spineseg.phantom import GENERATOR_VERSION, PhantomOptions

    for name, value, least in (("cases", cases, 1), ("seed", seed, 0), ("workers", workers, 1)):
        if value is not None and value < least:
            raise ConfigError(f"simulate: {name}={value}; expected a whole number of at least {least}")
    options = PhantomOptions(layout, size, difficulty)
    settings = Settings(layout, seed, difficulty, size, GENERATOR_VERSION)
    kept = _existing(output, settings, cases)
    partial = output.with_name(output.name + ".partial")
    done = kept if len(kept) == cases else kept | _resume(partial, settings, cases)
    missing = [index for index in range(cases) if index not in done]
    if done:
        print(f"{output}: {len(done)} of {cases} cases are complete and used again")
    if len(kept) == cases:
        return output / MARKER
    if missing:
        _simulate_all(partial, options, seed, missing, workers)
        done |= _resume(partial, settings, cases)
    _publish(partial, output, settings, [done[index] for index in range(cases)])
    return output / MARKER


def _existing(output: Path, settings: Settings, cases: int) -> dict[int, dict[str, Any]]:
    """Cases of an earlier run that are still whole."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return {}
    marker = output / MARKER
    if not marker.is_file():
        raise DataError(
            f"{output} is not empty and has no {MARKER}: it may hold real data. "
            "Choose another output= or an empty folder."
        )
    found = _read_marker(marker)
    differences = settings.differences(found)
    if differences:
        raise ConfigError(
            f"{output} holds a simulated set with other settings: {', '.join(differences)}. "
            "Choose another output=, the same settings, or delete the folder."
        )
    if len(found["cases"]) > cases:
        raise ConfigError(
            f"{output} holds {len(found['cases'])} cases, asked: {cases}. "
            f"Set cases={len(found['cases'])} or choose another output=."
        )
    return {record["index"]: record for record in found["cases"] if _whole(output, record)}


def _read_marker(marker: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(marker.read_text())
    except ValueError as error:
        raise FormatError(f"{marker} is no JSON ({error}); delete the folder and run simulate again") from None
    if found.get("format") != FORMAT:
        raise FormatError(f"{marker} has format '{found.get('format')}', expected '{FORMAT}', which simulate writes")
    return found


def _whole(root: Path, record: dict[str, Any]) -> bool:
    from spineseg.data.files import sha256_of_file

    return all(
        (root / name).is_file() and sha256_of_file(root / name) == digest for name, digest in record["files"].items()
    )


def _resume(partial: Path, settings: Settings, cases: int) -> dict[int, dict[str, Any]]:
    """Cases that an interrupted run completed; a staging folder of other settings is cleared."""
    records = partial / _RECORDS
    if partial.exists() and not records.is_dir():
        raise DataError(f"{partial} exists and was not made by simulate; move it away or choose another output=")
    note = records / "settings.json"
    if records.is_dir() and (not note.is_file() or settings.differences(json.loads(note.read_text()))):
        shutil.rmtree(partial)
    if not records.is_dir():
        records.mkdir(parents=True)
        # Whoever reads the folder of an interrupted run sees that it is simulated.
        _write_json(partial / MARKER, _marker(settings, []))
        _write_json(note, asdict(settings))
    found = [json.loads(path.read_text()) for path in sorted(records.glob("case-*.json"))]
    return {record["index"]: record for record in found if record["index"] < cases and _whole(partial, record)}


def _simulate_all(partial: Path, options: Any, seed: int, indices: list[int], workers: int | None) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    count = min(workers or _default_workers(options.size), len(indices))
    columns = (TextColumn("simulate"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("cases", total=len(indices))
        if count == 1:
            for index in indices:
                _simulate_one(partial, options, seed, index)
                bar.advance(task)
            return
        # Spawned, not forked: threads of the parent cannot be left locked in a child.
        with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
            futures = [pool.submit(_simulate_one, partial, options, seed, index) for index in indices]
            try:
                for future in as_completed(futures):
                    future.result()
                    bar.advance(task)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _default_workers(size: str) -> int:
    """One a core, as many as the memory holds that is free or can be freed."""
    import psutil

    free_gb = psutil.virtual_memory().available / 1e9
    return max(1, min(processors(), int(free_gb / _CASE_GB[size])))


def _simulate_one(partial: Path, options: Any, seed: int, index: int) -> None:
    """Make one case and, last, the record that says it is complete."""
    from spineseg.phantom import simulate_case
    from spineseg.phantom.layouts import case_files, write_case

    case = simulate_case(seed, index, options)
    files = write_case(partial, options.layout, index, case)
    record = {"id": case_files(options.layout, index).id, "index": index, "files": files, "facts": case.facts}
    _write_json(partial / _RECORDS / f"case-{index:05d}.json", record)


def _publish(partial: Path, output: Path, settings: Settings, records: list[dict[str, Any]]) -> None:
    """Move the finished cases to their place; the marker is never later than the cases."""
    content = _marker(settings, records)
    if not output.exists() or not any(output.iterdir()):
        _write_json(partial / MARKER, content)
        shutil.rmtree(partial / _RECORDS)
        if output.exists():
            output.rmdir()
        partial.replace(output)
        return
    for record in records:
        for name in record["files"]:
            if (partial / name).is_file():
                (output / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).replace(output / name)
    _write_json(output / MARKER, content)
    shutil.rmtree(partial)


def _marker(settings: Settings, records: list[dict[str, Any]]) -> dict[str, Any]:
    return {"format": FORMAT, **asdict(settings), "cases": records}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(content, indent=1) + "\n")
    draft.replace(path)


@program("simulate")
def main(cfg: "DictConfig") -> None:
    """Run ``simulate`` from its configuration."""
    marker = simulate_set(
        Path(cfg.output),
        layout=cfg.layout,
        cases=cfg.cases,
        seed=cfg.seed,
        difficulty=cfg.difficulty,
        size=cfg.size,
        workers=cfg.workers,
    )
    print(f"{marker.parent}: {cfg.cases} simulated cases, layout {cfg.layout} ({marker.name} says so)")


if __name__ == "__main__":
    main()
