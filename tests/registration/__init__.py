"""Tests of the map-reduce."""
