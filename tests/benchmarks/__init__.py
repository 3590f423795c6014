"""Benchmarks on real pairs."""
