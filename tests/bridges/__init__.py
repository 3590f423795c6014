"""Tests of the bridges to other tools."""
