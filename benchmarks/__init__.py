"""Benchmarks of agent_event_bus beside the field's other in-process buses.

`python -m benchmarks` runs all suites and fills the tables of docs/performance.md, each suite has a
module of its own, and `python -m benchmarks.instructions --check` counts instructions.
"""
