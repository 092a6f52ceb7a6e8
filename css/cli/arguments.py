"""What several commands do with their arguments."""

WANTS_HELP = {"-h", "--help"}


def value_of(flag: str, arguments: list[str]) -> str | None:
    """The value of a flag before the arguments are parsed; the last one counts. None if it is not given."""
    value = None
    for place, argument in enumerate(arguments):
        if argument == flag and place + 1 < len(arguments):
            value = arguments[place + 1]
        elif argument.startswith(f"{flag}="):
            value = argument.partition("=")[2]
    return value
