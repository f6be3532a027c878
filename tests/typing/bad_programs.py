"""Programs that must not type-check. The comment on a line is the code of the error that mypy must give there."""

from pipelines import agg, hopping, tumbling
from tests.typing.good import Minute, Vibration, minute, press, vibration

vibration.where(Vibration.rmss > 1)  # attr-defined
vibration.where(Vibration.rms)  # arg-type
vibration.where(Vibration.rms + 1)  # arg-type
tumbling("1m")  # call-arg
hopping("1h", late="0s")  # call-arg
minute.join(vibration, how="left")  # arg-type
minute.join(vibration.latest(), how="outer")  # arg-type
minute.window(tumbling("1m", late="0s"), Minute.mean)  # arg-type
agg.mean("rms")  # arg-type
agg.quantile(Vibration.rms)  # call-arg
press.read(Vibration)  # arg-type
minute.select(vibration)  # arg-type
minute.to("file.parquet")  # arg-type
print(Minute.meen)  # attr-defined
vibration.where((Vibration.rms > 1) & Vibration.rms)  # operator
vibration.key_by("line")  # arg-type
vibration.key_by(Vibration.rms)  # arg-type
vibration.dedupe(by=Vibration.cycles)  # call-arg
vibration.resample("1s", fill="next", late="0s", max_gap="1m")  # arg-type
vibration.union(minute)  # arg-type
