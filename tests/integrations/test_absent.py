"""Without the library that a callback is for, its module says what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("name", "extra"), [("transformers", "transformers"), ("lightning", "lightning")])
def test_an_absent_library_is_named_with_the_way_to_it(name: str, extra: str) -> None:
    absent = f"import sys; sys.modules['{name}'] = None; import esper.integrations.{name}"
    told = subprocess.run([sys.executable, "-c", absent], capture_output=True, text=True, check=False).stderr
    assert "ImportError: esper.integrations." in told
    assert f"pip install 'esper-torch[{extra}]'" in told
