"""What can be read of, and done to, any Keras model.

The only place that touches Keras's private parts: `surgery`.
"""

from keras_lora.model import surgery
from keras_lora.model.paths import join, own_variables, structural_paths
