"""Schemas that these tests share."""

from __future__ import annotations

import numpy as np

from pipelines.schema import Col, Key, Schema


class Vibration(Schema):
    device = Key[str]()
    rms = Col[float]("mm/s")


class Motor(Schema):
    device = Key[str]()
    speed = Col[float]("1/s")
    torque = Col[np.float32]("Nm")
    starts = Col[int]()
    running = Col[bool]()
    load = Col[float]("%", absent=-1.0)
