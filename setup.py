"""The package list: `passes`, `targets` and `frontends` stand at the top of the tree, install under `sdc`."""

from setuptools import find_packages, setup

ROOTS = {"sdc": "sdc", "sdc.passes": "passes", "sdc.targets": "targets", "sdc.frontends": "frontends"}

packages = [
    name
    for package, folder in ROOTS.items()
    for name in (package, *(f"{package}.{sub}" for sub in find_packages(folder)))
]

setup(
    packages=packages,
    package_dir=ROOTS,
    package_data={package: ["*.yaml", "*.txt", "*.json", "py.typed", "*.j2"] for package in packages},
)
