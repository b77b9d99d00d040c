"""The wheel holds `configs` and `analysis` in morphojax/bundled (see morphojax/shipped.py): as
packages of their own they would take two common names in site-packages.
"""

from setuptools import find_packages, setup

SHIPPED = find_packages(include=["configs*", "analysis*"])

setup(
    packages=[*find_packages(include=["morphojax*"]), *(f"morphojax.bundled.{name}" for name in SHIPPED)],
    package_dir={f"morphojax.bundled.{name}": name.replace(".", "/") for name in SHIPPED},
)
