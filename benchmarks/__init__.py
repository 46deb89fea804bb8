"""Measurements of keras_lora against other ways to do the same."""

import os

# TensorFlow reads it when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
