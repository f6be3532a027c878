"""The same pipeline over history: Parquet or CSV in, Parquet out, in bounded memory, to be broken off and taken up again."""
