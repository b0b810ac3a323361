"""The commands run on the tiny dataset and run of the package's tests."""

from tests.pinrec_core.conftest import dataset, one_thread, run, serving

__all__ = ["dataset", "one_thread", "run", "serving"]
