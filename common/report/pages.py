"""HTML pages that are self-contained: one file with all its images."""

from __future__ import annotations

import base64
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader

from common.atomic import READABLE


def render(template: str, **values: Any) -> bytes:
    """Render a template of common/report/templates as bytes; values are escaped, for they come from users."""
    environment = Environment(
        loader=FunctionLoader(_source), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data_uri"] = _data_uri
    return environment.get_template(template).render(values).encode(*READABLE)


def _source(name: str) -> str:
    # resources and not paths, because the project may run from a zip
    return resources.files("common.report").joinpath("templates", name).read_text("utf-8")


def _data_uri(image: bytes) -> str:
    kind = "png" if image.startswith(b"\x89PNG") else "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
