"""diffusers, imported when a test first asks for it (it takes seconds), or the reason why there is nothing to compare with."""

import pytest


@pytest.fixture(scope="session")
def diffusers():
    return pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'sfumato[test]' brings it.")
