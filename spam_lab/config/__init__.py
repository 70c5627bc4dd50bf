"""The config room: what a run is, in types (`schema`), how a command line becomes one (`compose`),
how a scale shrinks the paper's values (`scaling`), and which runs are the same (`identity`)."""
