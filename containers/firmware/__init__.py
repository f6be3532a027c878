"""Firmware as operators have it: keys, the signed repository, and campaigns over many sites. None of it is in an image."""
