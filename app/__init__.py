"""The demo application: real tasks on a real base model."""

import os

# TensorFlow's notes on its own start would bury the results.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
