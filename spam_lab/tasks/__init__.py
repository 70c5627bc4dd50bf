"""The tasks room: what a run trains on, what it is trained for and how it is judged.

A task is one module here and one YAML in conf/task/: a subclass of `TaskConfig` and a function that
opens it, under `@task`. The loop, the optimizers, the plan, dispatch and the record know nothing of
any of them. It promises that the registry loads no torch, and that a task continues exactly from
its state.
"""
