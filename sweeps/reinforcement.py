"""Reinforcement learning: PPO with SPAM beside PPO with Adam, on three environments (abstract).

The abstract names reinforcement learning and the paper prints no setting, so the learning rate, the
clipped gradient norm and ε are CleanRL's for PPO with Adam, and SPAM has the same. ΔT, N and the
memory of the second moment are those of the scale on CartPole, whose runs are as much shorter than
the paper's as the scale says. On MuJoCo they are the paper's own at every scale: a run there has
6400 updates at nano, and the paper's shortest has 10000.

SPAM's bias correction goes on at a reset, which makes the steps after it larger. Two controls ask
whether that is all: Adam at twice the rate, and SPAM with its correction restarted.
"""

from spam_lab.orchestrate.grid import Cell, Sweep, Value

ENVIRONMENTS = ("cartpole", "hopper", "pendulum")
METHODS = ("adam", "spam", "adam_twice", "spam_restarted")

TWICE = {"cartpole": 2 * 2.5e-4, "hopper": 2 * 3e-4, "pendulum": 2 * 3e-4}
"""Twice the learning rate of each environment's YAML."""

_UNSCALED: dict[str, dict[str, Value]] = {
    "adam": {"optimizer.beta2": 0.999},
    "spam": {
        "optimizer.beta2": 0.999,
        "optimizer.delta_t": 500,
        "optimizer.warmup_steps": 150,
        "optimizer.grace_steps": 20,
    },
}


def sweep() -> Sweep:
    """Two optimizers and two controls on three environments, five paired seeds."""
    return Sweep(
        name="reinforcement",
        description="Does PPO reach higher returns with SPAM than with Adam?",
        cells=tuple(
            Cell(
                {"panel": environment, "value": method},
                overrides(environment, method),
            )
            for environment in ENVIRONMENTS
            for method in METHODS
        ),
        seeds=(0, 1, 2, 3, 4),
    )


def overrides(environment: str, method: str) -> dict[str, Value]:
    """What a cell sets."""
    optimizer, _, control = method.partition("_")
    found: dict[str, Value] = {
        "task": f"reinforcement_{environment}",
        "optimizer": optimizer,
        "optimizer.eps": 1e-5,
        **({} if environment == "cartpole" else _UNSCALED[optimizer]),
    }
    if control == "twice":
        found["optimizer.lr"] = TWICE[environment]
    elif control == "restarted":
        found["optimizer.bias_correction"] = "restarted"
    return found
