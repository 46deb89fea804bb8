"""What tests do in another process; a fixture of `conftest.py` runs it there.

Nothing here may rely on what the process did before: counters of automatic
names, seeds and caches differ from those of the process that asks.
"""

import concurrent.futures
import multiprocessing
import sys

from tests.models import (
    KINDS,
    compile_for,
    difference,
    fit,
    outputs_of,
    values_of,
)


def new_process(initializer=None):
    """An executor whose one process starts with nothing of this one's."""
    return concurrent.futures.ProcessPoolExecutor(
        max_workers=1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=initializer,
    )


def hide_keras_lora():
    """Makes `import keras_lora` fail, as where it is not installed."""
    sys.modules["keras_lora"] = None


def outputs_of_saved_adapter(name, path):
    """Builds a kind of model again and loads an adapter into it."""
    import keras_lora

    kind = KINDS[name]
    model = kind.model(kind.base())
    keras_lora.load_adapter(model, path)
    return outputs_of(model, kind.inputs())


def predictions_of_preset(name, folder, path, texts):
    """Reads a task from its preset and loads an adapter into it."""
    import keras_lora
    from tests.presets import read_preset

    task = read_preset(name, folder)
    keras_lora.load_adapter(task, path)
    return task.predict(texts, verbose=0)


def outputs_of_plain_model(name, path):
    """Loads a `.keras` file where there is no keras_lora."""
    import keras

    if KINDS[name].needs_keras_hub:
        import keras_hub  # noqa: F401

    assert sys.modules["keras_lora"] is None
    model = keras.saving.load_model(path)
    return outputs_of(model, KINDS[name].inputs())


def error_of_loading(name, path):
    """The message of the error that loading a `.keras` file ends in."""
    import keras

    if KINDS[name].needs_keras_hub:
        import keras_hub  # noqa: F401

    try:
        keras.saving.load_model(path)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def life_of_reloaded_model(files, x, labels, frozen, ejects, is_task, eagerly):
    """Loads an adapted model from a `.keras` file and goes on with it.

    Args:
        files: The `.keras` file, and the adapter file to write.
        x, labels: A batch to go on training with.
        frozen: Numbers of the base's weights among the model's.
        ejects: Whether the base's values are known, so that it can.
        is_task: Whether the model is a KerasHub task.
        eagerly: Whether a task, which is compiled anew, is so to run eagerly.

    Returns:
        What the tests look at, by name.
    """
    import keras

    import keras_lora

    if is_task:
        import keras_hub  # noqa: F401

    model = keras.saving.load_model(files[0])
    found = {"outputs": outputs_of(model, x)}
    keras_lora.save_adapter(model, files[1])
    base = [model.weights[number] for number in frozen]
    found["base"] = values_of(base)
    trained = {id(v) for v in model.trainable_variables}
    found["frozen"] = not any(id(v) in trained for v in base)
    model.trainable = False
    model.trainable = True
    found["same_trained"] = trained == {
        id(v) for v in model.trainable_variables
    }
    if not is_task:
        found["steps"] = int(model.optimizer.iterations)
        found["losses"] = fit(model, x, labels)
    else:
        fit(compile_for(model, labels, eagerly=eagerly), x, labels)
    found["base_after_fit"] = values_of(base)
    found["moved"] = difference(found["outputs"], outputs_of(model, x))
    if ejects:
        keras_lora.eject(model)
        found["weights"] = len(model.weights)
        found["modules"] = {
            type(layer).__mro__[1].__module__
            for layer in model._flatten_layers()
        }
    return found
