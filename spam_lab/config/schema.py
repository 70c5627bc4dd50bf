"""The typed configuration of one run, and of the command that asks for runs.

Each dataclass is the base that a YAML group in `conf/` lists in its defaults, so a typo or a wrong
type is refused by name before anything runs. Fields carry units and ranges (`fields`); `check`
adds what spans several keys. An optimizer's own hyperparameters are declared beside its builder
(`spam_lab/optim/methods/`), as subclasses of `OptimizerConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from spam_lab.config.cluster import ClusterConfig
from spam_lab.config.fields import (
    ConfigError,
    Problem,
    choice,
    flag,
    mapping,
    number,
    problems,
    text,
)
from spam_lab.config.observe import ObserveConfig

PRETRAINING = "pretraining"
"""The task whose model, text and stabilizer have groups of their own."""

SCHEMA_VERSION = 3
"""Raised whenever the meaning of a stored config changes; part of every run_id."""


@dataclass
class ScaleConfig:
    """How big the question is asked. Divisors turn the paper's values into this scale's."""

    name: str = text(MISSING, doc="nano | small | paper; one MLflow experiment each")
    width: float = number(1, low=1, doc="divisor of hidden and intermediate sizes")
    heads: float = number(1, low=1, doc="divisor of attention heads")
    depth: float = number(1, low=1, doc="divisor of the number of layers")
    vocabulary: float = number(1, low=1, doc="divisor of the vocabulary")
    run_length: float = number(1, low=1, doc="divisor of total steps and of LR warm-up")
    interval: float = number(
        1, low=1, doc="divisor of delta_t, N, grace steps and of the second moment's memory"
    )
    lr: float = number(1, low=0, low_open=True, doc="multiplier of learning rates")
    sequence_length: int = number(256, low=2, unit="tokens", doc="sequence length")
    batch_size: int = number(512, low=1, unit="sequences", doc="global batch")
    evaluation_tokens: int = number(10_000_000, low=1, unit="tokens", doc="validation tokens")
    evaluation_every: int = number(1000, low=1, unit="steps", doc="steps between evaluations")
    tokenizer: str = text(MISSING, doc="tokenizer whose vocabulary fits this scale")


@dataclass
class ModelConfig:
    """A decoder-only language model, built by transformers' AutoModelForCausalLM."""

    name: str = text(MISSING, doc="label, e.g. llama_60m; the paper's name of the size")
    family: str = text(MISSING, doc="transformers model_type: llama, gpt_neox, opt, ...")
    hidden_size: int = number(MISSING, low=1, doc="width")
    intermediate_size: int = number(MISSING, low=1, doc="width of the feed-forward block")
    num_attention_heads: int = number(MISSING, low=1, doc="attention heads")
    num_hidden_layers: int = number(MISSING, low=1, doc="layers")
    vocab_size: int = number(MISSING, low=2, doc="rows of the embedding")
    initializer_range: float = number(
        0.02, low=0, low_open=True, doc="std of N(0, std) for linear and embedding weights"
    )
    architecture: dict[str, Any] = mapping(doc="further arguments of the family's own config")
    paper_steps: int = number(MISSING, low=1, unit="steps", doc="training steps in the paper")


@dataclass
class DataConfig:
    """A text corpus, tokenized and cut into training sequences."""

    name: str = text(MISSING, doc="label: embedded, c4, slimpajama")
    source: str = choice("embedded", ("embedded", "hub"), doc="shipped text, or a datasets stream")
    tokenizer: str = text(MISSING, doc="bpe_1000 | bpe_4000 (shipped) | t5 | a hub name or folder")
    layout: str = choice(
        "packed",
        ("packed", "document"),
        doc="packed: documents joined end to end; document: one truncated document a row (paper)",
    )
    sequence_length: int = number(MISSING, low=2, unit="tokens", doc="tokens a sequence")
    batch_size: int = number(MISSING, low=1, unit="sequences", doc="global batch of one step")
    hub_name: str | None = text(None, doc="datasets repository, e.g. allenai/c4")
    hub_subset: str | None = text(None, doc="configuration of the repository, e.g. en")
    files: str | None = text(
        None, doc="glob of local JSON-lines files (a mirror of the hub's, may be .gz); training"
    )
    validation_files: str | None = text(None, doc="the same, for validation")
    shuffle_block: int = number(
        10_000, low=1, unit="documents", doc="documents shuffled together in a stream"
    )
    workers: int = number(0, low=0, doc="tokenizing threads that read ahead; changes no batch")


