"""The program ``prepare``: audit a data set, split it, and store its volumes so that they load fast.

What it writes, ``<paths.prepared>/<source>-<hash>/``: ``cases.csv``, ``audit.json``, ``splits.json``, ``source.json``,
``records.json`` (what makes a second run read nothing) and ``store/<spacing>/``. With ``propose_exclusions=<file>`` it
audits only, and writes an exclusion file there.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from spineseg.config import build, check, program
from spineseg.errors import ConfigError

if TYPE_CHECKING:
    from spineseg.data.preparation import prepare_source
    from spineseg.data.prepared import Prepared, read_prepared
    from spineseg.data.sources import Source

__all__ = ["Prepared", "prepare_source", "read_prepared"]


def __getattr__(name: str) -> Any:
    """Import the work only when it is asked for: ``--help`` must not wait for the libraries that read volumes."""
    if name in __all__:
        from spineseg.data import preparation, prepared

        return getattr(preparation if name == "prepare_source" else prepared, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@program("prepare")
def main(cfg: DictConfig) -> None:
    """Prepare the configured source and say where it lies and what was found."""
    from spineseg.data.preparation import prepare_source
    from spineseg.data.prepared import read_prepared
    from spineseg.data.sources import Source
    from spineseg.data.store import as_spacing

    check(cfg)
    source = build(cfg.data.source, Source)  # type: ignore[type-abstract]
    if cfg.propose_exclusions is not None:
        _propose(source, Path(cfg.propose_exclusions), Path(cfg.paths.prepared), cfg.workers)
        return
    folder = prepare_source(
        source,
        prepared_root=Path(cfg.paths.prepared),
        spacing_mm=as_spacing(list(cfg.data.spacing_mm)),
        split_seed=cfg.data.split_seed,
        workers=cfg.workers,
        export=cfg.export,
        resampling=OmegaConf.select(cfg, "data.resampling", default="linear"),
    )
    prepared = read_prepared(folder)
    for case in prepared.cases:
        for finding in case.findings:
            print(f"{case.id}: {finding}")
    if prepared.exclusions.note is not None:
        print(prepared.exclusions.note)
    labelled = sum(case.label is not None for case in prepared.cases)
    note = ", simulated" if prepared.simulated else ""
    print(f"{len(prepared.cases)} cases ({labelled} with masks{note}) in {folder}")


def _propose(source: "Source", path: Path, prepared_root: Path, workers: int | None) -> None:
    """Write the audit's proposal of what to exclude, and say how to use it."""
    from spineseg.data.exclusions import write_exclusions
    from spineseg.data.preparation import audit_source
    from spineseg.data.proposal import propose

    if path.exists():
        raise ConfigError(f"propose_exclusions={path}: it is there, maybe edited by somebody; expected a new file")
    reports = audit_source(source, prepared_root=prepared_root, workers=workers)
    rows = propose(reports)
    write_exclusions(path, rows)
    for row in rows:
        print(f"{row.case}: {'; '.join(row.findings)}")
    print(
        f"{len(rows)} of {len(reports)} cases proposed for exclusion in {path}. Look at them, remove the rows that you "
        f"do not follow, then set data.source.exclude={path}"
    )


if __name__ == "__main__":
    main()
