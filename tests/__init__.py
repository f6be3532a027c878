"""Tests, from pure functions to crashes of real parts."""
