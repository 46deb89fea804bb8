"""What can be read of, and done to, any Keras model.

The only place that touches Keras's private parts: `surgery`.
"""

from keras_lora.model import surgery as surgery
from keras_lora.model.paths import join as join
from keras_lora.model.paths import own_variables as own_variables
from keras_lora.model.paths import structural_paths as structural_paths
