"""Traces: the instructions that one call of a tile executes, in order, found without the CPU that it is for.

Only integers decide where a tile jumps, and they come from its arguments and its array of numbers. So integer
instructions are followed and the vectors are ignored. An instruction that is not known here makes its result unknown;
a jump that depends on an unknown number raises ValueError.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from bench.neon.machine_code import LABEL

LONGEST = 200_000
"""Instructions of a call: more means that the interpreter went astray."""

STACK_AT = 1 << 40
WORD = 8

_REGISTER = re.compile(r"^(?:[xw]\d+|sp|xzr|wzr|x?lr)$")
_ADDRESS = re.compile(r"^(.*?),?\s*\[(\w+)(?:,\s*#(-?\w+))?\](!)?(?:,\s*#(-?\w+))?$")

_CONDITIONS: Mapping[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "hi": lambda a, b: _unsigned(a) > _unsigned(b),
    "hs": lambda a, b: _unsigned(a) >= _unsigned(b),
    "lo": lambda a, b: _unsigned(a) < _unsigned(b),
    "ls": lambda a, b: _unsigned(a) <= _unsigned(b),
    "mi": lambda a, b: a - b < 0,
    "pl": lambda a, b: a - b >= 0,
}

_OPERATIONS: Mapping[str, Callable[..., int]] = {
    "mov": lambda a: a,
    "neg": lambda a: -a,
    "add": lambda a, b: a + b,
    "adds": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "subs": lambda a, b: a - b,
    "and": lambda a, b: a & b,
    "ands": lambda a, b: a & b,
    "orr": lambda a, b: a | b,
    "eor": lambda a, b: a ^ b,
    "lsl": lambda a, b: a << b,
    "lsr": lambda a, b: _unsigned(a) >> b,
    "asr": lambda a, b: a >> b,
    "mul": lambda a, b: a * b,
    "madd": lambda a, b, c: a * b + c,
    "msub": lambda a, b, c: c - a * b,
}


def _unsigned(a: int) -> int:
    return a & (1 << 64) - 1


def _signed(a: int) -> int:
    a = _unsigned(a)
    return a - (1 << 64) if a >> 63 else a


class _Core:
    """Integer registers, memory by address, and the two numbers that were compared last."""

    def __init__(self, arguments: Sequence[int], memory: Mapping[int, int]) -> None:
        self.memory: dict[int, int | None] = dict(memory)
        self.registers: dict[str, int | None] = {"sp": STACK_AT, "xzr": 0}
        for number, value in enumerate(arguments):
            if number < 8:
                self.registers[f"x{number}"] = value
            else:  # further arguments lie on the caller's stack
                self.memory[STACK_AT + WORD * (number - 8)] = value
        self.compared: tuple[int, int] | None = None

    def read(self, operand: str) -> int | None:
        if operand.startswith("#"):
            return int(operand[1:], 0)
        name = "x" + operand[1:] if operand.startswith("w") else operand
        value = self.registers.get(name)
        return value if value is None or name == operand else value & 0xFFFFFFFF

    def write(self, operand: str, value: int | None) -> None:
        name = "x" + operand[1:] if operand.startswith("w") else operand
        if name != "xzr":
            self.registers[name] = None if value is None else _signed(value)

    def values(self, operands: Sequence[str]) -> list[int] | None:
        """The operands' values, a shifted last one included; None where one is unknown."""
        found: list[int | None] = []
        for operand in operands:
            if operand.startswith("lsl #"):
                shifted = found.pop()
                found.append(None if shifted is None else shifted << int(operand[5:], 0))
            elif _REGISTER.match(operand) or operand.startswith("#"):
                found.append(self.read(operand))
            else:
                return None
        known = [value for value in found if value is not None]
        return known if len(known) == len(found) else None

    def transfer(self, name: str, rest: str) -> None:
        """A load or store, with its changes of the base register."""
        match = _ADDRESS.match(rest)
        if match is None:  # an index register: a vector's address
            self.write(rest.split(",")[0].strip(), None)
            return
        targets = [word.strip() for word in match[1].split(",") if word.strip()]
        base = self.read(match[2])
        before = int(match[3] or "0", 0)
        address = None if base is None else base + before
        for number, target in enumerate(targets):
            at = None if address is None else address + WORD * number
            if not target.startswith("x"):
                self.write(target, None)
            elif name.startswith("ld"):
                self.write(target, None if at is None else self.memory.get(at))
            elif at is not None:
                self.memory[at] = self.read(target)
        if base is not None and match[4]:
            self.write(match[2], base + before)
        elif base is not None and match[5]:
            self.write(match[2], base + int(match[5], 0))

    def compute(self, name: str, operands: Sequence[str]) -> None:
        """An instruction on registers."""
        if name in ("cmp", "cmn", "tst"):
            known = self.values(operands)
            if known is None:
                self.compared = None
            else:
                a, b = known
                self.compared = {"cmp": (a, b), "cmn": (a, -b), "tst": (a & b, 0)}[name]
            return
        target, *sources = operands
        known = self.values(sources)
        operation = _OPERATIONS.get(name)
        self.write(target, None if known is None or operation is None else operation(*known))
        if name in ("subs", "ands", "adds"):
            if known is None:
                self.compared = None
            else:
                a, b = known
                self.compared = {"subs": (a, b), "adds": (a, -b), "ands": (a & b, 0)}[name]

    def jumps(self, name: str, operands: Sequence[str]) -> bool:
        """Whether a jump is taken. Raises ValueError where that is unknown."""
        if name == "b":
            return True
        if name.startswith("b."):
            if self.compared is not None:
                return _CONDITIONS[name[2:]](*self.compared)
        else:
            value = self.read(operands[0])
            if value is not None:
                bit = value >> int(operands[1][1:], 0) & 1 if name.startswith("tb") else value
                return (bit != 0) == name.endswith("nz")
        raise ValueError(f"a trace can't follow {name} {', '.join(operands)}: its number is unknown")


def trace(lines: Sequence[str], arguments: Sequence[int], memory: Mapping[int, int]) -> list[str]:
    """The instructions of one call, the return left out.

    ``arguments`` are 64-bit integers; ``memory`` has the 64-bit integers that the function reads, by their addresses. Raises
    ValueError where a jump depends on anything else, and for calls that do not end.
    """
    code: list[str] = []
    places: dict[str, int] = {}
    for line in lines:
        text = line.split("//")[0].strip()
        if match := LABEL.match(text):
            places[match[1]] = len(code)
        elif text and not text.startswith(".") and not text.endswith(":"):
            code.append(re.sub(r"\s+", " ", text))
    core = _Core(arguments, memory)
    done: list[str] = []
    at = 0
    while not code[at].startswith("ret"):
        text = code[at]
        at += 1
        done.append(text)
        if len(done) > LONGEST:
            raise ValueError(f"a call executed more than {LONGEST} instructions")
        name, _, rest = text.partition(" ")
        operands = [word.strip() for word in rest.split(",")]
        if name == "b" or name.startswith(("b.", "cbz", "cbnz", "tbz", "tbnz")):
            if core.jumps(name, operands):
                at = places[operands[-1]]
        elif name == "prfm":
            continue
        elif name.startswith(("ld", "st")):
            core.transfer(name, rest)
        elif _REGISTER.match(operands[0]):
            core.compute(name, operands)
    return done
