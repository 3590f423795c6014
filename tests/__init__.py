"""Tests: a folder per wing, a file per module, and whole runs in ``end_to_end``."""
