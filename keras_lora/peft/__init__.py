"""Hugging Face PEFT folders: read, described and written."""

from keras_lora.peft.folder import PeftInfo
from keras_lora.peft.inspect import inspect_adapter
from keras_lora.peft.load import load_peft
from keras_lora.peft.save import save_peft