@dataclass
class OptimizerConfig:
    """What every method has. A method's own hyperparameters are added by a subclass."""

    name: str = text(MISSING, doc="registry name of the method")
    lr: float = number(MISSING, low=0, low_open=True, doc="peak learning rate")
    weight_decay: float = number(0.0, low=0, doc="decoupled weight decay")
    clip_value: float | None = number(
        None, low=0, low_open=True, doc="clamp every gradient entry to +-this first (paper: 1e-3)"
    )
    clip_norm: float | None = number(
        None, low=0, low_open=True, doc="scale all gradients to at most this global L2 norm first"
    )
    learning_rates: dict[str, float] = mapping(doc="the paper's peak learning rate by model name")


@dataclass
class StabilizerConfig:
    """What is done to the model against spikes (the paper's Table 2); each combines with all.

    What the paper leaves open has its options here: the norm of Embed LN and the matrices of Scaled
    Init. `spam_lab/models/stabilizers.py` has the formulas.
    """

    name: str = text("none", doc="label: none, embed_ln, embed_detach, scaled_embed, scaled_init")
    embed_norm: str = choice(
        "none",
        ("none", "layer_norm", "rms_norm"),
        doc="Embed LN: normalise the embedding's output; the paper does not say with which norm",
    )
    embed_detach: float | None = number(
        None,
        low=0,
        high=1,
        low_open=True,
        doc="Embed Detach: multiply the embedding's gradient by this (Takase et al., GLM: 0.1); "
        "null is off",
    )
    scaled_embed: bool = flag(
        False, doc="Scaled Embed: multiply the embedding's output by sqrt(width)"
    )
    scaled_init: str = choice(
        "none",
        ("none", "residual", "all"),
        doc="Scaled Init: draw every matrix from N(0, 2/(5 width)), and divide by "
        "sqrt(2 layers) the outputs of attention and feed-forward (residual) or all (the "
        "paper's formula to the letter; it does not say which)",
    )


@dataclass
class TaskConfig:
    """What a run trains, and on what. A task other than pre-training adds its own by a subclass.

    Pre-training reads the groups `model`, `data` and `stabilizer`; no other task does, and those
    groups are no part of its runs' identity.
    """

    name: str = text("pretraining", doc="registry name of the task")
    batch_size: int | None = number(
        None, low=1, unit="rows", doc="rows of one step; pre-training has data.batch_size instead"
    )


@dataclass
class ScheduleConfig:
    """Learning-rate schedule: linear warm-up, cosine to `final_ratio` of the peak."""

    steps: int = number(MISSING, low=1, unit="steps", doc="training steps")
    warmup_steps: int = number(
        MISSING, low=0, unit="steps", doc="LR warm-up (SPAM's N is optimizer.warmup_steps)"
    )
    final_ratio: float = number(0.1, low=0, high=1, doc="last learning rate over the peak")


@dataclass
class PrecisionConfig:
    """Number formats of weights and of the forward and backward pass."""

    name: str = text(MISSING, doc="label: fp32, bf16, mixed, a8w8, a4w4")
    weights: str = choice("float32", ("float32", "bfloat16"), doc="dtype of weights and gradients")
    autocast: bool = flag(False, doc="run forward and backward in bfloat16 autocast")
    weight_bits: int | None = number(
        None,
        low=2,
        high=16,
        unit="bits",
        doc="round the weights of the blocks' linear layers in every pass; null does not",
    )
    activation_bits: int | None = number(
        None, low=2, high=16, unit="bits", doc="the same of what these layers read"
    )

    @property
    def quantized(self) -> bool:
        """Whether anything is rounded to few bits."""
        return self.weight_bits is not None or self.activation_bits is not None

    @property
    def formats(self) -> str:
        """The dtype of the weights, and the bits where there are some: "float32 A4W4"."""
        pairs = (("A", self.activation_bits), ("W", self.weight_bits))
        bits = "".join(f"{letter}{count}" for letter, count in pairs if count is not None)
        return f"{self.weights} {bits}".rstrip()


