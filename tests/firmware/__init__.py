"""Firmware: what is signed, who gets it when, and how a device takes it."""
