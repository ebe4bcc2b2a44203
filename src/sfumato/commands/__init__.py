"""One file for each command of `sfumato`; each has `main(arguments) -> exit code` and a docstring that --help prints."""
