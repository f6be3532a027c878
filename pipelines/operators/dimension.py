"""Look-up: each row with the row of its key in a dimension, whose content stays as it is for the life of a task."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.batch import Batch
from pipelines.operators.fetch import Fetch
from pipelines.operators.flow import Env, Flow, Stateless
from pipelines.plan import LookupSpec


class Lookup(Stateless):
    """Adds the dimension's columns; the row of each key is looked up once, when the key is new."""

    def __init__(self, spec: LookupSpec, right: Mapping[str, str], content: Batch, env: Env) -> None:
        """`right`: dtypes of the columns that the result gets, by qualified name. `content` has one row for each key."""
        self.spec, self._names, self._content = spec, env.names, content
        self._fetch = Fetch(right, spec.fill)
        self._keys = content.names.take(pa.array(content.codes))
        self._row = np.empty(0, np.int64)  # of the content, by slot; −1: none

    def process(self, *inputs: Flow) -> Flow:
        """See `Operator.process`."""
        flow = inputs[0]
        names = self._names()
        if len(names) > len(self._row):
            new = pc.index_in(names.slice(len(self._row)), value_set=self._keys).fill_null(-1)
            self._row = np.append(self._row, new.to_numpy().astype(np.int64))
        at = self._row[flow.batch.codes]
        if self.spec.how == "inner" and not (found := at >= 0).all():
            flow, at = flow.take(found), at[found]
        return flow.with_columns({**flow.batch.columns, **self._fetch(self._content.columns, at)})
