"""What to do about a run: one or two sentences by the cause of how it stands.

Causes are told by the words that Python, CUDA, the kernel and SLURM use for them. What is written
last wins over what SLURM says of the job, because a job may have trained other runs since.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spam_lab.orchestrate.slurm.queue import JobInfo
from spam_lab.orchestrate.truth import Condition, Truth


@dataclass(frozen=True)
class Advice:
    """What to do, and the command to type where there is one."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class Evidence:
    """What is known of a run.

    Attributes:
        truth: status and condition.
        job: SLURM's account of the job that last had it.
        text: reason, traceback and the end of what the job printed.
        config: the run's config, nested mappings; empty where it was never begun.
        launch: the command that launches it, given overrides that replace others.
        sweep: its sweep's name; empty where it has none.
    """

    truth: Truth
    job: JobInfo | None
    text: str
    config: dict[str, Any]
    launch: Callable[..., str]
    sweep: str = ""

    def says(self, pattern: str) -> bool:
        """Whether the text has it, in whatever case."""
        return re.search(pattern, self.text, re.IGNORECASE) is not None

    def value(self, group: str, key: str) -> Any:
        """A value of the config; None where it is not known."""
        return self.config.get(group, {}).get(key)

    @property
    def goes_on(self) -> str:
        """From where a launch goes on."""
        step = self.truth.status.checkpoint_step
        return f"it goes on from its checkpoint at step {step}" if step else "it begins anew"


def advice(evidence: Evidence) -> Advice:
    """What to do next about a run."""
    condition, run_id = evidence.truth.condition, evidence.truth.run_id
    if condition in (Condition.FAILED, Condition.LOST):
        return _of_failure(evidence)
    plain = {
        Condition.RUNNING: Advice("Nothing: it is being trained. Live:", "spam-lab status --watch"),
        Condition.DONE: Advice("Nothing: it has its result."),
        Condition.SILENT: Advice(
            "Wait some minutes: a slow shared folder or a stopped node may come back, and SLURM "
            "requeues the job of a node that does not. Where it stays silent, cancel and launch "
            "again:",
            f"spam-lab cancel {run_id} && {evidence.launch()}",
        ),
        Condition.STOPPED: Advice(
            f"It was stopped in good order. Launch again; {evidence.goes_on}:", evidence.launch()
        ),
        Condition.PRUNED: Advice(
            "Nothing: its study gave it up in favour of better trials. Asked for by itself or in a "
            f"sweep, {evidence.goes_on}."
        ),
        Condition.WAITING: Advice("No job and no worker holds it. Launch it:", evidence.launch()),
        Condition.DIVERGED: _of_divergence(evidence),
        Condition.QUEUED: Advice(_of_waiting(evidence)),
    }
    return plain[condition]


def _of_divergence(evidence: Evidence) -> Advice:
    rate = evidence.value("optimizer", "lr")
    lower = f"optimizer.lr={rate / 2:g} (it was {rate:g})" if rate else "a lower optimizer.lr"
    return Advice(
        "This is a result, and it is counted as one: the loss left all bounds with these settings. "
        f"For one that holds, launch another run with {lower} or more schedule.warmup_steps. To "
        "train this very one again:",
        f"spam-lab retry {evidence.truth.run_id}",
    )


_PENDING = (
    # (SLURM's reasons, what they mean)
    (r"^(Resources|Priority|None|)$", "It waits for its turn: nodes are busy with other jobs."),
    (r"JobArrayTaskLimit", "It waits for others of its array: cluster.max_jobs holds it back."),
    (r"BeginTime", "It was requeued, and SLURM lets a requeued job wait for two minutes."),
    (r"Dependency", "It waits for another job to end."),
    (
        r"PartitionTimeLimit|PartitionNodeLimit",
        "It asks for more than its partition gives and may never start: cancel it and launch again "
        "with a smaller cluster.time or another cluster.partition.",
    ),
    (
        r"ReqNodeNotAvail|PartitionDown|PartitionInactive|NodeDown|Reservation",
        "The nodes it asks for are down or reserved: wait, or cancel it and launch again with "
        "another cluster.partition or cluster.constraint.",
    ),
    (
        r"^(QOS|Assoc|MaxJobs|AssocGrp|QOSMax|QOSGrp|AssocMax)",
        "A limit of your account or quality of service holds it back: it starts when others of "
        "your jobs have ended. Where it asks for more than the limit, cancel it and ask for less.",
    ),
    (
        r"Held|requeued",
        "SLURM holds it, mostly because its last start failed: scontrol release JOB lets it go.",
    ),
)


def _of_waiting(evidence: Evidence) -> str:
    job = evidence.truth.job
    if job is None or job.state != "PENDING":
        name = f"job {job.job_id}" if job else "its job"
        return f"Nothing: {name} runs and comes to it after its other runs."
    for pattern, meaning in _PENDING:
        if re.search(pattern, job.reason):
            return meaning.replace("JOB", job.job_id)
    return f"SLURM says why it waits: {job.reason}. More: scontrol show job {job.job_id}"


def _of_failure(evidence: Evidence) -> Advice:
    for applies, tell in _CAUSES:
        if applies(evidence):
            return tell(evidence)
    if evidence.truth.condition is Condition.LOST:
        return _again("Its worker was killed.")(evidence)
    return Advice(
        "Read what is said above, mend what it names, and launch again; it is then tried again:",
        evidence.launch(),
    )


