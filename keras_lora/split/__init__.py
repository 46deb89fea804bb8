"""What cannot change is computed once: a model in two parts."""

from keras_lora.split.split import split
