"""Tests of whole runs, the way a user goes."""
