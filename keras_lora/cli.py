"""The command `keras-lora`: inspect, merge, serve, PEFT in and out."""

import argparse
import sys
import tempfile
from pathlib import Path

from keras_lora.files import format as file_format
from keras_lora.files.regular import open_regular
from keras_lora.peft.inspect import inspect_adapter
from keras_lora.serve.command import serve
from keras_lora.serve.options import add_arguments

BASE = "the base: a .keras file, or a KerasHub preset's or checkpoint's folder"


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
    bring = commands.add_parser("import", help="write a PEFT folder as a file")
    bring.add_argument("base", type=Path, help=BASE)
    bring.add_argument("folder", type=Path, help="a PEFT folder")
    bring.add_argument(
        "-o", "--output", type=Path, required=True, help="a new adapter file"
    )
    send = commands.add_parser("export", help="write a file as a PEFT folder")
    send.add_argument("base", type=Path, help=BASE)
    send.add_argument("file", type=Path, help="an adapter file")
    send.add_argument(
        "-o", "--output", type=Path, required=True, help="a new PEFT folder"
    )
    send.add_argument(
        "--prefix", default="", help='before names, such as "transformer."'
    )
    send.add_argument("--base-model", default="", help="the base's name")
    send.add_argument("--task-type", help="such as CAUSAL_LM")
    add_arguments(
        commands.add_parser(
            "serve", help="answer requests by HTTP", allow_abbrev=False
        )
    )
    for command in (bring, send):
        command.add_argument(
            "--no-head",
            dest="head",
            action="store_false",
            help="leave out what was trained outside of the base",
        )
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "serve":
            return serve(chosen)
        print(run(chosen))
    except (ValueError, OSError) as error:
        print(f"keras-lora: {error}", file=sys.stderr)
        return 1
    return 0


def run(chosen: argparse.Namespace) -> str:
    """Does what a command line says; gives what it prints."""
    if chosen.command == "inspect":
        return str(inspect_adapter(chosen.file))
    if chosen.command == "merge":
        return merge_files(chosen.base, chosen.file, chosen.output)
    from keras_lora.peft.convert import export_file, import_folder

    if chosen.command == "import":
        return import_folder(
            chosen.base, chosen.folder, chosen.output, chosen.head
        )
    return export_file(
        chosen.base,
        chosen.file,
        chosen.output,
        chosen.head,
        prefix=chosen.prefix,
        base_model=chosen.base_model,
        task_type=chosen.task_type,
    )


def merge_files(base: Path, file: Path, output: Path) -> str:
    """Merges an adapter and its head into a base; says what was written.

    Args:
        base: A `.keras` file, the bare base or an outer model with a head.
        file: An adapter file.
        output: The `.keras` file to write.
    """
    import keras

    from keras_lora.files.load import load_adapter
    from keras_lora.model import graphs
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
        inputs = graphs.graph_inputs(model)
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
