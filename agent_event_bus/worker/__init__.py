"""Queued event processing that recovers from crashes."""
