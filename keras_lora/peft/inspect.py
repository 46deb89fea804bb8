"""What an adapter says of itself: a file of ours, or a PEFT folder."""

import os

from keras_lora.files import format as file_format
from keras_lora.files.format import AdapterInfo
from keras_lora.peft.folder import PeftInfo, read_folder


def inspect_adapter(path: str | os.PathLike[str]) -> AdapterInfo | PeftInfo:
    """Reads what an adapter says of itself; no tensor is loaded.

    Args:
        path: An adapter file, or a Hugging Face PEFT folder.

    Returns:
        An `AdapterInfo`, or a `PeftInfo` for a folder; `print` it, or read
        its fields. A folder that would be refused is described all the same,
        with what speaks against it as `problems`.

    Raises:
        ValueError: The file is missing, truncated, malformed, too large, no
            adapter file, or of a newer format; or a file of the folder is.

    Example:

    ```python
    base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    keras_lora.inject(base, keras_lora.LoRAConfig(rank=2))
    keras_lora.save_adapter(base, "task.safetensors")
    print(keras_lora.inspect_adapter("task.safetensors"))
    ```
    """
    if os.path.isdir(path):
        return read_folder(path)
    return file_format.inspect_adapter(path)
