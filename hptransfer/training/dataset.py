"""The loading of the data set that a trial trains on."""

from __future__ import annotations

from hptransfer.config import RuntimeConfig, TrialConfig
from hptransfer.data import Dataset, load_data


def load_dataset(config: TrialConfig, runtime: RuntimeConfig) -> Dataset:
    """Return a trial's data set; one in a folder is read from `runtime.data_folder`.

    Raises:
        UserError: the data is not there, is broken, or its content hash is not the config's.
    """
    return load_data(config.data, runtime.data_folder)
