"""The tests' own SLURM cluster, with the real daemons: what it promises to those who use it."""

from __future__ import annotations

from tests.slurm_cluster import Cluster


def test_a_step_runs_on_every_node_of_slurm(slurm: Cluster) -> None:
    output = slurm.run("srun", "-N3", "sh", "-c", "echo $SLURMD_NODENAME")
    assert sorted(output.split()) == ["n1", "n2", "n3"]


def test_slurm_gives_each_job_its_gpus(slurm: Cluster) -> None:
    output = slurm.run("srun", "--gres=gpu:2", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert output.split() == ["0,1"]
