"""Weights & Biases as a guest: offline unless asked, mended after a resume, and never able to harm training."""

import os
import secrets
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning_utilities.core.rank_zero import rank_zero_only, rank_zero_warn

from spineseg.data.files import write_text
from spineseg.errors import ConfigError
from spineseg.loggers.table import read_table
from spineseg.loggers.wandb_files import read_history, wait_until_ended, wait_until_settled
from spineseg.runs import shareable

Mode = Literal["offline", "online", "disabled"]
STEP = "trainer/global_step"


class WandbLogger(LightningWandbLogger):
    """Tracks a run with Weights & Biases.

    - The mode is given to the one W&B run; Lightning's own `offline` would set it for the whole process.
    - A resumed run goes on under its id. W&B writes late and starts a second file, so what `log.csv` holds and the
      files do not is logged again first, and what they hold is not logged twice: the merged history equals the log.
    - Any failure of W&B (no network, no key, no room, a killed service) ends the tracking with a warning, not the run;
      where `online` fails, the run is tracked offline.
    - Neither the machine's paths, its name nor the command line are sent (they may name a patient).

    Args:
        run_folder: The run's folder; files lie in its `wandb/`.
        resumed_step: Training batches that the loaded checkpoint has seen; null for a new run.
        mode: `offline`, `online` or `disabled`.
        project: W&B project.
        name: Shown name of the run.
        group: Group of runs.
        tags: Tags of the run.
        start_timeout_s: How long `online` waits for the server.
    """

    def __init__(
        self,
        run_folder: Path,
        resumed_step: int | None = None,
        mode: Mode = "offline",
        project: str = "spineseg",
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        start_timeout_s: float = 30.0,
    ) -> None:
        if mode not in ("offline", "online", "disabled"):
            raise ConfigError(f"logger.wandb.mode={mode}: expected offline, online or disabled")
        super().__init__(name=name, save_dir=str(run_folder), project=project, group=group, tags=list(tags or []))
        self.mode: Mode = mode
        self._folder = Path(run_folder)
        self._resumed_step = resumed_step
        self._timeout_s = start_timeout_s
        self._there: set[tuple[int, str]] = set()
        self._row = 0

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return the W&B run, started at first use; a stand-in that takes everything when W&B is off or has failed."""
        if self.mode == "disabled":
            return _Nothing()
        if self._experiment is None:
            self._guarded(self._start)
        return self._experiment or _Nothing()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the values of one step that W&B does not hold yet."""
        self._log(dict(metrics), step)

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """Log pictures (arrays, PIL images or files) under one name."""

        def send() -> None:
            import wandb

            captions = kwargs.get("caption") or [None] * len(images)
            shown = [wandb.Image(image, caption=text) for image, text in zip(images, captions, strict=True)]
            self._log({key: shown}, step)

        if self.mode != "disabled":
            self._guarded(send)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Log the configuration without secrets and paths."""
        if self.mode != "disabled":
            config = shareable(dict(params))
            self._guarded(lambda: self.experiment.config.update(config, allow_val_change=True))

    @rank_zero_only
    def log_summary(self, values: Mapping[str, float | None]) -> None:
        """Set final values, such as held-out mAP50 and Dice, which have no step."""
        if self.mode != "disabled":
            self._guarded(lambda: self.experiment.summary.update(dict(values)))

    @rank_zero_only
    def log_missing(self, metrics: Mapping[str, float], step: int) -> None:
        """Log values that a killed run may not have logged; those that are there are skipped as always."""
        self._log(dict(metrics), step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Keep the W&B run open: the scores of the held-out split come after the fit. `close` ends it."""

    @rank_zero_only
    def close(self) -> None:
        """End the W&B run, so that another one can start in this process."""
        if self._experiment is not None:
            self._guarded(self._finish)
            self._experiment = None

    def _start(self) -> None:
        known = self._id_file.is_file()
        # A W&B agent has named the run that its sweep waits for.
        given = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
        self._id = self._id_file.read_text().strip() if known else given or secrets.token_hex(4)
        write_text(self._id_file, f"{self._id}\n")
        self._end_open_run()
        self._read_back()
        try:
            self._experiment = self._init(self.mode)
        except Exception as error:
            if self.mode == "online":
                rank_zero_warn(
                    f"W&B cannot be reached ({error}); the run is tracked offline, `wandb sync` sends it later"
                )
            self.mode = "offline"
            # W&B's helper process may still hold the run's id: from this try, or from a start that was killed.
            _forget_service()
            self._read_back()
            self._experiment = self._init(self.mode)
        self._experiment.define_metric(STEP)
        self._experiment.define_metric("*", step_metric=STEP, step_sync=True)
        self._replay()

    def _end_open_run(self) -> None:
        """End a W&B run that this process left open; were it ended later, its last rows would be written twice."""
        import wandb

        if wandb.run is not None:
            same = wandb.run.id == self._id
            wandb.run.finish()
            if same:
                wait_until_ended(self._folder, str(self._id))

    def _read_back(self) -> None:
        """Learn what earlier starts of this run have written."""
        run_id = str(self._id)
        wait_until_settled(self._folder, run_id)
        history = read_history(self._folder, run_id)
        self._there = {(int(row.values[STEP]), name) for row in history if STEP in row.values for name in row.values}
        self._row = 1 + max((row.row for row in history), default=-1)

    def _finish(self) -> None:
        self._experiment.finish()  # type: ignore[union-attr]
        wait_until_ended(self._folder, str(self._id))

    def _init(self, mode: str) -> Any:
        import wandb

        settings = wandb.Settings(
            mode=mode,  # type: ignore[arg-type]
            console="off",
            disable_git=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_machine_info=True,
            host="-",
            init_timeout=self._timeout_s,
            login_timeout=self._timeout_s,
            silent=True,
        )
        chosen = {key: self._wandb_init[key] for key in ("name", "project", "group", "tags", "dir")}
        # Offline there is nothing to resume; the id alone joins the files.
        resume: Literal["allow"] | None = "allow" if mode == "online" else None
        return wandb.init(id=self._id, resume=resume, reinit="finish_previous", settings=settings, **chosen)

    def _replay(self) -> None:
        """Log what the files of an earlier start lack of `log.csv`."""
        table = self._folder / "log.csv"
        if self._resumed_step is None or not table.is_file():
            return
        for (step, epoch), rows in groupby(read_table(table), key=lambda row: (row.step, row.epoch)):
            added = {} if epoch is None else {"epoch": epoch}
            self._send({row.name: row.value for row in rows} | added, step)

    def _log(self, values: dict[str, Any], step: int | None) -> None:
        if self.mode == "disabled":
            return
        if self._experiment is None:
            _ = self.experiment
        if self._experiment is not None:
            self._guarded(lambda: self._send(values, step))

    def _send(self, values: dict[str, Any], step: int | None) -> None:
        fresh = {name: value for name, value in values.items() if step is None or (step, name) not in self._there}
        if not fresh.keys() - {"epoch"}:
            return
        if step is not None:
            fresh[STEP] = step
            self._there.update((step, name) for name in values if name != "epoch")
        self._experiment.log(fresh, step=self._row)  # type: ignore[union-attr]
        self._row += 1

    def _guarded(self, action: Callable[[], Any]) -> None:
        """Do something with W&B; when it fails, say so once and go on without it."""
        try:
            action()
        except Exception as error:  # whatever W&B raises must not end the training
            self.mode = "disabled"
            self._experiment = None
            rank_zero_warn(
                f"W&B failed ({type(error).__name__}: {error}); the run goes on without it, log.csv holds every value"
            )
            _forget_service()

    @property
    def _id_file(self) -> Path:
        return self._folder / "wandb" / "id"


class _Nothing:
    """Stands in for a W&B run: has every attribute, takes every call, does nothing."""

    def __getattr__(self, name: str) -> "_Nothing":
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> "_Nothing":
        return self


def _forget_service() -> None:
    """End W&B's helper process now, where its failure can be swallowed, rather than at exit with a traceback."""
    try:
        import wandb

        wandb.teardown()
    except Exception:
        return