@dataclass
class EvaluationConfig:
    """Token-weighted validation loss over a fixed set of documents."""

    every: int = number(MISSING, low=1, unit="steps", doc="steps between evaluations")
    tokens: int = number(MISSING, low=1, unit="tokens", doc="validation tokens, at most")


@dataclass
class TrainConfig:
    """How the loop runs. Nothing here changes a run's numbers, so none of it is in its identity."""

    device: str = choice("auto", ("auto", "cpu", "cuda"), doc="auto takes a GPU where there is one")
    micro_batch_size: int | None = number(
        None, low=1, unit="sequences", doc="sequences a forward pass; null takes the whole batch"
    )
    sharding: str = choice(
        "auto",
        ("auto", "ddp", "fsdp"),
        doc="how several processes train one run: each a copy of the model (ddp) or a shard of it "
        "(fsdp: elementwise methods alone); auto: shards from 1e9 weights on, where it can",
    )
    compile: str = choice(
        "auto",
        ("auto", "possible", "always", "never"),
        doc="compiled optimizer steps, for the same numbers (SPAM has them): possible: where there "
        "is a compiler; always: or fail; auto: where it saves time over all runs launched together",
    )
    log_every: int = number(10, low=1, unit="steps", doc="steps between writes of metrics")
    checkpoint_every: int = number(100, low=1, unit="steps", doc="steps between checkpoints")
    checkpoints_kept: int = number(2, low=1, doc="checkpoints kept; older ones are removed")
    kept_when_done: str = choice(
        "model",
        ("whole", "model", "none"),
        doc="what a finished run keeps of its last checkpoint: all, the model's weights as "
        "safetensors, or nothing",
    )


@dataclass
class PathsConfig:
    """Where things are kept. Relative paths are relative to the working directory."""

    runs: str = text("runs", doc="run directories; also the environment variable SPAM_LAB_RUNS")
    cache: str = text("runs/.cache", doc="tokenized corpora; safe to delete")


