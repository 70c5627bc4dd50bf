"""The record room: what a run leaves behind (`store`, `metrics`, `files`), which states it may be
in (`state`), and how run directories become MLflow's record, once (`tracking`) or live
(`watch`)."""
