"""The run directory's record of the environment."""

import importlib.metadata
import json

import pytest

from morphojax.train import run


def test_the_environment_of_a_source_tree_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = importlib.metadata.version

    def version(name: str) -> str:
        if name == "morphojax":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    packages = json.loads(json.dumps(run.environment()))["packages"]
    assert packages["morphojax"] is None and packages["jax"] == installed("jax")


def test_the_environment_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert run.environment()["commit"] is None
