"""The commands run on the tiny dataset and run of the package's tests, and on copies of its release."""

from tests.pinrec_core.conftest import dataset, one_thread, run, serving
from tests.pinrec_core.release.conftest import copies, published

__all__ = ["copies", "dataset", "one_thread", "published", "run", "serving"]
