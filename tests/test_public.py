"""The names of `import genobj`, and that asking for none of them is cheap."""

import pytest

import genobj


@pytest.mark.parametrize("name", genobj.__all__)
def test_public_names_are_there(name: str) -> None:
    assert getattr(genobj, name).__doc__


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = genobj.Trainer
