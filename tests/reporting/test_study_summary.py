"""The summary run of a study, as W&B's own file has it."""

import json
from pathlib import Path
from typing import Any

from spineseg.loggers.study_summary import log_study
from spineseg.loggers.wandb_files import read_history, read_records, wandb_files
from tests.reporting.study_cases import write_matrix


def test_summary_run_holds_tables_figures_and_counts(tmp_path: Path) -> None:
    folder = write_matrix(tmp_path / "flips", {"none": 1, "x": 3}, seeds=(0,), simulated=True, failed=[("x", 0, 1)])
    assert log_study(folder.root, tmp_path / "figures")
    name = (folder.root / "wandb" / "id").read_text().strip()
    (file,) = wandb_files(folder.root, name)
    records = list(read_records(file))
    (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (run.run_group, run.display_name, run.project) == ("flips", "flips summary", "spines")
    assert set(run.tags) == {"study", "summary"}
    logged = {key for row in read_history(folder.root, name) for key in row.values}
    for table in ("study", "study_ablation", "study_jobs"):
        assert any(key.startswith(f"tables/{table}") for key in logged)
    assert any(key.startswith("figures/study_arms") for key in logged)
    summary: dict[str, Any] = {}
    for record in records:
        if record.WhichOneof("record_type") == "summary":
            summary |= {
                item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.summary.update
            }
    assert summary["jobs"] == 4
    assert summary["jobs/failed"] == 1
    assert "SIMULATED" in summary["captions/study"]
    config = {item.key: json.loads(item.value_json) for record in records for item in record.config.update}
    assert str(tmp_path) not in json.dumps([config, summary])


def test_what_was_not_tracked_gets_no_summary(tmp_path: Path) -> None:
    folder = write_matrix(tmp_path / "flips", {"none": 1}, seeds=(0,), wandb="disabled")
    assert not log_study(folder.root, tmp_path / "figures")
    assert not (folder.root / "wandb").exists()