def _ended(*states: str) -> Callable[[Evidence], bool]:
    return lambda evidence: evidence.job is not None and evidence.job.state in states


def _text(pattern: str) -> Callable[[Evidence], bool]:
    return lambda evidence: evidence.says(pattern)


def _either(*tests: Callable[[Evidence], bool]) -> Callable[[Evidence], bool]:
    return lambda evidence: any(test(evidence) for test in tests)


def _gpu_memory(evidence: Evidence) -> Advice:
    smaller = _smaller_micro_batch(evidence)
    if smaller is None:
        return Advice(
            "The GPU's memory is too small even for one sequence at a time: take one with more "
            "(cluster.constraint), or shard the run over several:",
            evidence.launch("cluster.gpus=2", "train.sharding=fsdp"),
        )
    return Advice(
        "The GPU's memory is too small. Smaller micro-batches need less of it and give the same "
        "run; or train fewer runs at a time (cluster.side_by_side=1):",
        evidence.launch(smaller),
    )


def _memory(evidence: Evidence) -> Advice:
    smaller = _smaller_micro_batch(evidence)
    also = f", or smaller micro-batches ({smaller})" if smaller else ""
    if not evidence.truth.status.job:
        return Advice(
            f"This computer's memory was too small. Train one run at a time{also}:",
            evidence.launch("cluster.workers=1"),
        )
    known = evidence.value("cluster", "memory")
    was = f"{known:g} GB" if known else "the site's default"
    return Advice(
        f"Its job's memory ({was}) was too small. Ask for more{also}:",
        evidence.launch(f"cluster.memory={2 * known if known else 32:g}"),
    )


def _smaller_micro_batch(evidence: Evidence) -> str | None:
    """Half of the micro-batch, as far as that divides the batch; None where it is 1 already."""
    batch = evidence.value("data", "batch_size")
    now = evidence.value("train", "micro_batch_size") or batch
    if not batch or now == 1:
        return None
    half = next(size for size in range(now // 2, 0, -1) if batch % size == 0)
    return f"train.micro_batch_size={half}"


def _again(why: str) -> Callable[[Evidence], Advice]:
    """What needs no mending."""
    return lambda evidence: Advice(f"{why} Launch again; {evidence.goes_on}:", evidence.launch())


def _time(evidence: Evidence) -> Advice:
    minutes = evidence.value("cluster", "time") or 240
    return Advice(
        f"Its job's time was up before it could be requeued. Launch again, with longer jobs; "
        f"{evidence.goes_on}:",
        evidence.launch(f"cluster.time={2 * minutes}"),
    )


def _vanishing(evidence: Evidence) -> Advice:
    smaller = _smaller_micro_batch(evidence)
    return Advice(
        "Its workers vanish without a word, which is mostly memory that runs out. Try with less:",
        evidence.launch(*([smaller] if smaller else [])),
    )


_CAUSES: tuple[tuple[Callable[[Evidence], bool], Callable[[Evidence], Advice]], ...] = (
    (_text(r"CUDA out of memory|CUDA error: out of memory|OutOfMemoryError: CUDA"), _gpu_memory),
    (
        _either(
            _ended("OUT_OF_MEMORY"),
            _text(
                r"oom.?kill|out of memory|Cannot allocate memory|not enough memory|MemoryError|"
                r"exceeded memory limit|Exceeded job memory"
            ),
        ),
        _memory,
    ),
    (
        _text(r"No space left on device|Disk quota exceeded|disk is full"),
        _again(
            "The disk is full, or your quota is. Make room: df -h shows how much there is; "
            "checkpoints of runs that are done may go (train.kept_when_done=none keeps none)."
        ),
    ),
    (_ended("NODE_FAIL", "BOOT_FAIL"), _again("Its node failed; the run is not to blame.")),
    (
        _either(_ended("PREEMPTED"), _text(r"DUE TO PREEMPTION")),
        _again("Its job had to make room for another one."),
    ),
    (_either(_ended("TIMEOUT", "DEADLINE"), _text(r"DUE TO TIME LIMIT")), _time),
    (_ended("CANCELLED"), _again("Its job was cancelled.")),
    (_text(r"DUE TO NODE FAILURE"), _again("Its node failed; the run is not to blame.")),
    (_text(r"CANCELLED AT|was cancelled"), _again("Its job was cancelled.")),
    (_text(r"workers in a row vanished|its worker died"), _vanishing),
    (
        _text(r"NCCL|CUDA error|no CUDA-capable device|CUDA driver|No CUDA GPUs"),
        _again("The GPU or its driver failed. See that spam-lab doctor finds it well there."),
    ),
    (
        _text(
            r"ConnectionError|Max retries|name resolution|Connection (refused|reset)|HfHub|"
            r"ReadTimeout|offline mode"
        ),
        _again(
            "The data could not be fetched. See to the network, or give data.files on this disk."
        ),
    ),
    (
        _text(r"Permission denied|Read-only file system"),
        _again("A file may not be written or read. Mend its owner or mode (spam-lab doctor)."),
    ),
    (
        _text(r"No such file or directory|ModuleNotFoundError|ImportError"),
        _again("Something that it needs is not there on its node. Put it there."),
    ),
)
