"""An exhibit's files among the artifacts of its sweep, where whoever opens the sweep in MLflow's
pages looks for them.

It promises to touch nothing but the artifact folder `exhibit` of the sweep's own run, where the
sync never writes: the record keeps its one writer, and needs no lock here. Files of the same name
are replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spam_lab.record import entries
from spam_lab.record.mlflow_store import open_store

FOLDER = "exhibit"


def attach(tracking_uri: str, scale: str, sweep: str, files: Sequence[Path]) -> bool:
    """Put the files beside the sweep of this name; False where the record has no such sweep.

    Raises:
        TrackingError: the record, or where it keeps artifacts, cannot be used.
    """
    with open_store(tracking_uri) as client:
        experiment = client.get_experiment_by_name(entries.experiment_name(scale))
        if experiment is None:
            return False
        found = client.search_runs(
            [experiment.experiment_id],
            f"tags.`{entries.KIND}` = 'sweep' and tags.`{entries.SWEEP}` = '{sweep}'",
            max_results=1,
            order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
        )
        for run in found:
            for path in files:
                client.log_artifact(run.info.run_id, str(path), FOLDER)
        return bool(found)
