"""The same windows by other stream processors, on the same topics."""
