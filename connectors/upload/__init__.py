"""The upload service: rows of every step with a Parquet sink, from Kafka to files in the site's store, each exactly once.

A *segment* is a stretch of offsets of one topic-partition. Kafka is the spool of what is not sealed into files yet, the disk of
what is; the offset is committed when the store has the files and their manifest (`steps` has the protocol, `service` runs it).
"""
