"""A method put into a model in place, and taken out again."""

from keras_lora.rewrite.adapted import Adapted
from keras_lora.rewrite.disabled import disabled
from keras_lora.rewrite.inject import attach, eject, find_targets, inject
from keras_lora.rewrite.merge import merge
from keras_lora.rewrite.summary import summary
