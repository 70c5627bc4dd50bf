"""The plain Hydra application: Hydra's own help and config printing, and its launchers.

`python launch.py -m hydra/launcher=submitit_slurm ...` comes here: each of Hydra's jobs trains its
one run in the process that Hydra gives it. It plans nothing and leaves nothing; the lab's own path
(`cluster=...`) does.
"""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from spam_lab.config.compose import CONF, register, run_config
from spam_lab.config.fields import ConfigError
from spam_lab.config.schema import CommandConfig, check
from spam_lab.orchestrate.dispatch import run_here
from spam_lab.orchestrate.expand import request_of
from spam_lab.orchestrate.plan import make_plan
from spam_lab.orchestrate.run import Host


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run(config: DictConfig) -> str:
    """Train the one run of `config`, here and now; returns its final state."""
    register()
    command = OmegaConf.to_object(config)
    assert isinstance(command, CommandConfig)
    if command.sweep is not None or command.tuned is not None or command.dry_run:
        raise ConfigError(
            "sweep=..., tuned=... and dry_run=true are the lab's own: leave hydra's options out"
        )
    check(command)
    request = request_of(run_config(command))
    plan = make_plan([request], Path(command.paths.runs))
    plan.write([])
    run_here(plan, Host(command.train, command.cluster, command.paths))
    return str(plan.directory(plan.entries[0]).status().state)
