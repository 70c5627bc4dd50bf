"""The questions, as code: one file an exhibit, each with one function `sweep() -> Sweep`."""
