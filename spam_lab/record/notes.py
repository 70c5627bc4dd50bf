"""What the record says in words: a note of a run, and one of an experiment that gives its metrics'
units and how to find a sweep.

MLflow's pages show `mlflow.note.content` as Markdown. Pure, like `entries`: nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence

from spam_lab.record.store import RunDirectory, Status

NOTE = "mlflow.note.content"
"""MLflow's tag of a note, of a run as of an experiment."""

EXPERIMENT_NOTE = """\
Trainings at one scale. A sweep is a run of its own, its trainings are its children.

* **One sweep:** search for ``tags.`spam_lab.sweep.NAME` = 'true'``; then *Sort* by a \
metric (the list is flat) and the chart symbol. A training is named by what is unusual \
about it in its first sweep.
* **The figure or table:** open the sweep's own run, *Artifacts*, `exhibit`.
* **Two trainings:** tick both, *Compare*, *Show diff only*.

| metric | unit |
|---|---|
| `train/loss`, `validation/loss` | nats a token |
| `validation/perplexity` | exp of the loss |
| `train/grad_norm` | L2 norm before clipping |
| `train/lr` | learning rate of the step |
| `train/tokens_per_second` | tokens a second |
| `train/step_seconds`, `train/optimizer_seconds` | seconds a step |
| `spam/clipped_total` | gradient entries clipped so far |
| `spam/clipped_fraction` | share of the step's entries, 0 to 1 |
| `spam/resets` | resets of the moments so far |
| `spam/warmup_scale` | factor on the learning rate after a reset |
| `diverged` | 1 where the training diverged, else 0 |
"""


def run_note(directory: RunDirectory, status: Status, sweeps: Sequence[str]) -> str:
    """State, sweeps, and where the training and its model are kept."""
    lines = [f"**{status.state}**, step {status.step} of {status.steps}"]
    if sweeps:
        lines.append(f"Sweeps: {', '.join(sweeps)}")
    lines.append(f"Run directory: `{directory.path.resolve()}`")
    folder = directory.checkpoints_path
    models = [*sorted(folder.glob("step_*.pt")), *folder.glob("model.safetensors")]
    if models:
        lines.append(f"Model: `{models[-1].resolve()}`")
    return "\n\n".join(lines)
