"""The adapter file: its format, saving, loading and combining."""

from keras_lora.files.combine import Combination, combine
from keras_lora.files.format import AdapterInfo, inspect_adapter
from keras_lora.files.load import load_adapter
from keras_lora.files.save import save_adapter
