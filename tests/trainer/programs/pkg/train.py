"""The script, as a module."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).parent.parent / "tiny.py"), run_name="__main__")
