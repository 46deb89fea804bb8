"""The adapter file: its format, saving, loading and combining."""

from keras_lora.files.combine import Combination as Combination
from keras_lora.files.combine import combine as combine
from keras_lora.files.format import AdapterInfo as AdapterInfo
from keras_lora.files.format import inspect_adapter as inspect_adapter
from keras_lora.files.load import load_adapter as load_adapter
from keras_lora.files.save import save_adapter as save_adapter
