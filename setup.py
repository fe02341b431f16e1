"""Builds the package with the page on properties in it, from which the health report explains its checks."""

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithDocumentation(build_py):
    """Copies the page to where ``harness.health`` looks for it."""

    def run(self) -> None:
        """Builds, and copies; an editable install reads the page where it lies."""
        super().run()
        if not self.editable_mode:
            self.copy_file("docs/properties.md", f"{self.build_lib}/harness/health/properties.md")


setup(cmdclass={"build_py": BuildWithDocumentation})
