"""Every metric of the project, declared once. Base units; timestamps rather than ages; device is never a label."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, Info

_P = "sitestream_"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

# source
source_records = Counter(_P + "source_records_total", "Readings taken from devices.", ["site", "stream"])
source_errors = Counter(_P + "source_errors_total", "Readings refused or links broken.", ["site", "stream", "reason"])
source_connected = Gauge(_P + "source_connected", "1 while the link to the devices is up.", ["site", "stream"])
source_last_record = Gauge(
    _P + "source_last_record_timestamp_seconds", "When the newest reading arrived.", ["site", "stream"]
)
source_devices = Gauge(_P + "source_devices", "Devices seen since the start.", ["site", "stream"])
collect_bad = Counter(
    _P + "collect_bad_readings_total",
    "Readings of bad quality that were not passed on: their schema has no Quality column.",
    ["site", "stream"],
)
collect_suppressed = Counter(
    _P + "collect_suppressed_readings_total", "Readings not passed on by a source's conditions.", ["site", "stream"]
)
collect_dropped = Counter(
    _P + "collect_dropped_rows_total", "Readings lost because a buffer was full.", ["site", "stream", "reason"]
)
collect_missed = Counter(
    _P + "collect_missed_polls_total",
    "Polls of devices that were left out, because the connection was still busy with those before.",
    ["site", "stream"],
)
collect_http_answers = Counter(
    _P + "collect_http_answers_total", "Posts of readings, by the status that they were answered with.",
    ["site", "stream", "status"],
)  # fmt: skip
collect_stale = Gauge(
    _P + "collect_stale_devices", "Devices silent for longer than `stale` while the link is up.", ["site", "stream"]
)
collect_skew = Gauge(
    _P + "collect_clock_skew_seconds",
    "Arrival minus event time of the device for which it is furthest from 0, each at its least within minutes.",
    ["site", "stream"],
)
collect_sparkplug_gaps = Counter(
    _P + "collect_sparkplug_gaps_total", "Times that messages of an edge node were missing.", ["site", "stream"]
)
collect_sparkplug_rebirths_wanted = Gauge(
    _P + "collect_sparkplug_rebirths_wanted",
    "Edge nodes whose birth was not seen, or of which a message is missing since.",
    ["site", "stream"],
)

# Kafka
lag = Gauge(_P + "consumer_lag_records", "Frames not yet processed.", ["site", "topic", "partition"])
consumed = Counter(
    _P + "consumed_records_total",
    "Records taken from Kafka for good: data (also bad ones) or heartbeat, which only tells the time.",
    ["site", "service", "kind"],
)
broker_disk_used = Gauge(_P + "broker_disk_used_bytes", "Bytes on disk of the site's own broker.", ["site"])
broker_disk_limit = Gauge(_P + "broker_disk_limit_bytes", "What its topics are made to fit into.", ["site"])
broker_disk_free = Gauge(_P + "broker_disk_free_bytes", "Bytes that are left on its disk.", ["site"])
rebalances = Counter(_P + "rebalances_total", "Assignments received from the group.", ["site", "pipeline"])

# processing
records_in = Counter(_P + "records_in_total", "Readings that entered a pipeline.", ["site", "pipeline", "stream"])
records_out = Counter(_P + "records_out_total", "Rows written by a step.", ["site", "pipeline", "step"])
batch_rows = Histogram(
    _P + "batch_rows", "Rows computed at once.", ["site", "pipeline"], buckets=(1, 10, 100, 1e3, 1e4, 1e5, 1e6)
)
batch_duration = Histogram(
    _P + "batch_duration_seconds", "Time to compute one batch.", ["site", "pipeline"], buckets=_SECONDS
)
worker_seconds = Counter(
    _P + "worker_seconds_total", "What the worker did with its time.", ["site", "pipeline", "state"]
)
errors = Counter(_P + "errors_total", "Errors survived, by reason.", ["site", "service", "reason"])
dead_letters = Counter(
    _P + "dead_letter_records_total", "Records sent to the dead-letter topic.", ["site", "service", "reason"]
)

# time
watermark = Gauge(
    _P + "watermark_timestamp_seconds",
    "Event time up to which an input is complete.",
    ["site", "pipeline", "stream", "partition"],
)
late_records = Counter(
    _P + "late_records_total", "Readings that came after their window closed.", ["site", "pipeline", "step"]
)
windows_open = Gauge(
    _P + "windows_open", "Windows that are still open, over all keys.", ["site", "pipeline", "partition"]
)
emit_latency = Histogram(
    _P + "ingest_to_emit_latency_seconds",
    "From Kafka's arrival time of the input to the commit.",
    ["site", "pipeline"],
    buckets=_SECONDS,
)

# state
state_bytes = Gauge(_P + "state_bytes", "Memory held by a task's state.", ["site", "pipeline", "partition"])
checkpoint_duration = Histogram(
    _P + "checkpoint_duration_seconds", "Time of one transaction.", ["site", "pipeline"], buckets=_SECONDS
)
checkpoint_last = Gauge(
    _P + "checkpoint_last_success_timestamp_seconds",
    "When the newest transaction was committed.",
    ["site", "pipeline", "partition"],
)
recovery_duration = Histogram(
    _P + "recovery_duration_seconds", "From assignment to the first new record.", ["site", "pipeline"], buckets=_SECONDS
)

# sink
segments_sealed = Counter(_P + "segments_sealed_total", "Parquet segments closed.", ["site", "table", "reason"])
spool_bytes = Gauge(_P + "spool_bytes", "Bytes on disk that are not yet in the store.", ["site"])
spool_oldest = Gauge(
    _P + "spool_oldest_unsent_timestamp_seconds", "When the oldest unsent segment was sealed; 0 if none.", ["site"]
)
upload_bytes = Counter(_P + "upload_bytes_total", "Bytes the store has acknowledged.", ["site", "table"])
upload_rows = Counter(_P + "upload_rows_total", "Rows the store has acknowledged.", ["site", "table"])
upload_requests = Counter(_P + "upload_requests_total", "Requests to the store.", ["site", "result"])
upload_duration = Histogram(_P + "upload_duration_seconds", "Time of one PUT.", ["site"], buckets=_SECONDS)
uplink_up = Gauge(_P + "uplink_up", "1 while the store answers.", ["site"])

# control
commands = Counter(_P + "commands_total", "Commands by the state they reached.", ["site", "state"])
control_api_answers = Counter(
    _P + "control_api_answers_total", "Requests to control's HTTP API, by the status that they were answered with.",
    ["site", "status"],
)  # fmt: skip
control_off = Gauge(_P + "control_off", "1 while the off switch keeps every command from its device.", ["site"])
twins_different = Gauge(_P + "twins_different", "Devices whose settings are not what is desired.", ["site"])
twin_difference = Gauge(
    _P + "twin_oldest_difference_timestamp_seconds", "Since when the oldest of them is not; 0 if none.", ["site"]
)

# firmware
firmware_devices = Gauge(_P + "firmware_devices", "Devices by the state of their update.", ["site", "state"])
firmware_ends = Counter(
    _P + "firmware_updates_total", "Updates that came to an end, by the state in which.", ["site", "model", "state"]
)
firmware_bytes = Counter(
    _P + "firmware_bytes_total", "Bytes of images fetched from the mirror, or given to devices.", ["site", "way"]
)
firmware_stage = Gauge(_P + "firmware_stage", "Stage of the campaign that counts, from 0.", ["site", "model"])
firmware_quota = Gauge(
    _P + "firmware_quota", "Devices that may be lost or at risk at the same time.", ["site", "model"]
)
firmware_lost = Gauge(
    _P + "firmware_lost_devices", "Failed, rolled back or stalled in the campaign.", ["site", "model"]
)
firmware_expiry = Gauge(
    _P + "firmware_repository_expiry_timestamp_seconds", "When what is signed no longer counts.", ["site"]
)

# meta
build = Info(_P + "build", "Version of this service.")
pipeline_info = Gauge(_P + "pipeline_info", "1; which revision of a pipeline runs.", ["site", "pipeline", "revision"])
