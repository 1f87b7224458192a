"""Without torch the reference runner says what to install."""

from __future__ import annotations

import subprocess
import sys


def test_missing_torch_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from headway.core import MissingDependencyError\n"
        "try:\n    import headway.engine.torch_eager\n"
        "except MissingDependencyError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'headway[optimize]'" in done.stdout
