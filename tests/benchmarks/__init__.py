"""Benchmarks of accuracy, speed, memory and faults."""
