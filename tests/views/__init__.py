"""Tests of pictures, reports and viewers."""
