"""A method put into a model in place, and taken out again."""

from keras_lora.rewrite.adapted import Adapted as Adapted
from keras_lora.rewrite.disabled import disabled as disabled
from keras_lora.rewrite.inject import attach as attach
from keras_lora.rewrite.inject import eject as eject
from keras_lora.rewrite.inject import find_targets as find_targets
from keras_lora.rewrite.inject import inject as inject
from keras_lora.rewrite.merge import merge as merge
from keras_lora.rewrite.summary import summary as summary
