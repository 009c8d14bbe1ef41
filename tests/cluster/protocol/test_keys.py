"""Key files: what ZeroMQ could not use is refused where it is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fogconv.cluster.protocol.keys import KEY_CHARACTERS, read_keys, write_keys
from fogconv.errors import InputError

TOO_LARGE = "#" * KEY_CHARACTERS
"""Characters of a key, and a number that does not fit: five characters hold four bytes and a little more."""


@pytest.mark.parametrize("name", ["key", "masters", "workers"])
def test_a_key_whose_number_does_not_fit_is_no_key(tmp_path: Path, name: str) -> None:
    pair = write_keys(tmp_path)
    content = {"key": f"{pair.public}\n{TOO_LARGE}\n", "masters": f"{TOO_LARGE}\n", "workers": f"* {TOO_LARGE}\n"}[name]
    (tmp_path / name).write_text(content)
    (tmp_path / name).chmod(0o600)
    with pytest.raises(InputError, match="this is not a key"):
        read_keys(tmp_path)


def test_the_refusal_of_a_file_that_the_group_may_write_says_what_to_type(tmp_path: Path) -> None:
    """With umask 002, which many systems have, an editor makes such files."""
    pair = write_keys(tmp_path)
    before = os.umask(0o002)
    try:
        (tmp_path / "masters").write_text(f"{pair.public}\n")
    finally:
        os.umask(before)
    with pytest.raises(InputError, match=f"chmod g-w {tmp_path / 'masters'}"):
        read_keys(tmp_path)
    (tmp_path / "masters").chmod(0o646)
    with pytest.raises(InputError, match=f"chmod o-w {tmp_path / 'masters'}"):
        read_keys(tmp_path)
    (tmp_path / "masters").chmod(0o644)
    assert read_keys(tmp_path).masters == {pair.public}
