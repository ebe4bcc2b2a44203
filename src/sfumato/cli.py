"""`sfumato COMMAND ...`: finds the command's file and speaks plainly when something is wrong."""

import importlib
import keyword
import os
import re
import sys

COMMANDS = {
    "train": "train a model on images; the same command again resumes",
    "sample": "draw pictures from a trained model",
    "show": "pictures to teach with: noise, schedules, losses, denoising",
    "compare": "runs beside each other on one page",
    "launch": "train on a cluster that Slurm runs",
    "inspect": "look at images before training on them",
    "evaluate": "measure how good a model is",
    "doctor": "find out why samples are bad",
    "features": "train the network by whose features images are compared",
    "recipes": "list the recipes",
    "cache": "list or clear what is kept to be faster the next time",
    "import": "make a run of published weights",
}

_HELP = "Usage: sfumato COMMAND ...\n\n" + "\n".join(f"  {name:10}{text}" for name, text in COMMANDS.items())
_HELP += "\n\nsfumato COMMAND --help says more. Start with: sfumato train digits\n"


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0, or 2 for what the person who typed it can mend."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in arguments
    arguments = [word for word in arguments if word != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_HELP)
        return 0
    if arguments[0] in ("--version", "-V"):
        from . import __version__

        sys.stdout.write(f"sfumato {__version__}\n")
        return 0
    from .errors import UserError, unknown

    try:
        if arguments[0] not in COMMANDS:
            raise unknown("command", arguments[0], COMMANDS)
        file = arguments[0] + "_" * keyword.iskeyword(arguments[0])
        return importlib.import_module(f".commands.{file}", __package__).main(arguments[1:])
    except BrokenPipeError:  # whoever read the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return 130
    except (UserError, OSError) as error:
        if debug:
            raise
        said = str(error) if isinstance(error, UserError) else f"{error.filename or 'A file'} cannot be used: {error.strerror}."
        sys.stderr.write(re.sub(r"^\w+(?= does not fit: )", _flag, said) + "\n")
        return 2


def _flag(field: re.Match[str]) -> str:
    """A setting as it is typed here, where messages name it as it is called in Python."""
    return "--" + field[0].replace("_", "-")
