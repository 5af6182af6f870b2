"""What every command line of this project shares: typed functions as commands, and short errors.

`run_commands` makes `python -m PACKAGE COMMAND` out of typed functions; `ShortErrors` and
`explained` are also used by the `lightning` console script in `cli.py`. Set
JSONARGPARSE_DEBUG=true to see the whole traceback behind a short message.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, auto_cli

from video.errors import DatasetError
from video.memory import keep_freed_memory

READER_LEFT = 141
"""Exit code of a command that stops because nobody reads its output, as shells count SIGPIPE."""

# Lines of jsonargparse's messages that say nothing to somebody who mistyped an option.
_EMPTY_LINES = (
    "Does not validate against any of the Union subtypes",
    "Subtypes:",
    "Errors:",
    "Expected a <class 'NoneType'>",
    "Given value type:",
    "Given value:",
    "Not a valid subclass of",
    "Subclass types expect one of:",
    "a class path (str)",
    "a dict with class_path entry",
    "a dict without class_path but with init_args entry",
    "a dict with parameters accepted by the base class",
)


class ShortErrors(ArgumentParser):
    """A parser that answers a mistake with the mistake, not with a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the shortened message and leave with exit code 2.

        Args:
            message: jsonargparse's text.
            ex: the exception behind it.
        """
        if _debugging() or not self.exit_on_error:  # an inner parser, whose caller reports
            super().error(message, ex)
        print(f"error: {shortened(message)}\nSee {self.prog_name()} --help", file=sys.stderr)
        self.exit(2)

    def prog_name(self) -> str:
        """The command as the user typed it, without argparse's "[options]"."""
        return self.prog.replace(" [options]", "")


def shortened(message: str) -> str:
    """Jsonargparse's message without the lines that only describe its type machinery."""
    lines = [
        line
        for line in message.splitlines()
        if not line.strip().removeprefix("- ").startswith(_EMPTY_LINES)
    ]
    return re.sub(r"^( *)- ", r"\1", "\n".join(lines), flags=re.MULTILINE).strip()


def run_commands(
    commands: Sequence[Callable | str], prog: str, args: Sequence[str] | None = None
) -> Any:
    """Run one of several typed functions from the command line.

    Required parameters are positional, the others are options; types and docstrings are the help,
    and `--config FILE` reads options from YAML.

    Example:
        >>> run_commands(["video.info.info"], "python -m video")  # doctest: +SKIP

    Args:
        commands: functions, or their import paths ("video.record.record"), which are imported only
            when their command, or the list of all commands, is asked for.
        prog: what the user types before the command, such as "python -m video".
        args: the words after it; those of this process by default.

    Returns:
        What the function returned.

    Raises:
        SystemExit: with code 1 after a readable message where the data cannot be used, with code 2
            where the command line cannot be understood, 141 where nobody reads what it prints.
    """
    keep_freed_memory()
    words = list(sys.argv[1:] if args is None else args)
    by_name = {_name(command): command for command in commands}
    with explained():
        if words and words[0] in by_name:
            function = _imported(by_name[words[0]])
            return auto_cli(
                function, args=words[1:], parser_class=ShortErrors, prog=f"{prog} {words[0]}"
            )
        functions = [_imported(command) for command in commands]
        return auto_cli(functions, args=words, parser_class=ShortErrors, prog=prog)


@contextmanager
def explained(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors that the user can mend into one readable message and exit code 1.

    A DatasetError behind another error counts, too: jsonargparse raises one of its own where an
    object that the command line describes cannot be made. Where nobody reads the output any more,
    as behind `| head`, it ends without a message.

    Args:
        kinds: the exceptions to explain; DatasetError and OSError by default.

    Raises:
        SystemExit: with code 1 after a message, 141 where the reader left before the end.
    """
    kinds = kinds or (DatasetError, OSError)
    try:
        yield
    except Exception as raised:
        error = raised if isinstance(raised, kinds) else _dataset_error_behind(raised)
        if error is None:
            raise
        if isinstance(error, BrokenPipeError) and _reader_left("\n"):
            raise SystemExit(READER_LEFT) from error
        if _debugging():
            raise
        name = "DatasetError" if isinstance(error, DatasetError) else "error"
        print(f"{name}: {shortened(_without_worker_traceback(str(error)))}", file=sys.stderr)
        raise SystemExit(1) from error
    finally:
        _reader_left()  # Python itself would complain, at its end, of what it could not write


def _dataset_error_behind(error: BaseException | None) -> DatasetError | None:
    """The first one among the causes of an error."""
    while error is not None and not isinstance(error, DatasetError):
        error = error.__cause__
    return error


def _reader_left(last_words: str = "") -> bool:
    """Write all that is still buffered; if nobody reads it, let all further output vanish, too."""
    try:
        sys.stdout.write(last_words)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _debugging() -> bool:
    return os.environ.get("JSONARGPARSE_DEBUG", "").lower() not in ("", "0", "false", "no")


def _name(command: Callable | str) -> str:
    return command.rpartition(".")[2] if isinstance(command, str) else command.__name__


def _imported(command: Callable | str) -> Callable:
    if not isinstance(command, str):
        return command
    module, _, name = command.rpartition(".")
    return getattr(import_module(module), name)


def _without_worker_traceback(text: str) -> str:
    """The message alone, where a DataLoader worker wrapped it in its traceback."""
    if "Original Traceback" not in text:
        return text
    return re.split(r"\n[\w.]*(?:Error|Exception): ", text)[-1].strip()
