"""Tests of the displacement field and what it can do."""
