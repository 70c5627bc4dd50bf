"""Dispatch to a SLURM cluster: what jobs ask for, who gets which runs, SLURM's own account of jobs,
the ledger of submissions, submission itself and what happens inside a job.

Nothing here trains: a job starts the same workers as this computer would. What was submitted is
kept in files beside the run directories, so the command that submitted may end at once.
"""
