"""Tests of whole registrations."""
