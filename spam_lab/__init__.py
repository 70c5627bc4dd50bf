"""spam_lab: a laboratory for Spike-Aware Adam with Momentum Reset (SPAM).

A question about SPAM becomes a plan of runs, the plan becomes jobs, the jobs leave records, and
the records become the exhibit. Data flows one way, through the rooms in that order: `config`,
`orchestrate`, `train` (over `optim`, `models` and `data`), `record`; the exhibits live beside the
package, in `analysis`.
"""

__version__ = "0.1.0"
