"""Load the pipeline that a file defines."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, NoReturn

from pipelines.dsl import Pipeline
from pipelines.errors import ConfigError, PlanError, SitestreamError

PREFIX = "sitestream_pipeline_"  # so that a file called logging.py hides no module


class _AsItIs(SourceFileLoader):
    """Runs the text of a file, never what was compiled of it before: that is taken for the same if size and second are."""

    def path_stats(self, path: Any) -> NoReturn:
        """Says that nothing can be compared, so that no compiled file is read or written."""
        raise OSError(f"{path} is compiled each time")


def load(where: str) -> Pipeline:
    """The `Pipeline` in 'file.py' or 'file.py:variable'; errors say what is wrong with the file and where."""
    file, _, variable = where.partition(":")
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"{file}: there is no such pipeline file")
    found = {n: v for n, v in vars(_run(path)).items() if isinstance(v, Pipeline)}
    if variable:
        if variable not in found:
            raise ConfigError(f"{file} has no pipeline {variable!r}; it defines {', '.join(found) or 'none'}")
        return found[variable]
    distinct = {id(p): n for n, p in found.items()}
    if len(distinct) != 1:
        raise ConfigError(
            f"{file} defines {len(distinct) or 'no'} pipelines ({', '.join(distinct.values()) or 'none'}): "
            + ("name one as  FILE:VARIABLE" if distinct else "add a line such as  press = Pipeline('press')")
        )
    return found[distinct.popitem()[1]]


def _run(path: Path) -> object:
    if path.suffix != ".py":
        raise ConfigError(f"{path}: a pipeline file is a Python file, its name ends in .py")
    name = f"{PREFIX}{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_AsItIs(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except SitestreamError as e:
        raise PlanError(f"{path}:{_line(e, path)}: {e}") from e
    except Exception as e:
        raise PlanError(f"{path}:{_line(e, path)}: {type(e).__name__}: {e}") from e
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _line(error: BaseException, path: Path) -> int:
    """The deepest line of `path` in the traceback."""
    line, trace = getattr(error, "lineno", None) or 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
