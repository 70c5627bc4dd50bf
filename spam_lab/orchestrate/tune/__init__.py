"""Studies: an Optuna search whose trials are runs, worked on by independent processes.

`space` says what may be suggested, `storage` where the study is kept (`journal`: a file), `methods`
how it searches; `claim` takes a trial, `trial` answers it, with `reports` on the way; `worker` is
the process that does both again and again, `workers` keeps them alive, `progress` sums up. No
worker waits for another, and one that is lost leaves nothing running for ever.
"""
