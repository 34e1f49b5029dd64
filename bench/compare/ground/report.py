"""A run's figures in a file, with what they were made on and how."""

import json
from pathlib import Path

from ground.machine import machine

# Options that say where things lie, not what was measured.
PLACES = ("json", "html", "postlane", "directory", "against")


def report(options, **figures):
    said = {key: value for key, value in vars(options).items() if key not in PLACES}
    return {"machine": machine(), "options": said, **figures}


def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def save(options, **figures):
    """Into `options.json`; what it says."""
    said = report(options, **figures)
    write(options.json, json.dumps(said, indent=2) + "\n")
    print(f"\n{options.json}")
    return said
