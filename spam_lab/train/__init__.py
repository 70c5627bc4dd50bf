"""The training room: the loop and what it needs (schedule, evaluation, checkpoints, telemetry).

It imports neither hydra nor mlflow nor optuna, knows nothing of sweeps, and promises that a run
killed at any instant goes on bit for bit from its last checkpoint.
"""