@dataclass
class RunConfig:
    """One training, fully resolved. `identity.run_id` of it is the run's name."""

    seed: int = number(0, low=0, doc="initial weights and SPAM's random masks")
    data_seed: int = number(0, low=0, doc="order of the training data; follows seed unless given")
    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    stabilizer: StabilizerConfig = field(default_factory=StabilizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    observe: ObserveConfig = field(default_factory=ObserveConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)

    @property
    def pretrains(self) -> bool:
        """Whether it is the task that the groups model, data and stabilizer describe."""
        return self.task.name == PRETRAINING

    @property
    def batch_size(self) -> int:
        """Rows of one global step."""
        return self.task.batch_size or self.data.batch_size


@dataclass
class StudyConfig:
    """The budget of a study and how it searches; what it searches is in `sweeps/NAME.py`."""

    name: str = text("none", doc="the study in sweeps/NAME.py; none is no study")
    trials: int = number(40, low=1, doc="trials in all, those of earlier days included")
    workers: int | None = number(
        None, low=1, doc="independent workers: processes here (null: one a core) or jobs of SLURM"
    )
    sampler: str = choice(
        "tpe",
        ("tpe", "gp", "cma_es", "random", "grid", "quasi_random"),
        doc="how points are suggested",
    )
    pruner: str = choice(
        "hyperband",
        ("none", "hyperband", "successive_halving", "median"),
        doc="how hopeless trials are stopped, at evaluations; none with two objectives",
    )
    startup_trials: int = number(10, low=0, doc="random trials before tpe and median judge")
    seed: int = number(0, low=0, doc="of the sampler; trials have the study's own seed")
    diverged: str = choice(
        "worst",
        ("worst", "failed"),
        doc="what the sampler is told of a diverged trial: an infinite loss, or nothing",
    )
    storage: str = choice(
        "journal",
        ("journal", "database"),
        doc="journal: a file beside the runs; database: the address in the environment variable "
        "SPAM_LAB_STUDY_STORAGE, for many workers",
    )


@dataclass
class CommandConfig(RunConfig):
    """A command line: one run's config, and what to do with it."""

    study: StudyConfig = field(default_factory=StudyConfig)
    sweep: str | None = text(None, doc="run every cell of sweeps/NAME.py instead of one run")
    tuned: str | None = text(None, doc="a study's winners.json, set in the runs that it is for")
    dry_run: bool = flag(False, doc="print the plan and stop")
    follow: bool = flag(
        False, doc="cluster=slurm: stay and show progress; also --follow. Ctrl-C leaves the jobs"
    )


def check(config: RunConfig) -> None:
    """Refuse a config that must not run.

    Raises:
        ConfigError: naming every offending key, its value and what is allowed.
    """
    found = problems(config)
    if not found:
        found += _cross_problems(config)
        for part in (config.optimizer, config.task):
            own_check = getattr(part, "cross_problems", None)
            found += own_check() if own_check else []
    if found:
        raise ConfigError.of(found)


def _cross_problems(config: RunConfig) -> list[Problem]:
    """Violations that span several keys."""
    found = config.observe.cross_problems()
    model, data, schedule = config.model, config.data, config.schedule
    if model.hidden_size % model.num_attention_heads:
        allowed = f"a divisor of model.hidden_size={model.hidden_size}"
        found.append(Problem("model.num_attention_heads", model.num_attention_heads, allowed))
    micro = config.train.micro_batch_size
    if micro is not None and config.batch_size % micro:
        group = "data" if config.pretrains else "task"
        allowed = f"a divisor of {group}.batch_size={config.batch_size}"
        found.append(Problem("train.micro_batch_size", micro, allowed))
    if micro is not None and getattr(config.optimizer, "dropout", 0.0) > 0:
        allowed = "null wherever optimizer.dropout > 0: what is dropped depends on the micro-batch"
        found.append(Problem("train.micro_batch_size", micro, allowed))
    if schedule.warmup_steps > schedule.steps:
        allowed = f"at most schedule.steps={schedule.steps}"
        found.append(Problem("schedule.warmup_steps", schedule.warmup_steps, allowed))
    if data.source == "hub" and not data.hub_name:
        allowed = "the datasets repository (of which data.files may be a local mirror)"
        found.append(Problem("data.hub_name", None, allowed))
    if data.files and not data.validation_files:
        found.append(Problem("data.validation_files", None, "needed wherever data.files is given"))
    if config.precision.autocast and config.precision.weights != "float32":
        allowed = "float32 wherever precision.autocast=true"
        found.append(Problem("precision.weights", config.precision.weights, allowed))
    if config.precision.quantized and not config.pretrains:
        allowed = "null: of the tasks, pre-training alone quantises its layers"
        found += [
            Problem(f"precision.{key}", getattr(config.precision, key), allowed)
            for key in ("weight_bits", "activation_bits")
            if getattr(config.precision, key) is not None
        ]
    if config.observe.spikes and config.train.sharding == "fsdp":
        allowed = "auto or ddp wherever observe.spikes=true: spikes are counted in whole tensors"
        found.append(Problem("train.sharding", config.train.sharding, allowed))
    if config.pretrains and config.task.batch_size is not None:
        allowed = "null: pre-training has data.batch_size"
        found.append(Problem("task.batch_size", config.task.batch_size, allowed))
    if not config.pretrains and config.task.batch_size is None:
        found.append(Problem("task.batch_size", None, "the rows of one step"))
    return found
