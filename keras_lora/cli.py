"""`keras-lora inspect FILE` and `keras-lora merge BASE FILE -o OUT`."""

import argparse
import sys
import tempfile
from pathlib import Path

from keras_lora.files import format as file_format
from keras_lora.files.regular import open_regular
from keras_lora.peft.inspect import inspect_adapter


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; the exit code is 1 where it was refused."""
    parser = argparse.ArgumentParser(prog="keras-lora", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("inspect", help="say what an adapter holds")
    show.add_argument(
        "file", type=Path, help="an adapter file or a PEFT folder"
    )
    fold = commands.add_parser("merge", help="write a base with its adapter")
    fold.add_argument("base", type=Path, help="the base, a .keras file")
    fold.add_argument("file", type=Path, help="an adapter file")
    fold.add_argument(
        "-o", "--output", type=Path, required=True, help="a new .keras file"
    )
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "inspect":
            print(inspect_adapter(chosen.file))
        else:
            print(merge_files(chosen.base, chosen.file, chosen.output))
    except (ValueError, OSError) as error:
        print(f"keras-lora: {error}", file=sys.stderr)
        return 1
    return 0


def merge_files(base: Path, file: Path, output: Path) -> str:
    """Merges an adapter and its head into a base; says what was written.

    Args:
        base: A `.keras` file, the bare base or an outer model with a head.
        file: An adapter file.
        output: The `.keras` file to write.
    """
    import keras

    from keras_lora.files.load import load_adapter
    from keras_lora.model import surgery
    from keras_lora.rewrite.merge import merge

    if output.suffix != ".keras":
        raise ValueError(f"{output}: the output must end in .keras")
    info = file_format.inspect_adapter(file)
    try:
        open_regular(base).close()
        model = keras.saving.load_model(base, compile=False)
    except Exception as error:  # Keras raises what the config leads it to
        raise ValueError(f"{base} was not read: {error}") from error
    try:
        load_adapter(model, file)
    except ValueError:
        if info.head is None or info.outside:
            raise
        load_adapter(model, file, head=False)
        head = info.build_head()
        outputs = keras.tree.flatten(getattr(model, "outputs", None) or [])
        number = info.head["input"]
        if number >= len(outputs):
            raise ValueError(
                f"{base}: has no output {number} to put the head on; "
                "give the outer model"
            ) from None
        merge(model)
        inputs = surgery.graph_inputs(model)
        model = keras.Model(inputs, head(outputs[number]))
    else:
        merge(model)
    prefix = f".{output.stem}."
    with tempfile.TemporaryDirectory(prefix=prefix, dir=output.parent) as work:
        part = Path(work) / output.name
        model.save(part)
        part.replace(output)
    return f"{output}: {output.stat().st_size:,} bytes"


if __name__ == "__main__":
    sys.exit(main())
