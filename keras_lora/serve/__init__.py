"""A bank as a server: an engine, a folder that it follows, HTTP in front."""

from keras_lora.serve.answers import Prediction
from keras_lora.serve.engine import Engine
from keras_lora.serve.errors import (
    NotServing,
    QueueFull,
    RefusedAdapter,
    RefusedInput,
    UnknownAdapter,
)
from keras_lora.serve.folder import FolderWatcher, Status
