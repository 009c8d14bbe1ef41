"""A hostfile reads the same for mpirun and for fogconv, and a bad line is named by its number."""

from __future__ import annotations

from pathlib import Path

import pytest

from fogconv.errors import TopologyError
from fogconv.hardware.hostfile import Host, parse_hostfile, read_hostfile

EXAMPLE = Path(__file__).parents[2] / "hostfile.example"


def test_hosts_come_in_the_files_order_with_the_settings_of_the_comment_above() -> None:
    text = "# a comment\n\n#fogconv port=5555 rate=2\nmaster.local\n  10.0.0.2:3  \n# fogconv rate=0.5\n10.0.0.3\n"
    assert parse_hostfile(text) == (
        Host("master.local", 1, 5555, 2.0, 4),
        Host("10.0.0.2", 3, None, None, 5),
        Host("10.0.0.3", 1, None, 0.5, 7),
    )
    assert [host.tier for host in parse_hostfile("#fogconv tier=edge port=5556\na\nb\n")] == ["edge", None]


def test_the_example_is_valid_and_keeps_to_what_mpich_takes() -> None:
    hosts = read_hostfile(EXAMPLE)
    assert len(hosts) == 5
    assert [host.port for host in hosts] == [5555, 5555, 5555, 5555, 5556]
    for line in EXAMPLE.read_text().splitlines():
        if line and not line.startswith("#"):
            assert "#" not in line and "=" not in line and " " not in line


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a slots=2", 1, "host:SLOTS"),
        ("a\nb # trailing", 2, "line of its own"),
        ("a\nb#x", 2, "line of its own"),
        ("a b", 1, "neither a host"),
        ("a:0", 1, "whole number"),
        ("a:", 1, "whole number"),
        ("a:-1", 1, "whole number"),
        ("a:1.5", 1, "whole number"),
        ("a:²", 1, "whole number"),
        ("a:5555", 1, "port=5555"),
        ("\n#fogconv speed=1\na", 2, "not known"),
        ("#fogconv port\na", 1, "not known"),
        ("#fogconv port=x\na", 1, "whole number"),
        ("#fogconv port=70000\na", 1, "65535"),
        ("#fogconv port=1 port=2\na", 1, "twice"),
        ("#fogconv tier=fog\na", 1, "it is device, edge or cloud"),
        ("#fogconv tier=edge tier=edge\na", 1, "twice"),
        ("#fogconv rate=0\na", 1, "positive"),
        ("#fogconv rate=-1\na", 1, "positive"),
        ("#fogconv rate=nan\na", 1, "positive"),
        ("#fogconv rate=inf\na", 1, "positive"),
        ("a\n#fogconv port=1", 2, "no host after it"),
        ("#fogconv port=1\n#fogconv port=2\na", 2, "no host after it"),
        ("#fogconv port=1\na\n#fogconv port=1\na", 4, "line 2"),
        ("#fogconv port=1\na:3\n#fogconv port=3\nA", 4, "port 3 is listed already in line 2"),
        ("a:" + 5000 * "1", 1, "is over 65535"),
        ("#fogconv port=" + 5000 * "1" + "\na", 1, "is over 65535"),
        ("#fogconv rate=" + 5000 * "1" + "\na", 1, "positive"),
        ("#fogconv rate=1e-320\na", 1, "between"),
        ("#fogconv port=65535\na:2", 2, "ports over 65535"),
        ("b\n" + 300 * "a", 2, "no host"),
        ("10.0.0.256", 1, "four numbers"),
    ],
)
def test_a_bad_line_is_named(text: str, line: int, says: str) -> None:
    with pytest.raises(TopologyError, match=rf"line {line}: ") as caught:
        parse_hostfile(text)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_a_file_without_hosts_is_refused(text: str) -> None:
    with pytest.raises(TopologyError, match="no host"):
        parse_hostfile(text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="nowhere"):
        read_hostfile(tmp_path / "nowhere")
    with pytest.raises(TopologyError, match="can't be read"):
        read_hostfile(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TopologyError, match="not a text file"):
        read_hostfile(tmp_path / "binary")


@pytest.mark.parametrize("line", ["pi1:" + "1" * 5000, "#fogconv port=" + "9" * 5000 + "\npi1"])
def test_a_number_of_thousands_of_digits_is_refused_in_a_sentence(line: str) -> None:
    with pytest.raises(TopologyError, match="line 1") as refused:
        parse_hostfile(line)
    assert len(str(refused.value)) < 300
