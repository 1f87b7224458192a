"""What holds for the whole suite."""

from __future__ import annotations

import gc

from hypothesis import settings

# On a slow or shared machine an example takes long though nothing is wrong with it.
settings.register_profile("headway", deadline=None)
settings.load_profile("headway")


def pytest_collection_finish() -> None:
    """Keep the garbage collector from going through torch again and again.

    Capturing a model allocates so much that a third of its time went into full collections of
    what stays for good.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
