"""Plugin files: Python that registers more parts. Importing one runs it."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from genobj.registry import reason


def load_plugins(files: Any) -> None:
    """Import Python files that register parts, each once. ValueError names one that cannot be imported."""
    for file in files if isinstance(files, list) else []:
        path = Path(str(file)).resolve()
        name = f"genobj_plugin_{path.stem}"
        if getattr(sys.modules.get(name), "__file__", None) == str(path):
            continue
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise ValueError(f"--plugin {file}: there is no such Python file")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise ValueError(f"--plugin {file} cannot be imported: {reason(error)}") from error
