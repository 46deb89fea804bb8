"""A pickle's values, read step by step: nothing that it names is run.

Python's own reader imports and calls what a pickle names. This one knows the
few steps that numbers, texts, lists, dicts and torch's tensors take, and
refuses every other.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

PLAIN = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class PickleError(ValueError):
    """A pickle that takes a step or names a thing that it may not."""


@dataclass(frozen=True)
class Name:
    """A thing that a pickle names, and what stands for it."""

    name: str
    call: Callable[..., Any] | None


class PickleReader:
    """Reads one pickle.

    Args:
        names: What the pickle may name, as `module.name`, and what is called
            in its place; None for what is only handed on.
        persistent: Called with what the pickle says of a thing that lies
            outside of it.
    """

    def __init__(
        self,
        names: Mapping[str, Callable[..., Any] | None],
        persistent: Callable[[Any], Any],
    ) -> None:
        self.names, self.persistent = names, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def read(self, file: IO[bytes]) -> Any:
        """The value; `file` stands behind the pickle then.

        Raises:
            PickleError: The pickle is refused, or damaged.
        """
        try:
            for step, argument, _ in pickletools.genops(file):
                if step.name == "STOP":
                    (value,) = self.stack
                    return value
                self.take(step.name, argument)
        except PickleError:
            raise
        except (LookupError, TypeError, ValueError) as error:
            raise PickleError(
                f"a pickle is damaged ({type(error).__name__})"
            ) from error

    def take(self, step: str, argument: Any) -> None:
        """Does one step."""
        stack = self.stack
        match step:
            case "PROTO":
                pass
            case _ if step in PLAIN:
                stack.append(argument)
            case _ if step in CONSTANTS:
                stack.append(CONSTANTS[step])
            case _ if step in TUPLES:
                stack.append(tuple(self.top(len(stack) - TUPLES[step])))
            case "TUPLE":
                stack.append(tuple(self.top(self.marks.pop())))
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "MARK":
                self.marks.append(len(stack))
            case "APPEND" | "SETITEM":
                self.fill(self.top(len(stack) - 1 - (step == "SETITEM")))
            case "APPENDS" | "SETITEMS":
                self.fill(self.top(self.marks.pop()))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(self.named(argument.replace(" ", ".")))
            case "BINPERSID":
                stack.append(self.persistent(stack.pop()))
            case "REDUCE":
                name, arguments = self.top(len(stack) - 2)
                stack.append(self.called(name, arguments))
            case "BUILD":  # attributes of an OrderedDict; nobody reads them
                value, _ = self.top(len(stack) - 2)
                stack.append(value)
            case _:
                raise PickleError(f"a pickle takes the step {step}")

    def top(self, start: int) -> list[Any]:
        """Takes what is on the stack from `start` on."""
        if not 0 <= start <= len(self.stack):
            raise PickleError("a pickle takes what it has not put down")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def fill(self, values: list[Any]) -> None:
        """Puts values into the list or dict that is on top."""
        into = self.stack[-1]
        if isinstance(into, list):
            into += values
            return
        keys = values[::2]
        if not isinstance(into, dict) or not all(
            isinstance(key, str) for key in keys
        ):
            raise PickleError("a pickle has a key that is no text")
        into.update(zip(keys, values[1::2], strict=True))

    def named(self, name: str) -> Name:
        """What stands for a thing that the pickle names."""
        if name not in self.names:
            raise PickleError(f"a pickle asks for {name}, which is no tensor")
        return Name(name, self.names[name])

    def called(self, name: Any, arguments: Any) -> Any:
        """What is made in the place of a call."""
        if not isinstance(name, Name) or name.call is None:
            raise PickleError("a pickle calls what cannot be called")
        return name.call(*arguments)
