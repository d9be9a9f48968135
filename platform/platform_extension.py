"""The platform's Jinja extension: the service's, for the questions beside this file."""

from importlib.util import module_from_spec
from importlib.util import spec_from_file_location
from pathlib import Path

SHARED = Path(__file__).resolve().parents[1] / "template_extension.py"

specification = spec_from_file_location(__name__, SHARED)
if specification is None or specification.loader is None:
    raise ImportError(f"{SHARED} cannot be loaded")
shared = module_from_spec(specification)
shared.__file__ = __file__  # beside which it looks for cookiecutter.json and hooks
specification.loader.exec_module(shared)

TemplateExtension = shared.TemplateExtension
