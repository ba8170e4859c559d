"""Benchmarks of agent_event_bus; run one as a module, such as `python -m benchmarks.emit`."""
