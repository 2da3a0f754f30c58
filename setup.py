"""Which packages a wheel has: mechdiff, and the folder app as mechdiff_app. Everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["mechdiff", "mechdiff.*"]),
        "mechdiff_app",
        *(f"mechdiff_app.{name}" for name in find_packages("app")),
    ],
    package_dir={"mechdiff_app": "app"},
)
