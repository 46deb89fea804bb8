"""What cannot change is computed once: a model in two parts."""

from keras_lora.split.beside import Place, Stage, called_apart
from keras_lora.split.dataset import Precomputed
from keras_lora.split.precompute import precompute
from keras_lora.split.split import cut_before, split
