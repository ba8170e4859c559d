"""Telemetry routers, and a handler that persists what they route."""
