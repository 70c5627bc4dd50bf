"""The orchestration room: a sweep as cells (`grid`), as requested runs (`expand`), as a plan with
states and cost (`plan`), dispatched to processes (`dispatch`, `worker`, `lease`) and watched
(`status`)."""
