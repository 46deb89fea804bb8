"""Processes that save or restore one bank folder; run by test_bank_folder.py.

    KERAS_BACKEND=numpy python -m tests.bank.saving PLACE NUMBER SAVES

Saves bank NUMBER so many times to PLACE, each time with other contents, and
looks at the index after each. With 0 saves it restores the bank that is there
until told to stop. Waits for a line before it begins, and prints counts as
JSON.
"""

import hashlib
import json
import sys
import tempfile
import threading
from pathlib import Path

import keras
import numpy as np
from keras import layers

import keras_lora

FILES = 4
OWN = "own"
SHARED = "shared"


def named(place):
    """The files that an index names, and its text."""
    text = (place / "bank.json").read_text()
    return text, list(json.loads(text)["adapters"].values())


def is_whole(path):
    """Whether a file is there with the content that its name has a hash of."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return False
    mark = hashlib.blake2b(data, digest_size=8).hexdigest()
    return path.stem.rpartition("-")[2] == mark


def is_broken(place):
    """Whether an index names files that are not there, and stays as it is.

    One that changes meanwhile is another process's, and read again; twice, as
    it may have changed and come back.
    """
    for _ in range(3):
        text, files = named(place)
        if all(is_whole(place / file) for file in files):
            return False
        if named(place)[0] != text:
            return is_broken(place)
    return True


def base_model():
    base = keras.Sequential([keras.Input((6,)), layers.Dense(8)])
    base.build((None, 6))
    random = np.random.default_rng(0)
    for variable in base.weights:
        variable.assign(random.normal(size=variable.shape))
    return base


def adapter_files(base, folder):
    """Files of one size whose values differ."""
    random = np.random.default_rng(1)
    files = []
    for number in range(FILES):
        model = keras_lora.inject(base, keras_lora.LoRAConfig(2))
        for variable in model.trainable_variables:
            variable.assign(random.normal(size=variable.shape))
        files.append(Path(folder) / f"{number}.safetensors")
        keras_lora.save_adapter(model, files[-1])
        keras_lora.eject(base)
    return files


def fill(bank, files, number, turn):
    """The bank's contents at a turn: the same for equal arguments."""
    first = files[(number + turn) % FILES]
    for name in (SHARED, f"{OWN}{number}", f"{OWN}{number}-{turn % 3}"):
        bank.load(name, first)
    last = f"{OWN}{number}-{(turn - 1) % 3}"
    if last in bank.names:
        bank.unload(last)


def save(place, number, saves):
    base = base_model()
    with tempfile.TemporaryDirectory() as folder:
        files = adapter_files(base, folder)
        bank = keras_lora.AdapterBank(base)
        wait()
        broken = 0
        for turn in range(saves):
            fill(bank, files, number, turn)
            bank.save(place)
            broken += is_broken(place)
    return {"saves": saves, "broken": broken}


def restore(place):
    """Restores until told to stop; each bank is one that was saved."""
    base = base_model()
    stop = threading.Event()
    wait()
    threading.Thread(target=lambda: (wait(), stop.set()), daemon=True).start()
    found = {"restores": 0, "refused": 0, "mixed": 0}
    while not stop.is_set():
        try:
            bank = keras_lora.AdapterBank.restore(base, place)
        except ValueError as error:
            print(error, file=sys.stderr)
            found["refused"] += 1
            continue
        found["restores"] += 1
        x = np.ones((1, 6), "float32")
        answers = [bank.predict(x, adapter=name) for name in bank.names]
        alike = all(np.array_equal(answers[0], a) for a in answers)
        one = len({n.partition("-")[0] for n in bank.names}) == 2
        found["mixed"] += not (alike and one and len(answers) == 3)
        bank.detach()
    return found


def wait():
    print("ready", flush=True)
    sys.stdin.readline()


def main(place, number, saves):
    place, saves = Path(place), int(saves)
    found = save(place, int(number), saves) if saves else restore(place)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
