"""One of the processes that train a model together: its number, how many there are, the port and where to write."""

import sys

import keras
import numpy as np

from keras_transformer.models import CausalLM
from keras_transformer.training import LinearCrossEntropy

ROWS, BATCH, LENGTH = 16, 8, 5


def main(process, processes, port, path):
    process, processes = int(process), int(processes)
    if processes > 1:
        keras.distribution.initialize(f"127.0.0.1:{port}", num_processes=processes, process_id=process)
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    keras.utils.set_random_seed(7)
    rng = np.random.default_rng(0)
    ids, labels = (rng.integers(1, 11, (ROWS, LENGTH)).astype("int32") for _ in range(2))
    weights = (np.arange(LENGTH) < rng.integers(1, LENGTH + 1, ROWS)[:, None]).astype("float32")
    # Of every batch each process has its own rows, and so another number of real tokens.
    own = np.arange(ROWS).reshape(-1, processes, BATCH // processes)[:, process].ravel()
    model = CausalLM(11, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=12, dropout=0.0)
    model.compile(keras.optimizers.SGD(0.5), LinearCrossEntropy())
    model.fit(
        {"token_ids": ids[own]}, labels[own], sample_weight=weights[own], batch_size=BATCH // processes, epochs=2,
        shuffle=False, verbose=0,
    )  # fmt: skip
    if process == 0:
        np.savez(path, *model.get_weights(), devices=len(keras.distribution.list_devices()))


if __name__ == "__main__":
    main(*sys.argv[1:])
